//! Version 1: a line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::announced::{AnnouncedClient, ProxyHeaderError, ProxyHeaderSays, SentHeader};

const BEGINNING: &[u8] = b"PROXY ";

/// The longest line, with its end.
const MOST: usize = 107;

/// The header of a connection that is the sender's own.
pub(super) const OWN: &[u8] = b"PROXY UNKNOWN\r\n";

/// Reads a header: its length, and what it says; none where it is not whole yet.
///
/// # Errors
/// As [`super::read`].
pub(super) fn read(bytes: &[u8]) -> Result<Option<(usize, ProxyHeaderSays)>, ProxyHeaderError> {
    let compared = BEGINNING.len().min(bytes.len());
    if bytes.get(..compared) != BEGINNING.get(..compared) {
        return Err(ProxyHeaderError::Missing);
    }
    let line = bytes.get(..MOST).unwrap_or(bytes);
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        if bytes.len() >= MOST {
            return Err(ProxyHeaderError::TooLong);
        }
        return Ok(None);
    };
    let line = line.get(BEGINNING.len()..end).unwrap_or_default();
    let line = line
        .strip_suffix(b"\r")
        .ok_or(ProxyHeaderError::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| ProxyHeaderError::Malformed)?;
    let says = says(line).ok_or(ProxyHeaderError::Malformed)??;
    Ok(Some((end + 1, says)))
}

/// What the line says behind its beginning; none where it is malformed.
fn says(line: &str) -> Option<Result<ProxyHeaderSays, ProxyHeaderError>> {
    let mut fields = line.split(' ');
    let addresses = match fields.next()? {
        "TCP4" => addresses::<Ipv4Addr>(&mut fields)?,
        "TCP6" => addresses::<Ipv6Addr>(&mut fields)?,
        // Whatever follows is to be ignored.
        "UNKNOWN" => return Some(Ok(ProxyHeaderSays::Itself)),
        _ => return None,
    };
    if fields.next().is_some() {
        return None;
    }
    let (source, destination) = addresses;
    Some(AnnouncedClient::new(source, destination).map(ProxyHeaderSays::Client))
}

fn addresses<'a, A: FromStr + Into<IpAddr>>(
    fields: &mut impl Iterator<Item = &'a str>,
) -> Option<(SocketAddr, SocketAddr)> {
    let mut address = || fields.next()?.parse::<A>().ok();
    let (source, destination) = (address()?, address()?);
    let mut port = || port(fields.next()?);
    let (from, to) = (port()?, port()?);
    Some((
        SocketAddr::new(source.into(), from),
        SocketAddr::new(destination.into(), to),
    ))
}

/// A port in its one form: without a sign, and without a zero before it.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    (is_plain && is_short).then(|| text.parse().ok()).flatten()
}

/// The header of a connection that is made for a client.
pub(super) fn write(header: &SentHeader<'_>) -> Vec<u8> {
    let (source, destination) = header.addresses();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    )
    .into_bytes()
}
