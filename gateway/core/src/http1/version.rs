//! `HTTP/1.1` and the like (RFC 9112, section 2.3).

use super::defect::HeadDefect;
use super::facts::HttpVersion;

/// The version that a text begins with, and what follows it.
pub(super) fn read(text: &[u8]) -> Result<(HttpVersion, &[u8]), HeadDefect> {
    match text {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, rest @ ..]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            match (major, minor) {
                (b'1', b'0') => Ok((HttpVersion::Http10, rest)),
                (b'1', _) => Ok((HttpVersion::Http11, rest)),
                _ => Err(HeadDefect::MajorVersion),
            }
        }
        _ => Err(HeadDefect::Version),
    }
}
