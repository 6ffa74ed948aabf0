//! The fields of a head: where each of them is, and what they say together about the message.

use super::defect::HeadDefect;
use super::field_kind::FieldKind;
use super::grammar::{control_at, list, token_prefix, trim, trim_end, trim_start};
use super::sender::{Sender, line_end};

/// The most fields that a Connection field may name. Each is looked for among all fields.
const NAMED: u8 = 32;

/// The fields of the head that was read last. One is enough for all connections of a thread.
#[derive(Clone, Debug, Default)]
pub struct FieldTable {
    pub(super) entries: Vec<FieldEntry>,
    /// A line has ended with a lone LF, so that none is copied as it is.
    pub(super) has_lone_lf: bool,
}

/// Where a field is in the bytes of its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldEntry {
    pub(super) kind: FieldKind,
    /// Where its line begins, with its name.
    line: u32,
    name_end: u32,
    value: u32,
    value_end: u32,
    /// Behind its CR and LF.
    line_end: u32,
}

impl FieldEntry {
    pub(super) fn name<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        part(head, self.line, self.name_end)
    }

    pub(super) fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        part(head, self.value, self.value_end)
    }

    /// Where its line is, with CR and LF.
    pub(super) fn line(&self) -> (usize, usize) {
        (self.line as usize, self.line_end as usize)
    }
}

fn part(head: &[u8], from: u32, to: u32) -> &[u8] {
    head.get(from as usize..to as usize).unwrap_or_default()
}

/// What the fields of a head say together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FieldSummary {
    pub(super) content_length: Option<u64>,
    /// It was said more than once.
    pub(super) is_length_repeated: bool,
    pub(super) transfer_encoding: Option<Codings>,
    /// Where the Host is among the fields.
    pub(super) host: Option<usize>,
    pub(super) says_close: bool,
    pub(super) says_keep_alive: bool,
    /// `upgrade` stands in Connection.
    pub(super) says_upgrade: bool,
    /// How many fields Connection names that are no option known here.
    pub(super) named: u8,
    pub(super) upgrades: Upgrades,
    pub(super) takes_trailers: bool,
    pub(super) expects_continue: bool,
    /// X-Forwarded-Host, X-Forwarded-Proto, X-Forwarded-For, Forwarded are there.
    pub(super) has_forwarded_host: bool,
    pub(super) has_forwarded_proto: bool,
    pub(super) has_forwarded_for: bool,
    pub(super) has_forwarded: bool,
}

/// What Transfer-Encoding fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Codings {
    chunked: u32,
    others: u32,
    is_chunked_last: bool,
}

/// What Upgrade fields say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Upgrades {
    #[default]
    No,
    /// WebSocket, and nothing else.
    WebSocket,
    Other,
}

impl Codings {
    fn add(&mut self, value: &[u8]) -> Result<(), HeadDefect> {
        for coding in value.split(|octet| *octet == b',').map(trim) {
            let (name, _) = token_prefix(coding);
            let is_well_formed = match coding.get(name) {
                _ if name == 0 => false,
                None => true,
                Some(b';' | b' ' | b'\t') => true,
                Some(_) => false,
            };
            if !is_well_formed {
                return Err(HeadDefect::TransferEncoding);
            }
            // It has no parameters (RFC 9112, section 7.1).
            self.is_chunked_last = coding.eq_ignore_ascii_case(b"chunked");
            match self.is_chunked_last {
                true => self.chunked += 1,
                false => self.others += 1,
            }
        }
        Ok(())
    }

    /// The body is in chunks and coded in no other way.
    ///
    /// # Errors
    /// It is not. Where chunked is not the last coding nobody knows where the body ends.
    pub(super) fn check_chunked(&self) -> Result<(), HeadDefect> {
        match (self.chunked, self.is_chunked_last, self.others) {
            (1, true, 0) => Ok(()),
            (1, true, _) => Err(HeadDefect::UnknownCoding),
            _ => Err(HeadDefect::TransferEncoding),
        }
    }
}

/// Reads the fields from `start` on, up to the empty line that ends the head, and returns what they say together. Nothing
/// follows that line.
pub(super) fn read(
    head: &[u8],
    start: usize,
    most: usize,
    sender: Sender,
    table: &mut FieldTable,
) -> Result<FieldSummary, HeadDefect> {
    table.entries.clear();
    table.has_lone_lf = false;
    let mut summary = FieldSummary::default();
    let mut at = start;
    loop {
        let rest = head.get(at..).unwrap_or_default();
        if let Some(length) = line_end(rest, sender) {
            return match rest.len() == length {
                true => Ok(summary),
                false => Err(HeadDefect::LineEnd),
            };
        }
        if table.entries.len() >= most {
            return Err(HeadDefect::TooManyFields);
        }
        let entry = read_line(rest, at, sender)?;
        let index = table.entries.len();
        summary.add(entry.kind, entry.value(head), index, sender)?;
        let line = part(head, entry.line, entry.line_end);
        table.has_lone_lf |= sender == Sender::Endpoint && !line.ends_with(b"\r\n");
        at = entry.line_end as usize;
        table.entries.push(entry);
    }
}

