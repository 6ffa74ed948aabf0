//! Lists of label selectors, of which one has to hold, as one selector.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::selector::{Expression, Selector};

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
    let mut all: Vec<(Vec<Expression>, &LabelSelector)> = Vec::new();
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
    let common: Vec<&Expression> = first
        .iter()
        .filter(|it| rest.iter().all(|(other, _)| other.contains(it)))
        .collect();
    let mut key = None;
    let mut values = Vec::new();
    for (requirements, _) in &all {
        let mut own = requirements.iter().filter(|it| !common.contains(it));
        let (Some(Expression::In(label, some)), None) = (own.next(), own.next()) else {
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
        .extend(common.into_iter().filter_map(written));
    Some(selector)
}

/// As what it means; nothing where Kubernetes would not take it.
pub(super) fn parsed(selector: &LabelSelector) -> Option<Selector> {
    let is_legal = |it: &LabelSelectorRequirement| {
        let takes_values = ["In", "NotIn"].contains(&it.operator.as_str());
        let has_values = it.values.as_ref().is_some_and(|values| !values.is_empty());
        !it.key.is_empty() && takes_values == has_values
    };
    if !selector.match_expressions.iter().flatten().all(is_legal) {
        return None;
    }
    Selector::try_from(selector.clone()).ok()
}

/// Requirements that mean the same are the same.
fn normal(selector: Selector) -> Vec<Expression> {
    let one_form = |expression| match expression {
        Expression::Equal(key, value) => Expression::In(key, [value].into()),
        other => other,
    };
    let mut expressions: Vec<_> = selector.into_iter().map(one_form).collect();
    expressions.sort_by_cached_key(in_word);
    expressions.dedup();
    expressions
}

fn written(expression: &Expression) -> Option<LabelSelectorRequirement> {
    let selector = LabelSelector::from(Selector::from(expression.clone()));
    selector.match_expressions?.pop()
}

/// The label that an expression is about.
pub(super) fn label(expression: &Expression) -> &str {
    match expression {
        Expression::In(key, _)
        | Expression::NotIn(key, _)
        | Expression::Equal(key, _)
        | Expression::NotEqual(key, _)
        | Expression::Exists(key)
        | Expression::DoesNotExist(key) => key,
    }
}

/// As `kubectl -l` takes it.
pub(super) fn in_words(selector: &LabelSelector) -> String {
    let words: Vec<String> = parsed(selector)
        .unwrap_or_default()
        .into_iter()
        .map(|it| in_word(&it))
        .collect();
    words.join(", ")
}

fn in_word(expression: &Expression) -> String {
    let joined = |values: &BTreeSet<String>| {
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        values.join(", ")
    };
    match expression {
        Expression::In(key, values) if values.len() == 1 => format!("{key}={}", joined(values)),
        Expression::In(key, values) => format!("{key} in ({})", joined(values)),
        Expression::NotIn(key, values) => format!("{key} notin ({})", joined(values)),
        other => other.to_string(),
    }
}
