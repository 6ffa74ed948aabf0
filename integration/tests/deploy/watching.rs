//! The dashboard and the alerts.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::ADMIN;
use fairway_integration::lab::Host;
use fairway_integration::{clients, programs, wait};
use serde_json::Value;

use crate::helm::{object, objects};
use crate::project::project;
use crate::promql::{Matcher, named};

/// Labels that Prometheus gives to whatever it scrapes.
const SCRAPED: &[&str] = &["instance", "job"];

fn promtool(arguments: &[&str]) -> Result<()> {
    let output = Command::new(programs::find("promtool")?)
        .args(arguments)
        .current_dir(project(""))
        .output()?;
    if !output.status.success() {
        let [out, err] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
        bail!("promtool {}: {out}{err}", arguments.join(" "));
    }
    Ok(())
}

pub(crate) fn promtool_finds_no_fault_with_the_alerts() -> Result<()> {
    promtool(&["check", "rules", "deploy/alerts/fairway.yaml"])?;
    promtool(&["test", "rules", "deploy/alerts/tests.yaml"])
}

fn groups() -> Result<Value> {
    let text = fs::read_to_string(project("deploy/alerts/fairway.yaml"))?;
    Ok(serde_saphyr::from_str(&text)?)
}

fn rules() -> Result<Vec<Value>> {
    let groups = groups()?;
    let groups = groups["groups"].as_array().context("no groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    Ok(rules.flatten().cloned().collect())
}

fn dashboard() -> Result<Value> {
    let text = fs::read_to_string(project("deploy/dashboards/fairway.json"))?;
    Ok(serde_json::from_str(&text)?)
}

pub(crate) fn every_alert_is_tested_and_says_what_to_do() -> Result<()> {
    let tests = fs::read_to_string(project("deploy/alerts/tests.yaml"))?;
    for rule in rules()? {
        let name = rule["alert"].as_str().context("not an alert")?;
        ensure!(
            tests.contains(&format!("alertname=\"{name}\"")),
            "{name} has no test"
        );
        for annotation in ["summary", "description", "runbook"] {
            ensure!(
                rule["annotations"][annotation].is_string(),
                "{name} has no {annotation}"
            );
        }
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        ensure!(
            ["critical", "warning", "info"].contains(&severity),
            "{name}: {severity}"
        );
    }
    Ok(())
}

/// Every expression of dashboard and alerts, with where it is.
fn expressions() -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for rule in rules()? {
        let text = rule["expr"].as_str().context("no expr")?;
        all.push((format!("alert {}", rule["alert"]), text.to_owned()));
    }
    let dashboard = dashboard()?;
    for panel in dashboard["panels"].as_array().context("no panels")? {
        let targets = panel["targets"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        ensure!(
            panel["type"] == "row" || !targets.is_empty(),
            "{} is empty",
            panel["title"]
        );
        for target in targets {
            let text = target["expr"].as_str().context("no expr")?;
            all.push((format!("panel {}", panel["title"]), text.to_owned()));
        }
    }
    for variable in dashboard["templating"]["list"]
        .as_array()
        .context("no variables")?
    {
        let Some(text) = variable["definition"].as_str() else {
            continue;
        };
        // label_values(METRIC, LABEL), which is Grafana's, as PromQL.
        let inner = text
            .strip_prefix("label_values(")
            .and_then(|it| it.strip_suffix(')'));
        let (metric, label) = inner
            .and_then(|it| it.rsplit_once(','))
            .context(text.to_owned())?;
        let text = format!("sum by ({}) ({metric})", label.trim());
        all.push((format!("variable {}", variable["name"]), text));
    }
    Ok(all)
}

type Series = BTreeMap<String, Vec<BTreeMap<String, String>>>;

/// The series of an exposition, by name.
fn series(exposition: &str) -> Result<Series> {
    let mut all = Series::new();
    for line in exposition
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
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

pub(crate) fn every_metric_that_is_watched_is_exposed() -> Result<()> {
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
    let series = series(&exposition)?;
    let mut faults = Vec::new();
    for (place, expression) in expressions()? {
        for fault in unknown(&expression, &series)? {
            faults.push(format!("{place}: {fault}"));
        }
    }
    ensure!(faults.is_empty(), "{}\n{exposition}", faults.join("\n"));

    // And what is not exposed is found.
    for (expression, wanted) in [
        ("fairway_no_such_total", "fairway_no_such_total"),
        ("fairway_services{state=\"lost\"}", "state=\"lost\""),
        ("fairway_services{phase=\"pending\"}", "phase"),
        ("sum by (tenant) (fairway_services)", "tenant"),
    ] {
        let faults = unknown(expression, &series)?;
        ensure!(
            faults.len() == 1 && faults[0].contains(wanted),
            "{expression}: {faults:?}"
        );
    }
    Ok(())
}

/// What an expression names that no series has.
fn unknown(expression: &str, series: &Series) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let named = named(expression)?;
    let mut labels: Vec<&str> = SCRAPED.to_vec();
    for (name, asked) in &named.metrics {
        let Some(series) = series.get(name) else {
            faults.push(format!("there is no metric {name}"));
            continue;
        };
        labels.extend(series.iter().flat_map(BTreeMap::keys).map(String::as_str));
        for Matcher {
            label,
            operator,
            value,
        } in asked
        {
            let there = series.iter().any(|labels| match labels.get(label) {
                Some(has) => operator != "=" || has == value,
                None => false,
            });
            if !there {
                faults.push(format!("{name} has no {label}{operator}\"{value}\""));
            }
        }
    }
    for label in &named.by {
        if faults.is_empty() && !labels.contains(&label.as_str()) {
            faults.push(format!("{expression} has no label {label}"));
        }
    }
    Ok(faults)
}

pub(crate) fn the_operators_objects_hold_the_same_alerts_and_dashboard() -> Result<()> {
    let all = objects(&[
        "monitoring.rules.enabled=true",
        "monitoring.dashboard.enabled=true",
        "monitoring.rules.labels.release=prometheus",
    ])?;
    let rule = object(&all, "PrometheusRule", "fairway")?;
    ensure!(rule["spec"] == groups()?, "{rule}");
    ensure!(rule["metadata"]["labels"]["release"] == "prometheus");
    let map = object(&all, "ConfigMap", "fairway-dashboard")?;
    let text = map["data"]["fairway.json"]
        .as_str()
        .context("no dashboard")?;
    ensure!(serde_json::from_str::<Value>(text)? == dashboard()?);
    ensure!(map["metadata"]["labels"]["grafana_dashboard"] == "1");

    for (option, kind, endpoints) in [
        (
            "monitoring.serviceMonitor.enabled=true",
            "ServiceMonitor",
            "endpoints",
        ),
        (
            "monitoring.podMonitor.enabled=true",
            "PodMonitor",
            "podMetricsEndpoints",
        ),
    ] {
        let all = objects(&[option])?;
        for part in ["fairway-controller", "fairway-gateway"] {
            let spec = &object(&all, kind, part)?["spec"];
            ensure!(spec[endpoints][0]["port"] == "metrics", "{spec}");
            // Else `namespace` and `service` would be Fairway's own, and no alert would name whose
            // traffic it is about.
            ensure!(spec[endpoints][0]["honorLabels"] == true, "{spec}");
            if kind == "ServiceMonitor" {
                let service = object(&all, "Service", part)?;
                let labels = &service["metadata"]["labels"];
                let selected = spec["selector"]["matchLabels"]
                    .as_object()
                    .context("no labels")?;
                ensure!(
                    selected.iter().all(|(key, value)| &labels[key] == value),
                    "{service}"
                );
            }
        }
    }
    ensure!(
        objects(&[])?.iter().all(|it| it["kind"] != "ConfigMap"),
        "options are off"
    );
    Ok(())
}
