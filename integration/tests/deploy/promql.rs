//! Which metrics and labels an expression of PromQL names.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedMetrics {
    /// Metrics with what is asked of their labels.
    pub(crate) metrics: Vec<(String, Vec<Matcher>)>,
    /// Labels that series are put together or joined by.
    pub(crate) by: BTreeSet<String>,
}

/// What is asked of a label: its value is, or is not, or is like this.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    pub(crate) label: String,
    pub(crate) operator: String,
    pub(crate) value: String,
}

/// Words that are followed by labels in parentheses.
const BY: &[&str] = &[
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Words that stand between expressions, or before `by`.
const WORDS: &[&str] = &[
    "and", "or", "unless", "bool", "offset", "sum", "max", "min", "avg", "count", "topk",
];

/// Reads an expression. It need not be right, for promtool sees to that; what is not understood is
/// taken for a metric.
pub(crate) fn named(expression: &str) -> Result<NamedMetrics> {
    let mut named = NamedMetrics::default();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '"' || first == '\'' {
            rest = quoted(rest)?.1;
        } else if first == '[' {
            rest = rest.split_once(']').context("no ]")?.1;
        } else if first.is_ascii_digit() {
            // With its unit: 5m, 1e3.
            rest = word(rest).1;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let (word, after) = word(rest);
            let after = after.trim_start();
            rest = after;
            if BY.contains(&word) {
                if let Some(list) = after.strip_prefix('(') {
                    let (list, after) = list.split_once(')').context("no )")?;
                    let labels = list.split(',').map(str::trim).filter(|it| !it.is_empty());
                    named.by.extend(labels.map(str::to_owned));
                    rest = after;
                }
            } else if !WORDS.contains(&word) && !after.starts_with('(') {
                let mut asked = Vec::new();
                if let Some(list) = after.strip_prefix('{') {
                    rest = matchers(list, &mut asked)?;
                }
                named.metrics.push((word.to_owned(), asked));
            }
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(named)
}

/// Reads `label="value", … }` and says what follows.
fn matchers<'a>(mut rest: &'a str, asked: &mut Vec<Matcher>) -> Result<&'a str> {
    loop {
        rest = rest.trim_start_matches([' ', ',', '\n']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (label, after) = word(rest);
        let Some(start) = after.find(['"', '\'']).filter(|_| !label.is_empty()) else {
            bail!("labels that can't be read: {rest}");
        };
        let (value, after_value) = quoted(&after[start..])?;
        asked.push(Matcher {
            label: label.to_owned(),
            operator: after[..start].trim().to_owned(),
            value: value.to_owned(),
        });
        rest = after_value;
    }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    text.split_at(end.unwrap_or(text.len()))
}

/// A string without escapes, and what follows it.
fn quoted(text: &str) -> Result<(&str, &str)> {
    let quote = text.chars().next().context("no quote")?;
    text[1..]
        .split_once(quote)
        .context("a string without an end")
}

pub(crate) fn names_and_labels_are_told_from_the_language() -> Result<()> {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("up", &["up"], &[]),
        ("absent(a) and on () b", &["a", "b"], &[]),
        (
            "sum by (le, x) (rate(a_bucket[5m])) > 0.9",
            &["a_bucket"],
            &["le", "x"],
        ),
        (
            "sum(a{b=\"c\", d=~\"e.*\"}) without (f) / 1e3",
            &["a b=c d=~e.*"],
            &["f"],
        ),
        (
            "a{b!=\"x, y}\"} offset 5m or vector(0)",
            &["a b!=x, y}"],
            &[],
        ),
        ("rate(a{n=~\"$n\"}[$__rate_interval])", &["a n=~$n"], &[]),
    ];
    for (expression, metrics, by) in cases {
        let named = named(expression)?;
        let said: Vec<String> = named
            .metrics
            .iter()
            .map(|(name, asked)| {
                let asked = asked
                    .iter()
                    .map(|it| format!(" {}{}{}", it.label, it.operator, it.value));
                asked.fold(name.clone(), |said, it| said + &it)
            })
            .collect();
        ensure!(said == *metrics, "{expression}: {said:?}");
        ensure!(
            named.by.iter().eq(by.iter()),
            "{expression}: {:?}",
            named.by
        );
    }
    ensure!(named("a{b=\"c").is_err() && named("a[5m").is_err());
    Ok(())
}
