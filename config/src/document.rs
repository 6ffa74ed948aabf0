//! Turns text into documents.
//!
//! YAML is read as Kubernetes reads it (sigs.k8s.io/yaml, which is YAML 1.1 in its scalars): plain
//! `yes`, `no`, `on`, `off`, `y`, `n` are booleans, `017` is octal, a key that stands twice is an
//! error. Where a text is needed, as in annotations, such a value is refused with the advice to
//! quote it, as an API server refuses it; it is never guessed at. A text that begins with `{` or
//! `[` is first taken as JSON, which is many times as fast; several JSON documents may follow each
//! other.
//!
//! What kubectl reads is read: UTF-8 and UTF-16 ([`decode`]), a byte order mark at the start of any
//! line, as it is left there when files are put together, and any number of aliases.
//!
//! Text comes from outside and may be hostile. Nesting is bounded, and so is what aliases stand
//! for (ten lines of them can otherwise mean gigabytes), by how much comes out and not by how many
//! there are; apart from them what a text turns into is proportional to its length, which
//! [`MAX_TEXT`] bounds.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Number, Value};

use crate::field::{FieldProblem, Shown};
use crate::problem::{DocumentPlace, Problem};

/// The longest text that is read, in bytes. A dump of 100,000 Services with their managedFields is
/// below it.
pub const MAX_TEXT: usize = 256 * 1024 * 1024;

/// How deep a document may be nested. Kubernetes' own kinds need about twenty.
const MAX_DEPTH: usize = 64;

/// How many nodes aliases may stand for in one text, beyond what the text itself holds.
const MAX_ALIASED: usize = 250_000;

/// How many bytes of text they may stand for.
const MAX_ALIASED_BYTES: usize = 64 * 1024 * 1024;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// How deep Lists may lie in Lists.
const MAX_LISTS: usize = 8;

/// One object of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Which document of the text it is in, counted from 1. Empty documents are not counted.
    pub number: usize,
    /// The path from the top of that document to the object, as `items[2]`; empty where the
    /// document is the object.
    pub prefix: String,
    /// The object.
    pub value: Value,
}

impl Document {
    /// Where it is.
    pub fn place(&self, file: &Arc<str>) -> DocumentPlace {
        DocumentPlace {
            file: Arc::clone(file),
            document: self.number,
            prefix: self.prefix.clone(),
        }
    }

    /// The problem for an error in a field of it. `object` names the object, where that is known.
    pub fn problem(&self, file: &Arc<str>, object: &str, problem: FieldProblem) -> Problem {
        self.place(file).problem(object, problem)
    }

    /// The problem for a warning about a field of it.
    pub fn warning(&self, file: &Arc<str>, object: &str, problem: FieldProblem) -> Problem {
        self.place(file).warning(object, problem)
    }
}

/// Why a text can't be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is neither YAML nor JSON, or it goes beyond a bound.
    #[error("{message}{}", At(*.line, *.column))]
    Syntax {
        /// What is wrong, in one line.
        message: String,
        /// Where, counted from 1; 0 where that is not known.
        line: u64,
        /// Where in the line, counted from 1.
        column: u64,
    },
    /// It is longer than [`MAX_TEXT`].
    #[error("is {0} bytes long, at most {MAX_TEXT} are read: split it")]
    TooLong(usize),
    /// It holds zero bytes.
    #[error("holds zero bytes: it is no text")]
    NotText,
    /// It is not UTF-8, and not UTF-16 either.
    #[error("is not {encoding} text (byte {byte})")]
    Encoding {
        /// What it seemed to be.
        encoding: &'static str,
        /// Where it is not, counted from 1.
        byte: usize,
    },
    /// Lists in Lists in Lists.
    #[error("document {0} has Lists within Lists, more than {MAX_LISTS} deep")]
    NestedLists(usize),
}

impl DocumentError {
    /// As a problem of the file as a whole.
    pub fn problem(&self, file: &Arc<str>) -> Problem {
        Problem::of_file(Arc::clone(file), self.to_string())
    }
}

/// Line and column, where they are known.
struct At(u64, u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(0, _) => Ok(()),
            Self(line, column) => write!(f, " (line {line}, column {column})"),
        }
    }
}

