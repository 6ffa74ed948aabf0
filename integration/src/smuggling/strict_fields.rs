//! The lines and fields of a head or of trailers, read strictly.

/// What is wrong with a message.
pub type HttpFault = &'static str;

/// A name in small letters, and a value without white space around it.
pub type StrictField = (String, Vec<u8>);

/// The line at the beginning, without its end, and how many bytes it took. Nothing where it has no end yet.
pub(super) fn line(bytes: &[u8], what: HttpFault) -> Result<Option<(&[u8], usize)>, HttpFault> {
    let end = bytes.windows(2).position(|it| it == b"\r\n");
    let content = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    // The last byte may be the beginning of the end.
    let looked_at = match end {
        None => content.strip_suffix(b"\r").unwrap_or(content),
        Some(_) => content,
    };
    let is_control = |it: &u8| (*it < b' ' && *it != b'\t') || *it == 0x7f;
    if looked_at.iter().any(is_control) {
        return Err(what);
    }
    Ok(end.map(|end| (content, end + 2)))
}

/// The fields at the beginning with the empty line behind them, and how many bytes they took.
pub(super) fn fields(bytes: &[u8]) -> Result<Option<(Vec<StrictField>, usize)>, HttpFault> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some((text, taken)) = line(rest, "a control character in a field")? else {
            return Ok(None);
        };
        at += taken;
        if text.is_empty() {
            return Ok(Some((found, at)));
        }
        let colon = text.iter().position(|it| *it == b':');
        let (name, value) = text.split_at(colon.ok_or("a field without a colon")?);
        if name.is_empty() || !name.iter().all(|it| token(*it)) {
            return Err("the name of a field");
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        found.push((name, value.to_owned()));
    }
}

/// Whether a name or a method may have this letter.
pub(super) fn token(letter: u8) -> bool {
    letter.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&letter)
}
