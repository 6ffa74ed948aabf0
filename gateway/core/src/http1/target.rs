//! What a request is for: its target and its host (RFC 9112, section 3.2 and 3.3).

use super::defect::HeadDefect;
use super::facts::RequestMethod;
use super::grammar::is_target;

/// A request's target, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestTarget<'a> {
    /// A path, perhaps with a query.
    Origin(&'a [u8]),
    /// `*`: the server itself.
    Asterisk,
    /// A whole URI.
    Absolute {
        /// Its host, perhaps with a port.
        authority: &'a [u8],
        /// The port that its scheme has where none is said.
        default_port: &'static [u8],
        /// Path and query: both may be missing.
        rest: &'a [u8],
    },
}

impl<'a> RequestTarget<'a> {
    pub(super) fn read(target: &'a [u8], method: RequestMethod) -> Result<Self, HeadDefect> {
        if !is_target(target) {
            return Err(HeadDefect::Target);
        }
        match target {
            [b'/', ..] => Ok(Self::Origin(target)),
            [b'*'] if method == RequestMethod::Options => Ok(Self::Asterisk),
            _ => Self::absolute(target).ok_or(HeadDefect::Target),
        }
    }

    fn absolute(target: &'a [u8]) -> Option<Self> {
        let (default_port, after) = match after_scheme(target, b"http://") {
            Some(after) => (b"80".as_slice(), after),
            None => (b"443".as_slice(), after_scheme(target, b"https://")?),
        };
        let end = after.iter().position(|octet| matches!(octet, b'/' | b'?'));
        let (authority, rest) = after.split_at_checked(end.unwrap_or(after.len()))?;
        let is_host = !authority.is_empty() && !authority.starts_with(b":") && is_host(authority);
        is_host.then_some(Self::Absolute {
            authority,
            default_port,
            rest,
        })
    }

    /// What comes before the target in origin-form, and that.
    pub(super) fn origin_form(self, method: RequestMethod) -> (&'static [u8], &'a [u8]) {
        match self {
            Self::Origin(path) => (b"", path),
            Self::Asterisk => (b"*", b""),
            // RFC 9112, section 3.2.4.
            Self::Absolute { rest: [], .. } if method == RequestMethod::Options => (b"*", b""),
            Self::Absolute { rest, .. } if rest.starts_with(b"/") => (b"", rest),
            Self::Absolute { rest, .. } => (b"/", rest),
        }
    }

    /// Whether the target says nothing else than this Host: letters may be of another case, and the port that the
    /// scheme has by default may be said or not (RFC 9110, section 4.2.3).
    pub(super) fn agrees(self, host: &[u8]) -> bool {
        let Self::Absolute {
            authority,
            default_port,
            ..
        } = self
        else {
            return true;
        };
        let (name, port) = split_port(authority);
        let (other_name, other_port) = split_port(host);
        let port_or_default = |port: &'_ [u8]| port.is_empty() || port == default_port;
        let is_one_port =
            port == other_port || (port_or_default(port) && port_or_default(other_port));
        name.eq_ignore_ascii_case(other_name) && is_one_port
    }
}

fn after_scheme<'a>(target: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (begin, after) = target.split_at_checked(scheme.len())?;
    begin.eq_ignore_ascii_case(scheme).then_some(after)
}

/// A host and its port, which is empty where there is none. A colon in brackets is one of an address.
fn split_port(authority: &[u8]) -> (&[u8], &[u8]) {
    let colon = authority.iter().rposition(|octet| *octet == b':');
    match colon.and_then(|at| authority.split_at_checked(at)) {
        Some((host, [_, port @ ..])) if !port.contains(&b']') => (host, port),
        _ => (authority, b""),
    }
}

/// Whether this may be a Host: a name or an address, perhaps with a port. It may be empty. A comma may not be in it, other
/// than RFC 3986 has it, for two Hosts that somebody has joined would be one.
pub(super) fn is_host(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    if !port.iter().all(u8::is_ascii_digit) || port.len() > 5 {
        return false;
    }
    match name {
        [b'[', address @ .., b']'] => {
            // An address of IPv6, or of a later version. (A zone has no meaning for anybody else.)
            let is_of_address = |octet: &u8| {
                octet.is_ascii_hexdigit() || matches!(octet, b':' | b'.' | b'v' | b'V')
            };
            !address.is_empty() && address.iter().all(is_of_address)
        }
        name => name.iter().all(|octet| {
            octet.is_ascii_alphanumeric()
                || matches!(
                    octet,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b';'
                        | b'='
                )
        }),
    }
}
