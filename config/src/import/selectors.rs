//! Lists of label selectors, of which one has to hold, as one selector.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::selector::{Operator, Requirement, Selector};

/// Selects what has one of `values` as its label `key`.
pub(super) fn one_of(key: &str, values: &[String]) -> LabelSelector {
    let mut values = values.to_vec();
    values.sort();
    values.dedup();
    LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: key.to_owned(),
            operator: "In".to_owned(),
            values: Some(values),
        }]),
        match_labels: None,
    }
}

/// One selector for what any of `selectors` selects; an empty list selects everything. Nothing
/// where one selector can't say it: they may differ in the values of one label, no more.
pub(super) fn any_of(selectors: &[LabelSelector]) -> Option<LabelSelector> {
    let mut all: Vec<(Vec<Requirement>, &LabelSelector)> = Vec::new();
    for selector in selectors {
        let requirements = normal(parsed(selector)?);
        if requirements.is_empty() {
            return Some(LabelSelector::default());
        }
        if !all.iter().any(|(other, _)| *other == requirements) {
            all.push((requirements, selector));
        }
    }
    let (first, rest) = match all.as_slice() {
        [] => return Some(LabelSelector::default()),
        [(_, alone)] => return Some((*alone).clone()),
        [(first, _), rest @ ..] => (first, rest),
    };
    let common: Vec<&Requirement> = first
        .iter()
        .filter(|it| rest.iter().all(|(other, _)| other.contains(it)))
        .collect();
    let mut key = None;
    let mut values = Vec::new();
    for (requirements, _) in &all {
        let mut own = requirements.iter().filter(|it| !common.contains(it));
        let (
            Some(Requirement {
                key: label,
                operator: Operator::In(some),
            }),
            None,
        ) = (own.next(), own.next())
        else {
            return None;
        };
        if *key.get_or_insert(label) != label {
            return None;
        }
        values.extend(some.iter().cloned());
    }
    let mut selector = one_of(key?, &values);
    selector
        .match_expressions
        .get_or_insert_default()
        .extend(common.into_iter().map(written));
    Some(selector)
}

/// As what it means; nothing where Kubernetes would not take it.
pub(super) fn parsed(selector: &LabelSelector) -> Option<Selector> {
    let mut requirements: Vec<Requirement> = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        })
        .collect();
    for entry in selector.match_expressions.iter().flatten() {
        let values = entry.values.clone().unwrap_or_default();
        let operator = match (entry.operator.as_str(), values.is_empty()) {
            ("In", false) => Operator::In(values),
            ("NotIn", false) => Operator::NotIn(values),
            ("Exists", true) => Operator::Exists,
            ("DoesNotExist", true) => Operator::DoesNotExist,
            _ => return None,
        };
        if entry.key.is_empty() {
            return None;
        }
        requirements.push(Requirement {
            key: entry.key.clone(),
            operator,
        });
    }
    Some(Selector { requirements })
}

/// Requirements that mean the same are the same.
fn normal(selector: Selector) -> Vec<Requirement> {
    let mut requirements = selector.requirements;
    for requirement in &mut requirements {
        if let Operator::In(values) | Operator::NotIn(values) = &mut requirement.operator {
            values.sort();
            values.dedup();
        }
    }
    requirements.sort_by_cached_key(in_word);
    requirements.dedup();
    requirements
}

fn written(requirement: &Requirement) -> LabelSelectorRequirement {
    let (operator, values) = match &requirement.operator {
        Operator::In(values) => ("In", Some(values.clone())),
        Operator::NotIn(values) => ("NotIn", Some(values.clone())),
        Operator::Exists => ("Exists", None),
        Operator::DoesNotExist => ("DoesNotExist", None),
    };
    LabelSelectorRequirement {
        key: requirement.key.clone(),
        operator: operator.to_owned(),
        values,
    }
}

/// As `kubectl -l` takes it.
pub(super) fn in_words(selector: &LabelSelector) -> String {
    let requirements = parsed(selector).unwrap_or_default().requirements;
    let words: Vec<String> = requirements.iter().map(in_word).collect();
    words.join(", ")
}

fn in_word(requirement: &Requirement) -> String {
    let key = &requirement.key;
    match &requirement.operator {
        Operator::In(values) => match values.as_slice() {
            [value] => format!("{key}={value}"),
            _ => format!("{key} in ({})", values.join(", ")),
        },
        Operator::NotIn(values) => format!("{key} notin ({})", values.join(", ")),
        Operator::Exists => key.clone(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}
