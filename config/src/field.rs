//! Reads typed fields out of a JSON value and collects every problem on the way.
//!
//! A [`Cursor`] stands on one field and knows the path to it. Reading never stops: what can't be
//! read is noted in [`Findings`] with its path, and the reader goes on with nothing in its place,
//! so that a person sees all that is wrong with a document at once. A field that is null counts as
//! absent, as in Kubernetes. An error holds the whole object back; a warning does not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// One thing that is wrong with a document, and in which field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldProblem {
    /// The field, as `spec.ports[0].nodePort`; empty for the document as a whole.
    pub field: String,
    /// What is wrong and what would be right, without a full stop.
    pub message: String,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// What was found wrong so far.
#[derive(Debug, Default)]
pub struct Findings {
    errors: RefCell<Vec<FieldProblem>>,
    warnings: RefCell<Vec<FieldProblem>>,
}

impl Findings {
    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// The errors and the warnings, each in the order in which they were found.
    pub fn into_parts(self) -> (Vec<FieldProblem>, Vec<FieldProblem>) {
        (self.errors.into_inner(), self.warnings.into_inner())
    }
}

static ABSENT: Value = Value::Null;

/// A place in a document: its value, and the way to it from the top.
///
/// The path is a chain of borrowed parents and is spelled out only where there is a problem to
/// report: reading a well-formed document allocates nothing for it.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'v, 'p> {
    value: &'v Value,
    segment: PathSegment<'p>,
    parent: Option<&'p Cursor<'v, 'p>>,
    findings: &'p Findings,
}

#[derive(Clone, Copy, Debug)]
enum PathSegment<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'v, 'p> Cursor<'v, 'p> {
    /// The top of a document.
    pub fn root(value: &'v Value, findings: &'p Findings) -> Self {
        Self {
            value,
            segment: PathSegment::Root,
            parent: None,
            findings,
        }
    }