/// The field that `rest` begins with, which begins at `at` of the head.
fn read_line(rest: &[u8], at: usize, sender: Sender) -> Result<FieldEntry, HeadDefect> {
    let (name_end, is_odd) = token_prefix(rest);
    match rest.get(name_end..).unwrap_or_default() {
        [b':', ..] if name_end > 0 => {}
        [b' ' | b'\t', ..] if name_end == 0 => return Err(HeadDefect::Folded),
        [b'\r', b'\n', ..] => return Err(HeadDefect::FieldName),
        [] | [b'\r' | b'\n', ..] => return Err(HeadDefect::LineEnd),
        _ => return Err(HeadDefect::FieldName),
    }
    let name = rest.get(..name_end).unwrap_or_default();
    let after = rest.get(name_end + 1..).unwrap_or_default();
    let length = control_at(after);
    let end = after.get(length..).unwrap_or_default();
    let Some(line_end) = line_end(end, sender) else {
        return Err(match end {
            [] | [b'\r' | b'\n', ..] => HeadDefect::LineEnd,
            _ => HeadDefect::FieldValue,
        });
    };
    let whole = trim_start(after.get(..length).unwrap_or_default());
    let value_start = name_end + 1 + length - whole.len();
    let value_end = value_start + trim_end(whole).len();
    // It fails for a head of 4 GiB.
    let offset = |index: usize| u32::try_from(at + index).map_err(|_| HeadDefect::TooLarge);
    Ok(FieldEntry {
        kind: FieldKind::of(name, is_odd),
        line: offset(0)?,
        name_end: offset(name_end)?,
        value: offset(value_start)?,
        value_end: offset(value_end)?,
        line_end: offset(name_end + 1 + length + line_end)?,
    })
}

impl FieldSummary {
    /// Adds the field that is the `index`th.
    fn add(
        &mut self,
        kind: FieldKind,
        value: &[u8],
        index: usize,
        sender: Sender,
    ) -> Result<(), HeadDefect> {
        match kind {
            FieldKind::Host if self.host.is_some() => return Err(HeadDefect::ManyHosts),
            FieldKind::Host => self.host = Some(index),
            FieldKind::ContentLength => match sender {
                Sender::Client if self.content_length.is_some() => {
                    return Err(HeadDefect::ContentLength);
                }
                Sender::Client => self.content_length = Some(number(value)?),
                Sender::Endpoint => self.add_lengths(value)?,
            },
            FieldKind::TransferEncoding => {
                let codings = self.transfer_encoding.get_or_insert_default();
                codings.add(value)?;
            }
            FieldKind::Connection => self.add_connection(value)?,
            FieldKind::Upgrade => {
                self.upgrades = match self.upgrades {
                    Upgrades::No if value.eq_ignore_ascii_case(b"websocket") => Upgrades::WebSocket,
                    _ => Upgrades::Other,
                };
            }
            FieldKind::Te => {
                self.takes_trailers |= list(value).any(|it| it.eq_ignore_ascii_case(b"trailers"));
            }
            FieldKind::Expect => {
                self.expects_continue |=
                    list(value).any(|it| it.eq_ignore_ascii_case(b"100-continue"));
            }
            FieldKind::XForwardedHost => self.has_forwarded_host = true,
            FieldKind::XForwardedProto => self.has_forwarded_proto = true,
            FieldKind::XForwardedFor => self.has_forwarded_for = true,
            FieldKind::Forwarded => self.has_forwarded = true,
            FieldKind::OneHop
            | FieldKind::Trailer
            | FieldKind::Hearsay
            | FieldKind::Double
            | FieldKind::Other => {}
        }
        Ok(())
    }

    /// Lengths that are all the same are one.
    fn add_lengths(&mut self, values: &[u8]) -> Result<(), HeadDefect> {
        for value in values.split(|octet| *octet == b',').map(trim) {
            let length = number(value)?;
            match self.content_length.replace(length) {
                Some(before) if before != length => return Err(HeadDefect::ContentLength),
                before => self.is_length_repeated |= before.is_some(),
            }
        }
        Ok(())
    }

    fn add_connection(&mut self, value: &[u8]) -> Result<(), HeadDefect> {
        for option in list(value) {
            let is = |other: &[u8]| option.eq_ignore_ascii_case(other);
            if is(b"close") {
                self.says_close = true;
            } else if is(b"keep-alive") {
                self.says_keep_alive = true;
            } else if is(b"upgrade") {
                self.says_upgrade = true;
            } else if !is(b"te") {
                self.named += 1;
                if self.named > NAMED {
                    return Err(HeadDefect::Connection);
                }
            }
        }
        Ok(())
    }
}

/// The value of a Content-Length: digits (RFC 9110, section 8.6), and no more than a signed number of 64 bits has room for,
/// for many a server would read a negative one.
fn number(digits: &[u8]) -> Result<u64, HeadDefect> {
    if digits.is_empty() {
        return Err(HeadDefect::ContentLength);
    }
    let mut number = 0_i64;
    for digit in digits {
        let next = match digit {
            b'0'..=b'9' => number.checked_mul(10),
            _ => None,
        };
        let next = next.and_then(|next| next.checked_add(i64::from(digit - b'0')));
        number = next.ok_or(HeadDefect::ContentLength)?;
    }
    Ok(number.unsigned_abs())
}

/// Whether a Connection field among these names the field.
pub(super) fn is_named(head: &[u8], table: &FieldTable, name: &[u8]) -> bool {
    let mut connections = table.entries.iter();
    connections.any(|entry| {
        entry.kind == FieldKind::Connection
            && list(entry.value(head)).any(|option| option.eq_ignore_ascii_case(name))
    })
}
