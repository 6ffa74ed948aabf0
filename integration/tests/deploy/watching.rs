//! The dashboard and the alerts.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::programs;
use serde_json::Value;

use crate::helm::{object, objects};
use crate::project::project;

pub(crate) fn promtool(arguments: &[&str]) -> Result<()> {
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

pub(crate) fn rules() -> Result<Vec<Value>> {
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
pub(crate) fn expressions() -> Result<Vec<(String, String)>> {
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
            // A gateway's Pod names no port.
            let is_named = (kind, part) != ("PodMonitor", "fairway-gateway");
            let endpoint = &spec[endpoints][0];
            match is_named {
                true => ensure!(endpoint["port"] == "metrics", "{spec}"),
                false => ensure!(
                    endpoint["relabelings"][0]["replacement"] == "$1:9902",
                    "{spec}"
                ),
            }
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
                    !selected.is_empty()
                        && selected.iter().all(|(key, value)| &labels[key] == value),
                    "{service}"
                );
            }
        }
    }
    let usual = objects(&[])?;
    ensure!(
        !usual.is_empty() && usual.iter().all(|it| it["kind"] != "ConfigMap"),
        "options are off"
    );
    Ok(())
}
