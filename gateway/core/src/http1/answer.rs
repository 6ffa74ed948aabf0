//! Reads the head of an endpoint's answer, and writes it for the client.

use super::copied::{copy_fields, push_field};
use super::defect::HeadDefect;
use super::facts::{
    AfterAnswer, AnswerFacts, AnswerPlan, BodyFraming, HttpVersion, RequestFacts, RequestMethod,
};
use super::field_kind::{FieldKind, is_end_to_end};
use super::fields::{self, FieldEntry, FieldSummary, FieldTable, is_named};
use super::grammar::control_at;
use super::head_scan::HeadLimits;
use super::sender::{Sender, line_end};
use super::version;

/// An answer's head that keeps all rules. It borrows its bytes.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead<'a> {
    bytes: &'a [u8],
    table: &'a FieldTable,
    summary: FieldSummary,
    /// Status and reason, as they came.
    status: &'a [u8],
    facts: AnswerFacts,
}

impl<'a> AnswerHead<'a> {
    /// Reads a head that [`HeadScan`](super::HeadScan) has found: an answer to this request. `table` is overwritten.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn parse(
        bytes: &'a [u8],
        limits: &HeadLimits,
        request: &RequestFacts,
        table: &'a mut FieldTable,
    ) -> Result<Self, HeadDefect> {
        let (version, rest) = version::read(bytes)?;
        let [b' ', rest @ ..] = rest else {
            return Err(HeadDefect::Status);
        };
        let length = control_at(rest);
        let (text, after) = rest.split_at_checked(length).unwrap_or_default();
        let line_end = line_end(after, Sender::Endpoint).ok_or(HeadDefect::LineEnd)?;
        let status = status(text).ok_or(HeadDefect::Status)?;
        let start = bytes.len() - after.len() + line_end;
        let summary = fields::read(bytes, start, limits.fields, Sender::Endpoint, table)?;
        let facts = facts(status, version, request, &summary)?;
        Ok(Self {
            bytes,
            table,
            summary,
            status: text,
            facts,
        })
    }

    /// What outlives the head.
    pub fn facts(&self) -> &AnswerFacts {
        &self.facts
    }

    /// The values of a field, in their order.
    pub fn values(&self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, entries) = (self.bytes, self.table.entries.iter());
        entries
            .filter(move |entry| entry.name(bytes).eq_ignore_ascii_case(name.as_bytes()))
            .map(move |entry| entry.value(bytes))
    }

    /// Appends the head that goes to the client.
    pub fn write(&self, plan: &AnswerPlan, out: &mut Vec<u8>) {
        out.reserve(self.bytes.len() + 32);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status);
        if self.status.len() == STATUS_DIGITS {
            // The space is there even if there is no reason (RFC 9112, section 4).
            out.extend_from_slice(b" ");
        }
        out.extend_from_slice(b"\r\n");
        copy_fields(self.bytes, self.table, out, |entry| {
            self.passes(entry, plan)
        });
        if let Some(length) = self.summary.content_length
            && self.summary.is_length_repeated
            && self.has_length()
        {
            push_field(out, "content-length", length.to_string().as_bytes());
        }
        let connection: &[u8] = match (plan.after, plan.version) {
            _ if self.facts.is_upgrade() => b"Upgrade",
            _ if self.facts.is_interim() => b"",
            (AfterAnswer::Close, _) => b"close",
            (AfterAnswer::Keep, HttpVersion::Http10) => b"keep-alive",
            (AfterAnswer::Keep, HttpVersion::Http11) => b"",
        };
        if !connection.is_empty() {
            push_field(out, "connection", connection);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether it may say how long its body is (RFC 9110, section 8.6; RFC 9112, section 6.1).
    fn may_be_framed(&self) -> bool {
        self.facts.status >= 200 && self.facts.status != 204
    }

    /// Whether its Content-Length counts.
    fn has_length(&self) -> bool {
        self.may_be_framed() && self.summary.transfer_encoding.is_none()
    }

    fn passes(&self, entry: &FieldEntry, plan: &AnswerPlan) -> bool {
        let facts = &self.facts;
        let is_chunked = self.summary.transfer_encoding.is_some() && self.may_be_framed();
        match entry.kind {
            FieldKind::ContentLength => self.has_length() && !self.summary.is_length_repeated,
            FieldKind::TransferEncoding => is_chunked && plan.version == HttpVersion::Http11,
            FieldKind::Trailer => is_chunked && plan.version == HttpVersion::Http11,
            FieldKind::Upgrade => facts.is_upgrade(),
            FieldKind::Connection | FieldKind::OneHop => false,
            FieldKind::Other => {
                let name = entry.name(self.bytes);
                self.summary.named == 0
                    || is_end_to_end(name)
                    || !is_named(self.bytes, self.table, name)
            }
            FieldKind::Host
            | FieldKind::Te
            | FieldKind::Expect
            | FieldKind::XForwardedFor
            | FieldKind::XForwardedHost
            | FieldKind::XForwardedProto
            | FieldKind::Forwarded
            | FieldKind::Hearsay
            | FieldKind::Double => true,
        }
    }
}

const STATUS_DIGITS: usize = 3;

/// The status that a line says, without version. There may be no reason, and no space before it then: many servers leave
/// it out.
fn status(text: &[u8]) -> Option<u16> {
    let (digits, reason) = text.split_first_chunk::<STATUS_DIGITS>()?;
    match (digits, reason) {
        ([b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'], [] | [b' ', ..]) => Some(
            digits
                .iter()
                .fold(0, |number, digit| number * 10 + u16::from(digit - b'0')),
        ),
        _ => None,
    }
}

fn facts(
    status: u16,
    version: HttpVersion,
    request: &RequestFacts,
    summary: &FieldSummary,
) -> Result<AnswerFacts, HeadDefect> {
    if status == 101 && !request.is_upgrade {
        return Err(HeadDefect::Upgrade);
    }
    let has_body =
        request.method != RequestMethod::Head && status >= 200 && status != 204 && status != 304;
    // What is wrong is so without a body, too.
    let framing = match (summary.transfer_encoding, summary.content_length) {
        (Some(_), _) if version == HttpVersion::Http10 => {
            return Err(HeadDefect::OldTransferEncoding);
        }
        (Some(codings), _) => {
            codings.check_chunked()?;
            BodyFraming::Chunked
        }
        (None, Some(0)) => BodyFraming::None,
        (None, Some(length)) => BodyFraming::Length(length),
        (None, None) => BodyFraming::UntilClose,
    };
    let body = match has_body {
        true => framing,
        false => BodyFraming::None,
    };
    let is_ambiguous = summary.transfer_encoding.is_some() && summary.content_length.is_some();
    let keeps = match version {
        HttpVersion::Http11 => !summary.says_close,
        HttpVersion::Http10 => summary.says_keep_alive && !summary.says_close,
    };
    Ok(AnswerFacts {
        status,
        version,
        body,
        keeps: keeps && !is_ambiguous && status != 101 && body != BodyFraming::UntilClose,
    })
}