/// The documents of a text, in order: empty ones are passed over, Lists are taken apart.
///
/// # Errors
/// Where the text as a whole can't be read. A file is then held back as a whole: what stands
/// behind the place that can't be read is not known.
pub fn documents(text: &str) -> Result<Vec<Document>, DocumentError> {
    if text.len() > MAX_TEXT {
        return Err(DocumentError::TooLong(text.len()));
    }
    if text.as_bytes().contains(&0) {
        return Err(DocumentError::NotText);
    }
    let text = &*without_marks(text);
    let values = if text.trim_start().starts_with(['{', '[']) {
        // A flow mapping of YAML begins alike; the message of the JSON parser is the better one
        // where it is neither.
        json(text).or_else(|error| yaml(text).map_err(|_| error))?
    } else {
        yaml(text)?
    };
    let mut documents = Vec::with_capacity(values.len());
    for (index, value) in values
        .into_iter()
        .filter(|value| !value.is_null())
        .enumerate()
    {
        flatten(index + 1, String::new(), value, 0, &mut documents)?;
    }
    Ok(documents)
}

/// The text of a file: UTF-8, or UTF-16 in either byte order. UTF-16 is known by its byte order
/// mark, or by the zero byte of its first letter (YAML 1.2, 5.2).
///
/// # Errors
/// With the first byte that is neither.
pub fn decode(bytes: Vec<u8>) -> Result<String, DocumentError> {
    let read: fn([u8; 2]) -> u16 = match *bytes.as_slice() {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        [first, 0, ..] if first != 0 => u16::from_le_bytes,
        [0, second, ..] if second != 0 => u16::from_be_bytes,
        _ => {
            return String::from_utf8(bytes).map_err(|error| DocumentError::Encoding {
                encoding: "UTF-8",
                byte: error.utf8_error().valid_up_to() + 1,
            });
        }
    };
    let (pairs, rest) = bytes.as_chunks();
    let mut text = String::with_capacity(bytes.len());
    let wrong = |byte| DocumentError::Encoding {
        encoding: "UTF-16",
        byte: byte + 1,
    };
    let mut at = 0;
    for letter in char::decode_utf16(pairs.iter().map(|pair| read(*pair))) {
        let letter = letter.map_err(|_| wrong(at))?;
        at += 2 * letter.len_utf16();
        text.push(letter);
    }
    if rest.is_empty() {
        Ok(text)
    } else {
        Err(wrong(at))
    }
}

/// The text without the byte order marks that stand at the start of a line, or directly behind a
/// line of JSON that ended without a line break.
fn without_marks(text: &str) -> Cow<'_, str> {
    if !text.contains(BYTE_ORDER_MARK) {
        return Cow::Borrowed(text);
    }
    let mut kept = String::with_capacity(text.len());
    for part in text.split_inclusive(BYTE_ORDER_MARK) {
        let Some(part) = part.strip_suffix(BYTE_ORDER_MARK) else {
            kept.push_str(part);
            continue;
        };
        kept.push_str(part);
        let starts_a_line = kept.is_empty() || kept.ends_with(['\n', '\r']);
        if !starts_a_line && !kept.ends_with(['}', ']']) {
            kept.push(BYTE_ORDER_MARK);
        }
    }
    Cow::Owned(kept)
}

fn json(text: &str) -> Result<Vec<Value>, DocumentError> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Strict>()
        .map(|document| document.map(|Strict(value)| value))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            // serde_json ends its messages with the place, which is told apart here.
            let message = error.to_string();
            let place = format!(" at line {} column {}", error.line(), error.column());
            DocumentError::Syntax {
                message: format!(
                    "is no JSON: {}",
                    message.strip_suffix(&place).unwrap_or(&message)
                ),
                line: error.line() as u64,
                column: error.column() as u64,
            }
        })
}

