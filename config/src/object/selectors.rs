//! Label selectors in a document.

use std::collections::BTreeSet;

use crate::field::Cursor;
use crate::selector::{Expression, Selector};

/// A field that is there and null is an error: most of them restrict something, and the default
/// does not. An API server has taken such fields out before.
pub(super) fn not_null(mapping: &Cursor<'_, '_>) {
    let fields = mapping.value().as_object().into_iter().flatten();
    for (key, _) in fields.filter(|(_, value)| value.is_null()) {
        mapping.key_problem(key, "is null: leave the field out, or say what is meant");
    }
}

/// A metav1.LabelSelector.
pub(super) fn selector(field: &Cursor<'_, '_>) -> Selector {
    field.only(&["matchLabels", "matchExpressions"]);
    not_null(field);
    let labels = field.field("matchLabels");
    not_null(&labels);
    let mut expressions: Vec<Expression> = labels
        .text_pairs()
        .map(|(key, value)| Expression::Equal(key.to_owned(), value.to_owned()))
        .collect();
    for entry in field.field("matchExpressions").items() {
        entry.only(&["key", "operator", "values"]);
        not_null(&entry);
        if entry.mapping().is_none() && !entry.is_present() {
            entry.wrong("a mapping");
        }
        let key_field = entry.field("key");
        let key = key_field.nonempty_text();
        if key.is_none() && !key_field.is_present() {
            key_field.missing("the name of a label");
        } else if key.is_none() {
            key_field.wrong("the name of a label");
        }
        let operator_field = entry.field("operator");
        if !operator_field.is_present() {
            operator_field.missing("In, NotIn, Exists or DoesNotExist");
        }
        let values_field = entry.field("values");
        let values: BTreeSet<String> = values_field
            .items()
            .filter_map(|value| {
                if !value.is_present() {
                    value.wrong("a text");
                }
                value.text().map(str::to_owned)
            })
            .collect();
        let operator = match operator_field.one_of(&[
            ("In", (true, true)),
            ("NotIn", (true, false)),
            ("Exists", (false, true)),
            ("DoesNotExist", (false, false)),
        ]) {
            Some((takes_values, _)) if takes_values == values.is_empty() => {
                values_field.problem(if takes_values {
                    "is empty: In and NotIn need values"
                } else {
                    "is not empty: Exists and DoesNotExist take no values"
                });
                continue;
            }
            Some(takes) => takes,
            None => continue,
        };
        let Some(key) = key.map(str::to_owned) else {
            continue;
        };
        expressions.push(match operator {
            (true, true) => Expression::In(key, values),
            (true, false) => Expression::NotIn(key, values),
            (false, true) => Expression::Exists(key),
            (false, false) => Expression::DoesNotExist(key),
        });
    }
    expressions.into_iter().collect()
}
