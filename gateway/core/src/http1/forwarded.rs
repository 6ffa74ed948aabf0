//! The fields that tell an endpoint the client's address, host and scheme.
//!
//! From everybody but the Service's trusted proxies they are replaced: a backend would trust an address that a client has
//! written itself. (ingress-nginx does the same by default.) Those of a trusted proxy are kept, and its own address is
//! added.
//!
//! A name that is nearly one of these never passes, whoever sent it ([`FieldKind::Double`]).

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use super::copied::push_field;
use super::field_kind::FieldKind;
use super::fields::FieldSummary;
use super::request::RequestHead;

/// How a request came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientScheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl ClientScheme {
    /// Its name in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Who has sent a request, and whether what it says of others is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestOrigin {
    /// The client, or the proxy before us.
    pub peer: IpAddr,
    /// It is a proxy of which the Service says that it is to be trusted.
    pub is_trusted: bool,
    /// How the request came.
    pub scheme: ClientScheme,
}

impl RequestOrigin {
    /// Whether a field of this kind goes on as it came. (Those that a list is made of are written anew.)
    pub(super) fn passes(&self, kind: FieldKind) -> bool {
        match kind {
            FieldKind::XForwardedFor | FieldKind::Forwarded | FieldKind::Double => false,
            FieldKind::XForwardedHost | FieldKind::XForwardedProto | FieldKind::Hearsay => {
                self.is_trusted
            }
            _ => true,
        }
    }

    /// Appends the fields that are set, after those that pass.
    pub(super) fn write(&self, head: &RequestHead<'_>, out: &mut Vec<u8>) {
        let said = match self.is_trusted {
            true => head.summary,
            false => FieldSummary::default(),
        };
        out.extend_from_slice(b"x-forwarded-for: ");
        if said.has_forwarded_for {
            join(head, FieldKind::XForwardedFor, out);
        }
        push_address(self.peer, out);
        out.extend_from_slice(b"\r\n");
        if !said.has_forwarded_host
            && let Some(host) = head.host()
        {
            push_field(out, "x-forwarded-host", host);
        }
        if !said.has_forwarded_proto {
            push_field(out, "x-forwarded-proto", self.scheme.as_str().as_bytes());
        }
        // Who reads this one takes the last hop for its peer, so it is complete, or not there.
        if said.has_forwarded {
            out.extend_from_slice(b"forwarded: ");
            join(head, FieldKind::Forwarded, out);
            let (before, after) = match self.peer {
                IpAddr::V4(_) => ("for=", ";proto="),
                IpAddr::V6(_) => ("for=\"[", "]\";proto="),
            };
            out.extend_from_slice(before.as_bytes());
            push_address(self.peer, out);
            for part in [after, self.scheme.as_str(), "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
}

/// Appends the values of a list field, with a comma after each.
fn join(head: &RequestHead<'_>, kind: FieldKind, out: &mut Vec<u8>) {
    for entry in head.table.entries.iter().filter(|it| it.kind == kind) {
        let value = entry.value(head.bytes);
        if !value.is_empty() {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
    }
}

fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => push_v4(v4, out),
        // A Vec takes everything.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// The same as `Display` writes, which costs a tenth of a short request.
fn push_v4(address: Ipv4Addr, out: &mut Vec<u8>) {
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        if octet >= 100 {
            out.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            out.push(b'0' + octet / 10 % 10);
        }
        out.push(b'0' + octet % 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everywhere() {
        for octet in 0..=u8::MAX {
            let v4 = Ipv4Addr::new(octet, 0, 255 - octet, octet);
            let mut out = Vec::new();
            push_address(v4.into(), &mut out);
            assert_eq!(out, v4.to_string().as_bytes());
        }
    }
}