fn yaml(text: &str) -> Result<Vec<Value>, DocumentError> {
    serde_saphyr::from_multiple_with_options::<Strict>(text, yaml_options(text.len()))
        .map(|documents| documents.into_iter().map(|Strict(value)| value).collect())
        .map_err(|error| {
            let message = error.to_string();
            let message = message.lines().next().unwrap_or_default();
            // What follows there is advice for programmers.
            let message = message
                .split_once(", set DuplicateKeyPolicy")
                .map_or(message, |(message, _)| message);
            let (line, column) = error
                .location()
                .map_or((0, 0), |location| (location.line(), location.column()));
            let place = format!(" at line {line}, column {column}");
            DocumentError::Syntax {
                message: format!(
                    "is not YAML: {}",
                    Shown(message.strip_suffix(&place).unwrap_or(message))
                ),
                line,
                column,
            }
        })
}

/// The parser's own limits suit configuration of a few pages; these let through dumps of a cluster.
/// Each event takes a byte of text at the least, or comes from an alias.
fn yaml_options(length: usize) -> serde_saphyr::Options {
    let most = length.saturating_add(MAX_ALIASED).saturating_add(1024);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: most,
            max_nodes: most,
            max_documents: most,
            max_total_scalar_bytes: length.saturating_add(MAX_ALIASED_BYTES),
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: length,
            max_anchors: length,
            max_merge_keys: length,
            max_recorded_anchor_events: MAX_ALIASED,
            max_recorded_anchor_bytes: MAX_ALIASED_BYTES,
            // One anchor may have any number of aliases: what comes out is counted.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED,
            max_replay_stack_depth: MAX_DEPTH,
        },
        emit_comments: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        legacy_octal_numbers: true,
        strict_booleans: false,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

/// Splits a List into its items. Items of a typed list, as the API itself serves it
/// (`ServiceList`), carry neither kind nor apiVersion: they have those of the list.
fn flatten(
    number: usize,
    prefix: String,
    value: Value,
    depth: usize,
    documents: &mut Vec<Document>,
) -> Result<(), DocumentError> {
    let mut value = value;
    let Some((kind, version, items)) = take_items(&mut value) else {
        documents.push(Document {
            number,
            prefix,
            value,
        });
        return Ok(());
    };
    if depth == MAX_LISTS {
        return Err(DocumentError::NestedLists(number));
    }
    for (index, mut item) in items.into_iter().enumerate() {
        if let (Some(kind), Value::Object(fields)) = (&kind, &mut item) {
            fields
                .entry("kind")
                .or_insert_with(|| Value::String(kind.clone()));
            if let Some(version) = &version {
                fields
                    .entry("apiVersion")
                    .or_insert_with(|| Value::String(version.clone()));
            }
        }
        let dot = if prefix.is_empty() { "" } else { "." };
        let prefix = format!("{prefix}{dot}items[{index}]");
        flatten(number, prefix, item, depth + 1, documents)?;
    }
    Ok(())
}

/// The items of a List, with the kind and apiVersion that they have where they name none.
fn take_items(value: &mut Value) -> Option<(Option<String>, Option<String>, Vec<Value>)> {
    let fields = value.as_object_mut()?;
    let item_kind = fields.get("kind")?.as_str()?.strip_suffix("List")?;
    let item_kind = (!item_kind.is_empty()).then(|| item_kind.to_owned());
    let version = fields
        .get("apiVersion")
        .and_then(Value::as_str)
        .map(str::to_owned);
    match fields.get_mut("items") {
        Some(Value::Array(items)) => Some((item_kind, version, std::mem::take(items))),
        Some(Value::Null) => Some((None, None, Vec::new())),
        _ => None,
    }
}

/// A JSON value in which no key stands twice: `serde_json`'s own silently takes the last.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        StrictVisitor { in_metadata: false }
            .deserialize(deserializer)
            .map(Strict)
    }
}

/// `metadata.managedFields` is half of what an API server prints, and nothing here reads it: it is
/// passed over instead of kept.
#[derive(Clone, Copy)]
struct StrictVisitor {
    in_metadata: bool,
}

impl<'de> DeserializeSeed<'de> for StrictVisitor {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = mapping.next_key::<String>()? {
            if fields.contains_key(&key) {
                return Err(de::Error::custom(format_args!(
                    "the key '{}' stands twice",
                    Shown(&key)
                )));
            }
            if self.in_metadata && key == "managedFields" {
                mapping.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = mapping.next_value_seed(Self {
                in_metadata: key == "metadata",
            })?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests;