    /// The field `key`; absent where this is no mapping. That it should be one is for
    /// [`Cursor::mapping`] to say.
    pub fn field<'s>(&'s self, key: &'s str) -> Cursor<'v, 's> {
        Cursor {
            value: self.value.get(key).unwrap_or(&ABSENT),
            segment: PathSegment::Key(key),
            parent: Some(self),
            findings: self.findings,
        }
    }

    /// The entries of a list; none where it is absent, or where it is no list, which is a problem.
    pub fn items<'s>(&'s self) -> impl Iterator<Item = Cursor<'v, 's>> {
        let items: &'v [Value] = match self.value {
            Value::Array(items) => items,
            Value::Null => &[],
            _ => {
                self.wrong("a list");
                &[]
            }
        };
        items.iter().enumerate().map(move |(index, value)| Cursor {
            value,
            segment: PathSegment::Index(index),
            parent: Some(self),
            findings: self.findings,
        })
    }

    /// Whether there is something.
    pub fn is_present(&self) -> bool {
        !self.value.is_null()
    }

    /// The value as it is.
    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// The mapping that is here; anything else than a mapping or nothing is a problem.
    pub fn mapping(&self) -> Option<&'v Map<String, Value>> {
        match self.value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            _ => {
                self.wrong("a mapping");
                None
            }
        }
    }

    /// A text.
    pub fn text(&self) -> Option<&'v str> {
        match self.value {
            Value::String(text) => Some(text),
            Value::Null => None,
            Value::Bool(_) | Value::Number(_) => {
                self.problem(format!(
                    "is {}, must be a text: put it in quotes",
                    Described(self.value)
                ));
                None
            }
            Value::Array(_) | Value::Object(_) => {
                self.wrong("a text");
                None
            }
        }
    }

    /// A text that is not empty; the empty one counts as absent, as Kubernetes' `omitempty` has it.
    pub fn nonempty_text(&self) -> Option<&'v str> {
        self.text().filter(|text| !text.is_empty())
    }

    /// true or false.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(*value),
            Value::Null => None,
            _ => {
                self.wrong("true or false");
                None
            }
        }
    }

    /// A whole number, of any size that Kubernetes' integers have.
    pub fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Null => None,
            value => {
                let number = whole(value);
                if number.is_none() {
                    self.wrong("a whole number");
                }
                number
            }
        }
    }

    /// A whole number within bounds.
    pub fn integer_within(&self, bounds: RangeInclusive<i64>) -> Option<i64> {
        if !self.is_present() {
            return None;
        }
        let number = whole(self.value).filter(|number| bounds.contains(number));
        if number.is_none() {
            self.wrong(&format!(
                "a whole number from {} to {}",
                bounds.start(),
                bounds.end()
            ));
        }
        number
    }

    /// A port number, 1–65535.
    pub fn port(&self) -> Option<u16> {
        self.integer_within(1..=65535)
            .and_then(|number| u16::try_from(number).ok())
    }

    /// One of some words, each with what it stands for.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let Value::String(text) = self.value else {
            if self.is_present() {
                self.wrong(&words_in_prose(words));
            }
            return None;
        };
        let found = words.iter().find(|(word, _)| word == text);
        if found.is_none() {
            self.wrong(&words_in_prose(words));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// The same where the empty text counts as absent: a field for which an API server fills in a
    /// default.
    pub fn one_of_or_default<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        if self.value == "" {
            return None;
        }
        self.one_of(words)
    }

    /// A text that parses, or the problem that it does not; `what` says what it must be.
    pub fn parsed<T: std::str::FromStr>(&self, what: &str) -> Option<T> {
        let text = self.nonempty_text()?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(what);
        }
        parsed
    }

    /// A mapping from text to text: labels or annotations. A value that is no text is a problem:
    /// Kubernetes refuses `port: 80` and `enabled: true` there as well.
    pub fn text_map(&self) -> BTreeMap<String, String> {
        self.text_pairs()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// The same without copies.
    pub fn text_pairs(&self) -> impl Iterator<Item = (&'v str, &'v str)> {
        self.mapping()
            .into_iter()
            .flatten()
            .filter_map(move |(key, value)| match value {
                Value::String(text) => Some((key.as_str(), text.as_str())),
                // As absent as it can be: an API server would drop it.
                Value::Null => None,
                _ => {
                    self.key_problem(
                        key,
                        format!("is {}, must be a text: put it in quotes", Described(value)),
                    );
                    None
                }
            })
    }

    /// Fields that are in none of the `known` are problems, with the name that was probably meant.
    pub fn only(&self, known: &[&str]) {
        for key in self.mapping().into_iter().flat_map(Map::keys) {
            if !known.contains(&key.as_str()) {
                let hint = nearest(key, known.iter().copied())
                    .map(|name| format!("; is {name} meant?"))
                    .unwrap_or_else(|| format!("; known are {}", known.join(", ")));
                self.key_problem(key, format!("is no field of this object{hint}"));
            }
        }
    }

    /// The keys of this mapping that are none of the `known`, each with the one that was probably
    /// meant.
    pub fn misspelt<'k>(
        &self,
        known: &'k [&'static str],
    ) -> impl Iterator<Item = (&'v str, &'static str)> + use<'v, 'k> {
        let fields = self.value.as_object().into_iter().flat_map(Map::keys);
        fields.filter_map(|key| {
            if known.contains(&key.as_str()) {
                return None;
            }
            Some((key.as_str(), nearest(key, known.iter().copied())?))
        })
    }

    /// How many problems the document has had up to now.
    pub fn problems_so_far(&self) -> usize {
        self.findings.errors.borrow().len()
    }

    /// Notes that this field has to be there. Silent where what it should be in is no mapping: that
    /// is the problem then, and [`Cursor::mapping`] names it.
    pub fn missing(&self, why: &str) {
        let nowhere = self
            .parent
            .is_some_and(|parent| parent.is_present() && !parent.value.is_object());
        if nowhere {
            return;
        }
        if why.is_empty() {
            self.problem("is missing");
        } else {
            self.problem(format!("is missing: {why}"));
        }
    }

    /// Notes something that is wrong with this field.
    pub fn problem(&self, message: impl Into<String>) {
        self.findings.errors.borrow_mut().push(FieldProblem {
            field: self.path(),
            message: message.into(),
        });
    }

    /// Notes something that is odd about this field and does not hold the object back.
    pub fn warn(&self, message: impl Into<String>) {
        self.findings.warnings.borrow_mut().push(FieldProblem {
            field: self.path(),
            message: message.into(),
        });
    }

    /// Reads one entry of a list by `read`. What can't be read in it is a warning and not an error:
    /// the entry alone is left out, as `left_out` says.
    pub fn leniently<T>(
        &self,
        left_out: &str,
        read: impl FnOnce(&Cursor<'v, '_>) -> Option<T>,
    ) -> Option<T> {
        let apart = Findings::default();
        let value = read(&Cursor {
            findings: &apart,
            ..*self
        });
        let (errors, warnings) = apart.into_parts();
        let is_whole = errors.is_empty();
        let errors = errors.into_iter().map(|error| FieldProblem {
            message: format!("{}: {left_out}", error.message),
            ..error
        });
        let mut all = self.findings.warnings.borrow_mut();
        all.extend(errors.chain(warnings));
        value.filter(|_| is_whole)
    }

    /// Notes something that is wrong with the entry `key` of this mapping, where `key` may hold
    /// dots and slashes, as annotation names do.
    pub fn key_problem(&self, key: &str, message: impl Into<String>) {
        let mut field = self.path();
        push_key(&mut field, key);
        self.findings.errors.borrow_mut().push(FieldProblem {
            field,
            message: message.into(),
        });
    }

    /// Notes what is here and what must be.
    pub fn wrong(&self, must: &str) {
        self.problem(format!("is {}, must be {must}", Described(self.value)));
    }

    /// The path to this field, as `spec.ports[0].nodePort`.
    pub fn path(&self) -> String {
        let mut path = self.parent.map(Cursor::path).unwrap_or_default();
        match self.segment {
            PathSegment::Root => {}
            PathSegment::Key(key) => push_key(&mut path, key),
            PathSegment::Index(index) => {
                let _ = write!(path, "[{index}]");
            }
        }
        path
    }
}

