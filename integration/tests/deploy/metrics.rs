//! The metrics: what is exported, what METRICS.md says of them, what dashboard and alerts ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::ADMIN;
use fairway_integration::lab::Host;
use fairway_integration::{clients, programs, wait};

use crate::project::project;
use crate::promql::{Matcher, named};
use crate::watching::expressions;

/// Labels that Prometheus gives to whatever it scrapes.
const SCRAPED: &[&str] = &["instance", "job"];

/// The labels of a port of a Service.
const PORT: &[&str] = &["namespace", "service", "port", "protocol"];

/// A label's values, where they are known; any, where there are none.
type Values = BTreeSet<String>;

/// Metrics with their labels.
type Documented = BTreeMap<String, BTreeMap<String, Values>>;

/// The series of an exposition, by name.
pub(crate) type Series = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// Reads the series of an exposition.
pub(crate) fn series(exposition: &str) -> Result<Series> {
    let mut all = Series::new();
    for line in samples(exposition) {
        let (series, _value) = line.rsplit_once(' ').context(line.to_owned())?;
        let named = named(series)?;
        let [(name, labels)] = &named.metrics[..] else {
            bail!("not a series: {line}");
        };
        let labels = labels.iter().map(|it| (it.label.clone(), it.value.clone()));
        all.entry(name.clone()).or_default().push(labels.collect());
    }
    Ok(all)
}

/// The lines of an exposition that are samples.
pub(crate) fn samples(exposition: &str) -> impl Iterator<Item = &str> {
    let lines = exposition.lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// What METRICS.md says.
fn documented() -> Result<Documented> {
    let text = fs::read_to_string(project("deploy/METRICS.md"))?;
    let mut all = Documented::new();
    for line in text.lines().filter(|line| line.starts_with("| `fairway_")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next().context("no name")?.trim_matches('`');
        let mut labels: BTreeMap<String, Values> = BTreeMap::new();
        let mut last = String::new();
        for part in cells.next().context("no labels")?.split([',', ';']) {
            let part = part.trim();
            if part == "port" {
                labels.extend(
                    PORT.iter()
                        .map(|label| ((*label).to_owned(), Values::new())),
                );
            } else if let Some(label) = part.strip_prefix('`') {
                let (label, value) = label.split_once('`').context(line.to_owned())?;
                let values = labels.entry(label.to_owned()).or_default();
                values.extend(value.strip_prefix(':').map(|value| value.trim().to_owned()));
                label.clone_into(&mut last);
            } else if !part.is_empty() {
                let values = labels.get_mut(&last).context(line.to_owned())?;
                values.insert(part.to_owned());
            }
        }
        let before = all.insert(name.to_owned(), labels);
        ensure!(before.is_none(), "{name} is there twice");
    }
    ensure!(!all.is_empty(), "METRICS.md has no table");
    Ok(all)
}

/// The family that a series belongs to.
fn family<'a>(documented: &Documented, name: &'a str) -> &'a str {
    let parts = ["_bucket", "_sum", "_count"].into_iter();
    let mut families = parts.filter_map(|part| name.strip_suffix(part));
    let family = families.find(|family| documented.contains_key(*family));
    family.unwrap_or(name)
}

pub(crate) fn every_metric_is_documented_with_its_labels_and_nothing_else_is() -> Result<()> {
    let documented = documented()?;
    // The demo has a Service of each kind, and sends traffic to all of them.
    let host = Host::new("home")?;
    let mut command = Command::new(programs::fairway()?);
    command.args(["demo", "--admin", &ADMIN.to_string()]);
    let process = host.spawn(command)?;
    wait::until_within(
        Duration::from_secs(60),
        "the demo has done its round",
        || process.said().contains("Ctrl-C ends it"),
    )?;
    let exposition = host.run(|| clients::http_get(ADMIN, "/metrics"))?.body;
    let families: BTreeSet<&str> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE fairway_"))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    let known: BTreeSet<&str> = documented
        .keys()
        .filter_map(|name| name.strip_prefix("fairway_"))
        .collect();
    ensure!(
        families == known,
        "exported and not documented: {:?}; documented and not exported: {:?}",
        families.difference(&known).collect::<Vec<_>>(),
        known.difference(&families).collect::<Vec<_>>()
    );
    for (name, series) in series(&exposition)? {
        let Some(labels) = documented.get(family(&documented, &name)) else {
            ensure!(name.starts_with("process_"), "{name}");
            continue;
        };
        for (label, value) in series.iter().flatten() {
            let values = labels
                .get(label)
                .with_context(|| format!("{name}: the label {label} is not documented"))?;
            ensure!(
                values.is_empty() || values.contains(value),
                "{name}: {label}=\"{value}\" is not documented"
            );
        }
    }
    Ok(())
}

pub(crate) fn every_metric_that_is_watched_is_documented() -> Result<()> {
    let documented = documented()?;
    let mut faults = Vec::new();
    for (place, expression) in expressions()? {
        for fault in unknown(&expression, &documented)? {
            faults.push(format!("{place}: {fault}"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));

    // And what is not documented is found.
    for (expression, wanted) in [
        ("fairway_no_such_total", "fairway_no_such_total"),
        ("fairway_services{state=\"lost\"}", "state=\"lost\""),
        ("fairway_services{phase=\"pending\"}", "phase"),
        ("sum by (tenant) (fairway_services)", "tenant"),
    ] {
        let faults = unknown(expression, &documented)?;
        ensure!(
            faults.len() == 1 && faults[0].contains(wanted),
            "{expression}: {faults:?}"
        );
    }
    Ok(())
}

/// What an expression names that is not documented.
fn unknown(expression: &str, documented: &Documented) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let named = named(expression)?;
    let mut known: Vec<&str> = SCRAPED.to_vec();
    for (name, asked) in &named.metrics {
        // Of the process, and of the scrape itself.
        if name.starts_with("process_") || name == "up" {
            continue;
        }
        let Some(labels) = documented.get(family(documented, name)) else {
            faults.push(format!("there is no metric {name}"));
            continue;
        };
        known.extend(labels.keys().map(String::as_str));
        for Matcher {
            label,
            operator,
            value,
        } in asked
        {
            let there = labels.get(label).is_some_and(|values| {
                operator != "=" || values.is_empty() || values.contains(value)
            });
            if !there {
                faults.push(format!("{name} has no {label}{operator}\"{value}\""));
            }
        }
    }
    for label in &named.by {
        if faults.is_empty() && !known.contains(&label.as_str()) {
            faults.push(format!("{expression} has no label {label}"));
        }
    }
    Ok(faults)
}

pub(crate) fn no_text_names_a_metric_that_there_is_not() -> Result<()> {
    let documented = documented()?;
    let mut files = Vec::new();
    find(&project("deploy"), &mut files)?;
    files.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(project));
    let mut seen = 0;
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c| !is_word(c));
        for word in words.filter(|word| word.starts_with("fairway_")) {
            // Those are crates, in filters of the log and in the map of the code.
            let crates = ["gateway", "controller", "config", "integration"];
            if crates
                .iter()
                .any(|name| word["fairway_".len()..].starts_with(name))
            {
                continue;
            }
            seen += 1;
            ensure!(
                documented.contains_key(family(&documented, word)),
                "{} names {word}",
                path.display()
            );
        }
    }
    ensure!(seen > 50, "only {seen} names were found");
    Ok(())
}

/// The files of a folder and of those in it.
fn find(folder: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
