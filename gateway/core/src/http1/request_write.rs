//! Writes a request's head for an endpoint: what is of the client's connection alone stays behind, and what tells who the
//! client is comes along.

use super::copied::{copy_fields, push_field};
use super::facts::{BodyFraming, HttpVersion};
use super::field_kind::{FieldKind, is_end_to_end};
use super::fields::{FieldEntry, is_named};
use super::forwarded::RequestOrigin;
use super::request::RequestHead;

/// How a request goes to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointHop {
    /// Who has sent it.
    pub origin: RequestOrigin,
    /// The endpoint is to close the connection after its answer.
    pub closes: bool,
}

impl RequestHead<'_> {
    /// Appends the head that goes to an endpoint.
    pub fn write(&self, hop: &EndpointHop, out: &mut Vec<u8>) {
        out.reserve(self.bytes.len() + 160);
        let facts = self.facts();
        let (before, target) = self.target.origin_form(facts.method);
        // An HTTP/1.1 server refuses a request without Host (RFC 9112, section 3.2).
        let version: &[u8] = match facts.has_host {
            true => b" HTTP/1.1\r\n",
            false => b" HTTP/1.0\r\n",
        };
        for part in [self.method(), b" ", before, target, version] {
            out.extend_from_slice(part);
        }
        if self.summary.host.is_none()
            && let Some(host) = self.host()
        {
            push_field(out, "host", host);
        }
        copy_fields(self.bytes, self.table, out, |entry| self.passes(entry, hop));
        if facts.is_upgrade {
            out.extend_from_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
        } else {
            self.write_connection(hop, out);
        }
        hop.origin.write(self, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_connection(&self, hop: &EndpointHop, out: &mut Vec<u8>) {
        let facts = self.facts();
        let options: &[u8] = match (hop.closes, facts.has_host, facts.takes_trailers) {
            (true, _, true) => b"close, te",
            (true, _, false) => b"close",
            (false, true, true) => b"te",
            (false, true, false) => b"",
            // The version without keeps no connection by itself.
            (false, false, _) => b"keep-alive",
        };
        if !options.is_empty() {
            push_field(out, "connection", options);
        }
        if facts.takes_trailers {
            push_field(out, "te", b"trailers");
        }
    }

    fn passes(&self, entry: &FieldEntry, hop: &EndpointHop) -> bool {
        let facts = self.facts();
        match entry.kind {
            FieldKind::Host | FieldKind::ContentLength | FieldKind::TransferEncoding => true,
            FieldKind::Connection | FieldKind::OneHop | FieldKind::Te | FieldKind::Upgrade => false,
            FieldKind::Trailer => facts.body == BodyFraming::Chunked,
            FieldKind::Expect => facts.version == HttpVersion::Http11,
            kind => {
                hop.origin.passes(kind)
                    && !(self.summary.named > 0
                        && kind == FieldKind::Other
                        && self.is_of_one_hop(entry.name(self.bytes)))
            }
        }
    }

    /// Whether Connection names this field, so that it is of the client's connection alone (RFC 9110, section 7.6.1).
    fn is_of_one_hop(&self, name: &[u8]) -> bool {
        is_named(self.bytes, self.table, name) && !is_end_to_end(name)
    }
}