/// `80`, and `80.0` and `8e1` as well: they are whole numbers to Kubernetes' decoder too.
fn whole(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number.as_i64().or_else(|| {
        number
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
            .map(|float| float as i64)
    })
}

/// Plain names go behind a dot, the rest (annotation names) between brackets.
fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        let _ = write!(path, "[{}]", Shown(key));
    }
}

fn words_in_prose<T>(words: &[(&str, T)]) -> String {
    let mut prose = String::new();
    for (index, (word, _)) in words.iter().enumerate() {
        if index > 0 {
            prose.push_str(if index + 1 == words.len() {
                " or "
            } else {
                ", "
            });
        }
        prose.push_str(word);
    }
    prose
}

/// A value in words, short enough for a message.
struct Described<'a>(&'a Value);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("missing"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::String(text) if text.is_empty() => f.write_str("empty"),
            Value::String(text) => write!(f, "'{}'", Shown(text)),
            Value::Array(_) => f.write_str("a list"),
            Value::Object(_) => f.write_str("a mapping"),
        }
    }
}

/// A text from outside as it may stand in a message or a log line: shortened, and without control
/// characters.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 100;
        for (count, c) in self.0.chars().enumerate() {
            if count == MOST {
                return f.write_str("…");
            }
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// The one of `known` that `name` is probably a misspelling of: at most a third of its letters
/// away, letters of the other case counting as the same.
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Names of ours are short; what is long is no misspelling of one, and comparing it costs.
    if name.len() > 64 {
        return None;
    }
    let name = name.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            (strsim::osa_distance(&name, &lower), candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests;
