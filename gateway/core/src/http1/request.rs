//! Reads the head of a request.

use memchr::memchr3;

use super::defect::HeadDefect;
use super::facts::{BodyFraming, HttpVersion, RequestFacts, RequestMethod};
use super::fields::{self, FieldSummary, FieldTable, Upgrades};
use super::grammar::token_prefix;
use super::head_scan::HeadLimits;
use super::sender::Sender;
use super::target::{RequestTarget, is_host};
use super::version;

/// A request's head that keeps all rules. It borrows its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) table: &'a FieldTable,
    pub(super) summary: FieldSummary,
    method: &'a [u8],
    pub(super) target: RequestTarget<'a>,
    whole_target: &'a [u8],
    facts: RequestFacts,
}

impl<'a> RequestHead<'a> {
    /// Reads a head that [`HeadScan`](super::HeadScan) has found. `table` is overwritten.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn parse(
        bytes: &'a [u8],
        limits: &HeadLimits,
        table: &'a mut FieldTable,
    ) -> Result<Self, HeadDefect> {
        let mut start = 0;
        while let Some([b'\r', b'\n']) = bytes.get(start..start + 2) {
            start += 2;
        }
        let line = RequestLine::read(bytes.get(start..).unwrap_or_default())?;
        let method = RequestMethod::of(line.method);
        if line.method == b"CONNECT" {
            return Err(HeadDefect::Connect);
        }
        let target = RequestTarget::read(line.target, method)?;
        let summary = fields::read(
            bytes,
            start + line.length,
            limits.fields,
            Sender::Client,
            table,
        )?;
        let table = &*table;
        check_host(bytes, table, &summary, line.version, target)?;
        let facts = facts(method, line.version, &summary, target)?;
        Ok(Self {
            bytes,
            table,
            summary,
            method: line.method,
            target,
            whole_target: line.target,
            facts,
        })
    }

    /// What outlives the head.
    pub fn facts(&self) -> &RequestFacts {
        &self.facts
    }

    /// The method's name.
    pub fn method(&self) -> &'a [u8] {
        self.method
    }

    /// The target, as it came.
    pub fn target(&self) -> &'a [u8] {
        self.whole_target
    }

    /// The host that is asked for: what Host says, or the target where there is no Host.
    pub fn host(&self) -> Option<&'a [u8]> {
        let host = self.summary.host.and_then(|at| self.table.entries.get(at));
        match (host, self.target) {
            (Some(host), _) => Some(host.value(self.bytes)),
            (None, RequestTarget::Absolute { authority, .. }) => Some(authority),
            (None, _) => None,
        }
    }

    /// The values of a field, in their order.
    pub fn values(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, entries) = (self.bytes, self.table.entries.iter());
        entries
            .filter(move |entry| entry.name(bytes).eq_ignore_ascii_case(name.as_bytes()))
            .map(move |entry| entry.value(bytes))
    }
}

/// A request line.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    version: HttpVersion,
    /// With CR and LF.
    length: usize,
}

impl<'a> RequestLine<'a> {
    fn read(head: &'a [u8]) -> Result<Self, HeadDefect> {
        let (method_end, _) = token_prefix(head);
        let (method, rest) = head.split_at_checked(method_end).unwrap_or_default();
        let rest = match rest {
            [b' ', rest @ ..] if !method.is_empty() => rest,
            [b'\r' | b'\n', ..] if !method.is_empty() => return Err(HeadDefect::FirstLine),
            _ => return Err(HeadDefect::Method),
        };
        let target_end = memchr3(b' ', b'\r', b'\n', rest).ok_or(HeadDefect::LineEnd)?;
        let (target, rest) = rest.split_at_checked(target_end).unwrap_or_default();
        let rest = match rest {
            [b' ', rest @ ..] if !target.is_empty() => rest,
            // A request of HTTP/0.9.
            [b'\r', b'\n', ..] => return Err(HeadDefect::FirstLine),
            [b'\r' | b'\n', ..] => return Err(HeadDefect::LineEnd),
            _ => return Err(HeadDefect::Target),
        };
        let (version, rest) = version::read(rest)?;
        match rest {
            [b'\r', b'\n', after @ ..] => Ok(Self {
                method,
                target,
                version,
                length: head.len() - after.len(),
            }),
            [b'\r' | b'\n', ..] => Err(HeadDefect::LineEnd),
            _ => Err(HeadDefect::Version),
        }
    }
}

/// RFC 9112, section 3.2.
fn check_host(
    bytes: &[u8],
    table: &FieldTable,
    summary: &FieldSummary,
    version: HttpVersion,
    target: RequestTarget<'_>,
) -> Result<(), HeadDefect> {
    let Some(host) = summary.host.and_then(|at| table.entries.get(at)) else {
        return match version {
            HttpVersion::Http11 => Err(HeadDefect::NoHost),
            HttpVersion::Http10 => Ok(()),
        };
    };
    let host = host.value(bytes);
    if !is_host(host) {
        return Err(HeadDefect::Host);
    }
    match target.agrees(host) {
        true => Ok(()),
        false => Err(HeadDefect::TwoHosts),
    }
}

fn facts(
    method: RequestMethod,
    version: HttpVersion,
    summary: &FieldSummary,
    target: RequestTarget<'_>,
) -> Result<RequestFacts, HeadDefect> {
    let is_new = version == HttpVersion::Http11;
    let body = match (summary.transfer_encoding, summary.content_length) {
        (Some(_), _) if !is_new => return Err(HeadDefect::OldTransferEncoding),
        (Some(_), Some(_)) => return Err(HeadDefect::TwoLengths),
        (Some(codings), None) => {
            codings.check_chunked()?;
            BodyFraming::Chunked
        }
        (None, None | Some(0)) => BodyFraming::None,
        (None, Some(length)) => BodyFraming::Length(length),
    };
    let keeps = match version {
        HttpVersion::Http11 => !summary.says_close,
        HttpVersion::Http10 => summary.says_keep_alive && !summary.says_close,
    };
    Ok(RequestFacts {
        method,
        version,
        body,
        keeps,
        // RFC 9110, section 7.8: not in HTTP/1.0, and the body would have to come first.
        is_upgrade: is_new
            && summary.says_upgrade
            && summary.upgrades == Upgrades::WebSocket
            && body == BodyFraming::None,
        // RFC 9110, section 10.1.1.
        expects_continue: is_new && summary.expects_continue,
        takes_trailers: is_new && summary.takes_trailers,
        has_host: summary.host.is_some() || matches!(target, RequestTarget::Absolute { .. }),
    })
}
