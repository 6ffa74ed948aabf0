//! What the chart's values do.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::helm::text;
use crate::project::project;

/// What a value makes of the chart's objects.
enum Effect {
    /// This is in them, and was not before.
    Adds(&'static str),
    /// This is gone.
    Removes(&'static str),
}

use Effect::{Adds, Removes};

/// Every value with one that is not the default. Those of a list go together.
const EFFECTS: &[&[(&str, Effect)]] = &[
    &[
        (
            "image.repository=registry.example/own",
            Adds("registry.example/own"),
        ),
        (
            "image.digest=sha256:1111111111111111111111111111111111111111111111111111111111111111",
            Adds("@sha256:11"),
        ),
        ("image.pullPolicy=Always", Adds("imagePullPolicy: Always")),
        ("imagePullSecrets[0].name=own-1", Adds("name: own-1")),
        ("fullnameOverride=own-2", Adds("name: own-2-gateway")),
        ("namespace.create=true", Adds("kind: Namespace")),
        ("class=example.com/own", Adds("--class=example.com/own")),
        ("defaultClass=true", Adds("--default-class")),
        (
            "nodePortRange=20000-22767",
            Adds("--node-port-range=20000-22767"),
        ),
        ("logFormat=text", Adds("--log-format=text")),
        ("pools[0].name=own-3", Adds("name: own-3")),
        (
            "pools[0].spec.addresses={203.0.113.0/28}",
            Adds("203.0.113.0/28"),
        ),
        ("controller.replicas=3", Adds("replicas: 3")),
        ("controller.admin.port=19901", Adds("127.0.0.1:19901")),
        (
            "controller.metrics.port=19902",
            Adds("containerPort: 19902"),
        ),
        ("controller.resources.requests.cpu=51m", Adds("cpu: 51m")),
        (
            "controller.resources.limits.memory=1001Mi",
            Adds("memory: 1001Mi"),
        ),
        (
            "controller.resources.claims[0].name=own-4",
            Adds("name: own-4"),
        ),
        (
            "controller.priorityClassName=own-5",
            Adds("priorityClassName: own-5"),
        ),
        ("controller.nodeSelector.own-6=here", Adds("own-6: here")),
        ("controller.tolerations[0].key=own-7", Adds("key: own-7")),
        (
            "controller.affinity.nodeAffinity.own-8=here",
            Adds("own-8: here"),
        ),
        ("controller.podAnnotations.own-9=here", Adds("own-9: here")),
        ("controller.podLabels.own-10=here", Adds("own-10: here")),
        (
            "controller.serviceAccount.annotations.own-11=here",
            Adds("own-11: here"),
        ),
        ("controller.extraArgs={--own-12}", Adds("--own-12")),
        ("gateway.nodeSelector.own-13=here", Adds("own-13: here")),
        ("gateway.tolerations[0].key=own-14", Adds("key: own-14")),
        ("gateway.admin.port=29901", Adds("127.0.0.1:29901")),
        (
            "gateway.metrics.address=192.0.2.9",
            Adds("--metrics=192.0.2.9:"),
        ),
        ("gateway.metrics.port=29902", Adds(":29902\"")),
        ("gateway.stateDir=/data/own", Adds("path: /data/own")),
        (
            "gateway.forwardTo=node-ports",
            Adds("--forward-to=node-ports"),
        ),
        (
            "gateway.drainTimeoutSeconds=77",
            Adds("--drain-timeout=77s"),
        ),
        ("gateway.passwordSecrets={own-15}", Adds("own-15")),
        ("gateway.kernelRoutes=true", Adds("path: /dev/net/tun")),
        ("gateway.workers=13", Adds("--workers=13")),
        (
            "gateway.nodeAddresses={192.0.2.77}",
            Adds("--node-address=192.0.2.77"),
        ),
        (
            "gateway.seccompProfile.type=Localhost",
            Adds("type: Localhost"),
        ),
        (
            "gateway.seccompProfile.localhostProfile=own-16.json",
            Adds("localhostProfile: own-16.json"),
        ),
        ("gateway.resources.requests.cpu=101m", Adds("cpu: 101m")),
        (
            "gateway.resources.limits.memory=1002Mi",
            Adds("memory: 1002Mi"),
        ),
        (
            "gateway.resources.claims[0].name=own-17",
            Adds("name: own-17"),
        ),
        (
            "gateway.priorityClassName=own-18",
            Adds("priorityClassName: own-18"),
        ),
        (
            "gateway.updateStrategy.rollingUpdate.maxSurge=5",
            Adds("maxSurge: 5"),
        ),
        ("gateway.podAnnotations.own-19=here", Adds("own-19: here")),
        ("gateway.podLabels.own-20=here", Adds("own-20: here")),
        (
            "gateway.serviceAccount.annotations.own-21=here",
            Adds("own-21: here"),
        ),
        ("gateway.extraArgs={--own-22}", Adds("--own-22")),
        ("networkPolicy.apiServerPorts={8443}", Adds("port: 8443")),
        (
            "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.own-23=here",
            Adds("own-23: here"),
        ),
        (
            "monitoring.serviceMonitor.enabled=true",
            Adds("kind: ServiceMonitor"),
        ),
        (
            "monitoring.serviceMonitor.interval=31s",
            Adds("interval: 31s"),
        ),
        (
            "monitoring.serviceMonitor.labels.own-24=here",
            Adds("own-24: here"),
        ),
        (
            "monitoring.rules.enabled=true",
            Adds("kind: PrometheusRule"),
        ),
        ("monitoring.rules.labels.own-25=here", Adds("own-25: here")),
        ("monitoring.dashboard.enabled=true", Adds("fairway.json:")),
        (
            "monitoring.dashboard.labels.own-26=here",
            Adds("own-26: here"),
        ),
        (
            "monitoring.dashboard.annotations.own-27=here",
            Adds("own-27: here"),
        ),
    ],
    &[
        ("image.tag=own-28", Adds("/fairway:own-28")),
        (
            "controller.podDisruptionBudget.enabled=false",
            Removes("kind: PodDisruptionBudget"),
        ),
        (
            "networkPolicy.enabled=false",
            Removes("kind: NetworkPolicy"),
        ),
        (
            "monitoring.podMonitor.enabled=true",
            Adds("kind: PodMonitor"),
        ),
        ("monitoring.podMonitor.interval=32s", Adds("interval: 32s")),
        (
            "monitoring.podMonitor.labels.own-29=here",
            Adds("own-29: here"),
        ),
    ],
];

/// Helm has it for charts that have this one in them.
const NOT_OURS: &str = "global";

pub(crate) fn every_value_of_the_chart_has_an_effect() -> Result<()> {
    let before = text(&[])?;
    for values in EFFECTS {
        let sets = values.iter().flat_map(|(value, _)| ["--set", value]);
        let after = text(&sets.collect::<Vec<_>>())?;
        for (value, effect) in *values {
            let (words, in_before, in_after) = match effect {
                Adds(words) => (words, false, true),
                Removes(words) => (words, true, false),
            };
            ensure!(
                before.contains(words) == in_before,
                "{value}: {words} by default"
            );
            ensure!(after.contains(words) == in_after, "{value}: {words}");
        }
    }
    let schema = fs::read_to_string(project("deploy/helm/fairway/values.schema.json"))?;
    let mut names = Vec::new();
    leaves(&serde_json::from_str(&schema)?, "", &mut names);
    ensure!(names.len() > 50, "{names:?}");
    let values: Vec<&str> = EFFECTS.iter().copied().flatten().map(|it| it.0).collect();
    for name in names.iter().filter(|name| *name != NOT_OURS) {
        let is_it = |value: &&&str| {
            let rest = value.strip_prefix(&**name);
            rest.is_some_and(|rest| rest.starts_with(['.', '[', '=']))
        };
        values
            .iter()
            .find(is_it)
            .with_context(|| format!("no effect of {name} is tested"))?;
    }
    Ok(())
}

/// The names of the values that have no others in them, as the schema has them.
fn leaves(schema: &Value, name: &str, into: &mut Vec<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            for (part, schema) in properties {
                let dot = if name.is_empty() { "" } else { "." };
                leaves(schema, &format!("{name}{dot}{part}"), into);
            }
        }
        None => into.push(name.to_owned()),
    }
}
