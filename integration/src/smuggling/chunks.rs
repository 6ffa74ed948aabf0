//! Bodies in chunks (RFC 9112, section 7.1), read strictly.

use super::strict_fields::{HttpFault, StrictField, fields, line, token};

/// A body that has come whole.
pub(super) struct ChunkedBody {
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<StrictField>,
    /// How many bytes it took.
    pub(super) length: usize,
}

/// Reads chunks from the beginning of `bytes`; nothing where they have not come whole.
pub(super) fn chunked(bytes: &[u8]) -> Result<Option<ChunkedBody>, HttpFault> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((head, taken)) = line(rest, "a line of a chunk")? else {
            return Ok(None);
        };
        at += taken;
        let size = size(head)?;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size) else {
            // What stands behind the part that has come is not known yet.
            return Ok(None);
        };
        body.extend(data);
        at += size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Err("a chunk is longer than its size"),
            None if bytes.get(at).is_none_or(|it| *it == b'\r') => return Ok(None),
            None => return Err("a chunk is longer than its size"),
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let Some((trailers, taken)) = fields(rest)? else {
        return Ok(None);
    };
    let forbidden = ["content-length", "transfer-encoding", "host"];
    if trailers
        .iter()
        .any(|(name, _)| forbidden.contains(&name.as_str()))
    {
        return Err("a trailer field that says how the message is to be read");
    }
    Ok(Some(ChunkedBody {
        body,
        trailers,
        length: at + taken,
    }))
}

fn size(head: &[u8]) -> Result<usize, HttpFault> {
    let digits = head.iter().take_while(|it| it.is_ascii_hexdigit()).count();
    let (number, extensions) = head.split_at(digits);
    if digits == 0 || digits > 15 {
        return Err("the size of a chunk");
    }
    extension(extensions)?;
    let number = std::str::from_utf8(number).map_err(|_| "the size of a chunk")?;
    usize::from_str_radix(number, 16).map_err(|_| "the size of a chunk")
}

/// `*( BWS ";" BWS name [ BWS "=" BWS value ] )`.
fn extension(mut rest: &[u8]) -> Result<(), HttpFault> {
    const FAULT: HttpFault = "an extension of a chunk";
    while !rest.is_empty() {
        rest = rest.trim_ascii_start().strip_prefix(b";").ok_or(FAULT)?;
        rest = word(rest.trim_ascii_start()).ok_or(FAULT)?;
        let Some(value) = rest.trim_ascii_start().strip_prefix(b"=") else {
            continue;
        };
        let value = value.trim_ascii_start();
        rest = match value.strip_prefix(b"\"") {
            Some(quoted) => behind_quote(quoted).ok_or(FAULT)?,
            None => word(value).ok_or(FAULT)?,
        };
    }
    Ok(())
}

/// What is behind a token.
fn word(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().take_while(|it| token(**it)).count();
    (length > 0).then(|| text.get(length..)).flatten()
}

/// What is behind a quoted text whose beginning was read.
fn behind_quote(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', _, rest @ ..] | [_, rest @ ..] => text = rest,
            [] => return None,
        }
    }
}
