//! The chart, rendered.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use fairway_integration::programs;
use serde_json::Value;

use crate::project::project;

/// How the plain manifests are made of the chart.
pub(crate) const MANIFESTS: &[&str] = &["--include-crds", "--set", "namespace.create=true"];

/// Fairway's namespace in every rendering.
pub(crate) const NAMESPACE: &str = "fairway-system";

/// Runs Helm, away from whatever cluster its user has.
pub(crate) fn helm(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(programs::tool("helm")?);
    command
        .args(arguments)
        .current_dir(project(""))
        .env("KUBECONFIG", "/dev/null");
    Ok(command.output()?)
}

/// `helm template` of a chart with these arguments.
pub(crate) fn template_of(chart: &str, arguments: &[&str]) -> Result<Output> {
    let mut all = vec!["template", "fairway", chart, "--namespace", NAMESPACE];
    all.extend(arguments);
    helm(&all)
}

/// What the chart makes with these arguments, as text.
pub(crate) fn text(arguments: &[&str]) -> Result<String> {
    let output = template_of("deploy/helm/fairway", arguments)?;
    if !output.status.success() {
        bail!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What the chart makes with these values (`name=value`).
pub(crate) fn objects(values: &[&str]) -> Result<Vec<Value>> {
    let sets = values.iter().flat_map(|value| ["--set", value]);
    documents(&text(&sets.collect::<Vec<_>>())?)
}

/// The documents of a YAML file.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).context("not YAML")?;
    Ok(all
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// The one object of this kind and name.
pub(crate) fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    objects
        .iter()
        .find(|it| it["kind"] == kind && it["metadata"]["name"] == name)
        .with_context(|| format!("there is no {kind} {name}"))
}

/// The Pod of the controller (`false`) or of the gateway (`true`): its spec.
pub(crate) fn pod(objects: &[Value], gateway: bool) -> Result<&Value> {
    let workload = match gateway {
        true => object(objects, "DaemonSet", "fairway-gateway")?,
        false => object(objects, "Deployment", "fairway-controller")?,
    };
    Ok(&workload["spec"]["template"]["spec"])
}

/// The texts of a list; empty where it is none.
pub(crate) fn texts(list: &Value) -> Vec<&str> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).collect()
}
