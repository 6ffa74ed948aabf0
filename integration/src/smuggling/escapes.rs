//! How bytes are written in a corpus: `\r`, `\n`, `\t`, `\\`, `\{`, `\}`, `\xHH` stand for one byte, `{N*TEXT}` for TEXT
//! N times, `{cut}` for a moment after which the rest is sent, `{close}` at the end for a sender that ends then.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};

/// What one side says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteScript {
    /// The parts, each sent a moment after the one before.
    pub parts: Vec<Vec<u8>>,
    /// It ends its connection then.
    pub closes: bool,
}

impl ByteScript {
    /// Reads it as it is written.
    pub fn read(text: &str) -> Result<Self> {
        let mut script = Self {
            parts: vec![Vec::new()],
            closes: false,
        };
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            ensure!(!script.closes, "there is more behind {{close}}");
            let is_word = letter == '{';
            if let Some(after) = rest.strip_prefix("{cut}") {
                script.parts.push(Vec::new());
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix("{close}") {
                script.closes = true;
                rest = after;
                continue;
            }
            let part = script.parts.last_mut().context("no part")?;
            rest = if is_word {
                repeated(rest, part)?
            } else {
                one(rest, part)?
            };
        }
        Ok(script)
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        self.parts.concat()
    }
}

/// Reads `{N*TEXT}` at the beginning; what is behind it.
fn repeated<'a>(text: &'a str, to: &mut Vec<u8>) -> Result<&'a str> {
    let inner = text.strip_prefix('{').context("no brace")?;
    let (count, mut rest) = inner.split_once('*').context("a brace without a number")?;
    let count: usize = count.parse().context("a brace without a number")?;
    let mut once = Vec::new();
    loop {
        match rest.chars().next() {
            None => bail!("a brace that does not end"),
            Some('}') => break,
            Some(_) => rest = one(rest, &mut once)?,
        }
    }
    ensure!(count * once.len() <= 4 << 20, "{count} times is too much");
    to.extend(once.repeat(count));
    Ok(rest.strip_prefix('}').unwrap_or(rest))
}

/// Reads one byte, or one letter; what is behind it.
fn one<'a>(text: &'a str, to: &mut Vec<u8>) -> Result<&'a str> {
    let mut letters = text.chars();
    let letter = letters.next().context("nothing is there")?;
    if letter != '\\' {
        to.extend(letter.to_string().as_bytes());
        return Ok(letters.as_str());
    }
    let named = letters.next().context("a backslash at the end")?;
    let rest = letters.as_str();
    to.push(match named {
        'r' => b'\r',
        'n' => b'\n',
        't' => b'\t',
        '\\' | '{' | '}' => u8::try_from(named)?,
        'x' => {
            let digits = rest.get(..2).context("\\x needs two digits")?;
            to.push(u8::from_str_radix(digits, 16).context("\\x needs two digits")?);
            return Ok(rest.get(2..).unwrap_or_default());
        }
        _ => bail!("\\{named} stands for nothing"),
    });
    Ok(rest)
}

/// Bytes as people can read them, in at most so many letters.
pub fn shown(bytes: &[u8], at_most: usize) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if text.len() > at_most {
            let _ = write!(text, "… ({} bytes more)", bytes.len() - index);
            break;
        }
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_stands_for_bytes() {
        let table: [(&str, &[&[u8]]); 6] = [
            ("a b", &[b"a b"]),
            (r"\r\n\t\\\{\}\x00\xff", &[b"\r\n\t\\{}\x00\xff"]),
            ("{3*ab}c", &[b"abababc"]),
            (r"{2*\x41\r}", &[b"A\rA\r"]),
            ("a{cut}b", &[b"a", b"b"]),
            ("", &[b""]),
        ];
        for (text, wanted) in table {
            assert_eq!(ByteScript::read(text).unwrap().parts, wanted, "{text}");
        }
        assert!(ByteScript::read("a{close}").unwrap().closes);
        for text in ["\\", "\\q", "\\x4", "{3*a", "{a}", "{close}a"] {
            assert!(ByteScript::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn long_ones_are_shown_short() {
        assert_eq!(shown(b"a\r\n\x00\\", 100), "a\\r\\n\\x00\\\\");
        assert_eq!(shown(&[b'a'; 10], 3), "aaaa… (6 bytes more)");
    }
}
