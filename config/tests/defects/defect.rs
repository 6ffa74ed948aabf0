//! Defects of documents, and every one of them at every place.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_config::object::{Object, read};
use serde_json::{Value, json};

/// One thing that goes wrong with a value, or with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    Null,
    WrongType,
    EmptyText,
    OutOfRange,
    MisspeltKey,
    UpperCaseKey,
    MappedAddress,
    LeadingZero,
}

const DEFECTS: [Defect; 8] = [
    Defect::Null,
    Defect::WrongType,
    Defect::EmptyText,
    Defect::OutOfRange,
    Defect::MisspeltKey,
    Defect::UpperCaseKey,
    Defect::MappedAddress,
    Defect::LeadingZero,
];

/// A way from the top to a value.
pub(crate) type Path = Vec<String>;

fn paths(value: &Value, at: &Path, found: &mut Vec<Path>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, it)| (key.clone(), it)).collect(),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(index, it)| (index.to_string(), it)).collect()
        }
        _ => Vec::new(),
    };
    for (key, child) in children {
        let mut path = at.clone();
        path.push(key);
        found.push(path.clone());
        paths(child, &path, found);
    }
}

fn parent<'v>(value: &'v mut Value, path: &Path) -> &'v mut Value {
    let mut at = value;
    for key in &path[..path.len() - 1] {
        at = match at {
            Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
            other => &mut other[key.as_str()],
        };
    }
    at
}

/// The object with the defect; nothing where there can be none of this kind.
fn with(object: &Value, path: &Path, defect: Defect) -> Option<Value> {
    let mut object = object.clone();
    let key = path.last().unwrap().clone();
    let parent = parent(&mut object, path);
    let value = match &*parent {
        Value::Array(items) => &items[key.parse::<usize>().unwrap()],
        other => &other[key.as_str()],
    };
    let other = match (defect, value) {
        (Defect::Null, _) => Value::Null,
        (Defect::WrongType, Value::String(_)) => json!({"a": 1}),
        // A text could be the name of a port.
        (Defect::WrongType, Value::Number(_) | Value::Bool(_)) => json!([1]),
        (Defect::WrongType, _) => json!("nonsense"),
        // A label may have no value: a selector for that is another one, and no defect.
        (Defect::EmptyText, _) if is_label_value(path) => return None,
        (Defect::EmptyText, Value::String(_)) => json!(""),
        (Defect::OutOfRange, Value::Number(_)) => json!(70_000),
        (Defect::OutOfRange, Value::String(text)) if text.contains('/') => {
            json!(format!("{text}999"))
        }
        (Defect::OutOfRange, Value::String(text)) if text.parse::<IpAddr>().is_ok() => {
            json!("999.0.0.1")
        }
        (Defect::MappedAddress, Value::String(text))
            if text.parse::<IpAddr>().is_ok_and(|it| it.is_ipv4()) =>
        {
            json!(format!("::ffff:{text}"))
        }
        (Defect::LeadingZero, Value::String(text))
            if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.') =>
        {
            json!(format!("0{text}"))
        }
        (Defect::MisspeltKey | Defect::UpperCaseKey, _) => {
            let fields = parent.as_object_mut()?;
            let value = fields.remove(&key)?;
            let misspelt = match defect {
                Defect::MisspeltKey if key.len() > 3 => {
                    let mut letters: Vec<char> = key.chars().collect();
                    letters.swap(key.len() / 2, key.len() / 2 - 1);
                    letters.into_iter().collect()
                }
                Defect::UpperCaseKey => {
                    let mut letters = key.chars();
                    let first = letters.next()?.to_ascii_uppercase();
                    first.to_string() + letters.as_str()
                }
                _ => return None,
            };
            if misspelt == key {
                return None;
            }
            fields.insert(misspelt, value);
            return Some(object);
        }
        _ => return None,
    };
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = other,
        fields => fields[key.as_str()] = other,
    }
    Some(object)
}

fn is_label_value(path: &Path) -> bool {
    path.iter()
        .any(|key| key == "matchLabels" || key == "values")
}

/// The object without the value; nothing for an entry of a list.
fn without(object: &Value, path: &Path) -> Option<Value> {
    let mut object = object.clone();
    parent(&mut object, path)
        .as_object_mut()?
        .remove(path.last().unwrap())?;
    Some(object)
}

/// The object that a document is read as, if it is one.
pub(crate) fn object(value: &Value) -> Option<Object> {
    Some(read(value).ok()?.object)
}

/// The object that the defective one is compared with, and the one without the field where that
/// means the same.
fn allowed(whole: &Value, path: &Path, defect: Defect) -> Vec<Value> {
    let not_said = matches!(defect, Defect::Null | Defect::EmptyText);
    let without = without(whole, path).filter(|_| not_said);
    std::iter::once(whole.clone()).chain(without).collect()
}

/// Every defect at every place of an object: there are a few hundred, so none is left to chance.
pub(crate) fn every_defect(whole: &Value, check: impl Fn(&Path, Defect, &Value, &[Value])) {
    let mut all = Vec::new();
    paths(whole, &Vec::new(), &mut all);
    for path in all {
        for defect in DEFECTS {
            if let Some(defective) = with(whole, &path, defect) {
                check(&path, defect, &defective, &allowed(whole, &path, defect));
            }
        }
    }
}

/// Labels of what is selected.
pub(crate) fn labels() -> Vec<BTreeMap<String, String>> {
    let of = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    vec![
        of(&[]),
        of(&[("team", "a")]),
        of(&[("team", "b")]),
        of(&[("team", "c")]),
        of(&[("team", "")]),
        of(&[("team", "a"), ("old", "yes")]),
    ]
}
