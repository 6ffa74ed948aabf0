//! Whether the chart is well made.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::programs;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::helm::{
    MANIFESTS, NAMESPACE, documents, helm, object, objects, pod, template_of, text, texts,
};
use crate::project::project;

/// Values of which each must render, besides none at all.
pub(crate) const VALUES: &[&[&str]] = &[
    &[],
    &[
        "defaultClass=true",
        "class=example.com/edge",
        "logFormat=text",
        "nodePortRange=20000-22767",
    ],
    &["fullnameOverride=edge", "namespace.create=true"],
    &[
        "image.repository=localhost:5000/fairway",
        "image.tag=next",
        "imagePullSecrets[0].name=pull",
    ],
    &[
        "pools[0].name=edge",
        "pools[0].spec.addresses={203.0.113.0/28,2001:db8::/120}",
    ],
    &[
        "controller.replicas=1",
        "controller.metrics.port=19902",
        "controller.podDisruptionBudget.enabled=false",
        "controller.resources=null",
        "controller.nodeSelector=null",
        "controller.tolerations[0].operator=Exists",
        "controller.podAnnotations.note=here",
        "controller.serviceAccount.annotations.note=here",
    ],
    &[
        "gateway.forwardTo=node-ports",
        "gateway.drainTimeoutSeconds=600",
        "gateway.workers=2",
        "gateway.seccompProfile.type=Unconfined",
        "gateway.nodeAddresses={192.0.2.1,2001:db8::1}",
        "gateway.metrics.address=[$(POD_IP)]",
        "gateway.stateDir=/data/fairway",
        "gateway.tolerations[0].operator=Exists",
        "gateway.updateStrategy.rollingUpdate=null",
        "gateway.updateStrategy.type=OnDelete",
        "gateway.podLabels.tier=edge",
        "gateway.priorityClassName=",
    ],
    &["networkPolicy.enabled=false"],
    &[
        "networkPolicy.apiServerPorts={8443}",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
    ],
    &[
        "monitoring.serviceMonitor.enabled=true",
        "monitoring.rules.enabled=true",
        "monitoring.dashboard.enabled=true",
    ],
    &[
        "monitoring.podMonitor.enabled=true",
        "monitoring.podMonitor.labels.release=prometheus",
    ],
];

pub(crate) fn helm_finds_no_fault_with_the_chart() -> Result<()> {
    let output = helm(&["lint", "--strict", "deploy/helm/fairway"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    ensure!(
        !said.contains("[WARNING]") && !said.contains("[ERROR]"),
        "{said}"
    );
    Ok(())
}

pub(crate) fn the_chart_renders_with_all_kinds_of_values() -> Result<()> {
    for values in VALUES {
        let mut seen = BTreeSet::new();
        for object in objects(values).with_context(|| format!("{values:?}"))? {
            let metadata = &object["metadata"];
            let id = format!("{} {}", object["kind"], metadata["name"]);
            ensure!(metadata["name"].is_string(), "{values:?}: {object}");
            let of_cluster = [
                "Namespace",
                "ClusterRole",
                "ClusterRoleBinding",
                "AddressPool",
                "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding",
            ];
            if !of_cluster.contains(&object["kind"].as_str().unwrap_or_default()) {
                ensure!(metadata["namespace"] == NAMESPACE, "{values:?}: {id}");
            }
            ensure!(seen.insert(id.clone()), "{values:?}: {id} twice");
        }
    }
    // What is asked for is there.
    let edge = &objects(VALUES[4])?;
    ensure!(object(edge, "AddressPool", "edge")?["spec"]["addresses"][1] == "2001:db8::/120");
    ensure!(object(&objects(VALUES[2])?, "Namespace", NAMESPACE).is_ok());
    let elsewhere = objects(VALUES[3])?;
    let image = &pod(&elsewhere, true)?["containers"][0]["image"];
    ensure!(image == "localhost:5000/fairway:next", "{image}");
    let own = objects(VALUES[1])?;
    let arguments = texts(&pod(&own, false)?["containers"][0]["args"]);
    ensure!(
        arguments.contains(&"--node-port-range=20000-22767"),
        "{arguments:?}"
    );
    Ok(())
}

pub(crate) fn every_object_is_one_that_the_api_server_knows() -> Result<()> {
    for values in VALUES {
        for object in objects(values)? {
            let known = match object["kind"].as_str().unwrap_or_default() {
                "ClusterRole" => known::<ClusterRole>(&object),
                "ClusterRoleBinding" => known::<ClusterRoleBinding>(&object),
                "ConfigMap" => known::<ConfigMap>(&object),
                "DaemonSet" => known::<DaemonSet>(&object),
                "Deployment" => known::<Deployment>(&object),
                "Namespace" => known::<Namespace>(&object),
                "NetworkPolicy" => known::<NetworkPolicy>(&object),
                "PodDisruptionBudget" => known::<PodDisruptionBudget>(&object),
                "Role" => known::<Role>(&object),
                "RoleBinding" => known::<RoleBinding>(&object),
                "Secret" => known::<Secret>(&object),
                "Service" => known::<Service>(&object),
                "ServiceAccount" => known::<ServiceAccount>(&object),
                "ValidatingAdmissionPolicy" => known::<ValidatingAdmissionPolicy>(&object),
                "ValidatingAdmissionPolicyBinding" => {
                    known::<ValidatingAdmissionPolicyBinding>(&object)
                }
                // Of the operator's CRDs, and of ours.
                "AddressPool" | "PodMonitor" | "PrometheusRule" | "ServiceMonitor" => Ok(()),
                other => bail!("a {other} was not expected"),
            };
            known.with_context(|| format!("{values:?}: {}", object["metadata"]["name"]))?;
        }
    }
    Ok(())
}

/// As a kubelet takes it from its folder of static Pods: it has no API server to ask for what a Pod refers to.
pub(crate) fn the_static_pod_of_the_api_servers_example_is_one_that_a_kubelet_knows() -> Result<()>
{
    let folder = project("deploy/examples/api-server");
    let objects = documents(&fs::read_to_string(folder.join("fairway.yaml"))?)?;
    let [pod] = &objects[..] else {
        bail!("one Pod was expected: {objects:?}");
    };
    known::<Pod>(pod)?;
    let spec = &pod["spec"];
    ensure!(spec["hostNetwork"] == true && spec.get("serviceAccountName").is_none());
    let volumes = spec["volumes"].as_array().context("volumes")?;
    ensure!(
        volumes.iter().all(|it| it["hostPath"].is_object()),
        "{volumes:?}"
    );
    let container = &spec["containers"][0];
    let variables = container["env"].as_array().context("variables")?;
    ensure!(
        variables
            .iter()
            .all(|it| it["valueFrom"]["fieldRef"].is_object()),
        "{variables:?}"
    );
    // Each folder that a flag names is there.
    let mounts: Vec<&str> = container["volumeMounts"]
        .as_array()
        .context("mounts")?
        .iter()
        .filter_map(|it| it["mountPath"].as_str())
        .collect();
    for flag in ["--manifests=", "--state=", "--peers-key-file="] {
        let path = texts(&container["args"])
            .into_iter()
            .find_map(|it| it.strip_prefix(flag))
            .with_context(|| format!("no {flag}"))?;
        ensure!(mounts.iter().any(|mount| path.starts_with(mount)), "{path}");
    }
    let output = Command::new(programs::fairway()?)
        .arg("validate")
        .arg(folder.join("manifests"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}");
    // More than the time for connections to end.
    ensure!(spec["terminationGracePeriodSeconds"].as_u64() >= Some(45));
    Ok(())
}

/// Whether an object has the fields of its type and no other: what the type does not know is lost
/// on the way through it.
fn known<T: Serialize + DeserializeOwned>(object: &Value) -> Result<()> {
    let through = serde_json::to_value(serde_json::from_value::<T>(object.clone())?)?;
    lost(object, &through, "")
}

fn lost(before: &Value, after: &Value, path: &str) -> Result<()> {
    match (before, after) {
        (Value::Object(before), _) => before.iter().try_for_each(|(key, value)| {
            let path = format!("{path}.{key}");
            match after.get(key) {
                Some(after) => lost(value, after, &path),
                None => bail!("no field {path}"),
            }
        }),
        (Value::Array(before), Value::Array(after)) => {
            let mut both = before.iter().zip(after).enumerate();
            both.try_for_each(|(n, (before, after))| lost(before, after, &format!("{path}[{n}]")))
        }
        _ => Ok(()),
    }
}

pub(crate) fn wrong_values_are_refused_with_a_sentence_that_helps() -> Result<()> {
    let cases: &[(&str, &[&str])] = &[
        (
            "gateway.forwardTo=pods",
            &["/gateway/forwardTo", "'endpoints', 'node-ports'"],
        ),
        (
            "gateway.forwardto=endpoints",
            &["/gateway", "'forwardto' not allowed"],
        ),
        (
            "controller.metrics.port=80",
            &["/controller/metrics/port", "want 1,024"],
        ),
        ("controller.replicas=0", &["/controller/replicas", "want 1"]),
        (
            "gateway.drainTimeoutSeconds=30s",
            &["/gateway/drainTimeoutSeconds", "want integer"],
        ),
        (
            "gateway.nodeSelector=null",
            &["/gateway", "missing property 'nodeSelector'"],
        ),
        (
            "gateway.stateDir=state",
            &["/gateway/stateDir", "'state' does not match"],
        ),
        (
            "gateway.extraArgs={verbose}",
            &["/gateway/extraArgs/0", "'verbose' does not match"],
        ),
        ("class=two words", &["/class", "'two words' does not match"]),
        ("defaultClass=yes", &["/defaultClass", "want boolean"]),
        (
            "image.repository=fairway:1",
            &["/image/repository", "'fairway:1' does not match"],
        ),
        ("logFormat=xml", &["/logFormat", "'text', 'json'"]),
        ("nodePortRange=30000", &["/nodePortRange", "want string"]),
        (
            "nodePortRange=32767-30000",
            &["nodePortRange: 32767-30000 is no range of ports"],
        ),
        (
            "nodePortRange=30000-70000",
            &["nodePortRange: 30000-70000 is no range of ports"],
        ),
        (
            "pools[0].name=edge",
            &["/pools/0", "missing property 'spec'"],
        ),
        (
            "networkPolicy.apiServerPorts=null",
            &["/networkPolicy", "missing property 'apiServerPorts'"],
        ),
        (
            "gateway.admin.port=9902",
            &["gateway.admin.port and gateway.metrics.port have to differ"],
        ),
        (
            "monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true",
            &["monitoring.serviceMonitor or monitoring.podMonitor, not both"],
        ),
    ];
    for (value, wanted) in cases {
        let output = template_of("deploy/helm/fairway", &["--set", value])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{value} was taken");
        for words in *wanted {
            ensure!(said.contains(words), "{value}: '{words}' is not in: {said}");
        }
    }
    Ok(())
}

pub(crate) fn the_notes_tell_the_next_command() -> Result<()> {
    let plain = notes(&[])?;
    for words in [
        "kubectl label node NODE fairway.dev/edge=true",
        "kubectl -n fairway-system rollout status daemonset/fairway-gateway",
        "kubectl -n default get service hello --watch",
        "exec daemonset/fairway-gateway -- fairway explain service default/hello",
    ] {
        ensure!(plain.contains(words), "'{words}' is not in: {plain}");
    }
    let [pool, service] = &pasted(&plain)?[..] else {
        bail!("a pool and a Service were expected: {plain}");
    };
    ensure!(pool["kind"] == "AddressPool" && service["kind"] == "Service");
    ensure!(service["spec"]["loadBalancerClass"] == "fairway.dev/gateway");

    // Of the user's values.
    let own = notes(&[
        "--set",
        "class=example.com/edge",
        "--set",
        "gateway.nodeSelector.zone=dmz",
    ])?;
    ensure!(pasted(&own)?[1]["spec"]["loadBalancerClass"] == "example.com/edge");
    ensure!(
        own.contains("label node NODE fairway.dev/edge=true zone=dmz"),
        "{own}"
    );
    let default = notes(&["--set", "defaultClass=true"])?;
    ensure!(
        pasted(&default)?[1]["spec"]
            .get("loadBalancerClass")
            .is_none()
    );
    let pools = [
        "--set",
        "pools[0].name=a",
        "--set",
        "pools[0].spec.addresses={203.0.113.0/28}",
    ];
    let with_pool = notes(&pools)?;
    ensure!(pasted(&with_pool)?.len() == 1 && with_pool.contains("kubectl get apool"));
    Ok(())
}

/// The notes. Helm prints them on an install alone, which needs a cluster; so they are a template
/// of a copy of the chart.
fn notes(arguments: &[&str]) -> Result<String> {
    let folder = tempfile::TempDir::with_prefix("fairway-chart-")?;
    let chart = project("deploy/helm/fairway");
    fs::create_dir(folder.path().join("templates"))?;
    let files = [
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "templates/_helpers.tpl",
    ];
    for file in files {
        fs::copy(chart.join(file), folder.path().join(file))?;
    }
    let notes = fs::read_to_string(chart.join("templates/NOTES.txt"))?;
    fs::write(
        folder.path().join("templates/notes.yaml"),
        format!(
            "{{{{ define \"notes\" }}}}{notes}{{{{ end }}}}notes: {{{{ include \"notes\" . | toJson }}}}\n"
        ),
    )?;
    let output = template_of(&folder.path().display().to_string(), arguments)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rendered = documents(&String::from_utf8(output.stdout)?)?;
    let notes = rendered.first().and_then(|it| it["notes"].as_str());
    Ok(notes.context("no notes")?.to_owned())
}

/// The objects that a person pastes, which must be right: what stands between <<'END' and END, each
/// at the beginning of its line.
fn pasted(notes: &str) -> Result<Vec<Value>> {
    let mut texts = Vec::new();
    let mut rest = notes;
    while let Some((_, after)) = rest.split_once("kubectl apply -f - <<'END'\n") {
        let (text, after) = after.split_once("\nEND\n").context("no END")?;
        texts.push(text);
        rest = after;
    }
    let folder = tempfile::TempDir::with_prefix("fairway-notes-")?;
    let path = folder.path().join("pasted.yaml");
    let text = texts.join("\n---\n");
    fs::write(&path, &text)?;
    let output = Command::new(programs::fairway()?)
        .arg("validate")
        .arg(&path)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Where the pool is the user's own, there is none beside the Service here.
    ensure!(output.status.success() || texts.len() < 2, "{said}\n{text}");
    documents(&text)
}

pub(crate) fn the_plain_manifests_are_the_charts() -> Result<()> {
    let manifests = fs::read_to_string(project("deploy/manifests/fairway.yaml"))?;
    ensure!(
        manifests == text(MANIFESTS)?,
        "deploy/manifests/fairway.yaml is not what the chart makes. This makes it (`cargo xtask \
         tools` names the folder of helm):\n\
         helm template fairway deploy/helm/fairway --namespace {NAMESPACE} {} \
         > deploy/manifests/fairway.yaml",
        MANIFESTS.join(" ")
    );
    Ok(())
}

pub(crate) fn the_crds_are_the_programs() -> Result<()> {
    let output = Command::new(programs::fairway()?).arg("crds").output()?;
    let folder = project("deploy/helm/fairway/crds");
    let files = ["addresspools.yaml", "bgppeers.yaml"];
    ensure!(fs::read_dir(&folder)?.count() == files.len(), "other files");
    let texts: Vec<String> = files
        .iter()
        .map(|file| fs::read_to_string(folder.join(file)))
        .collect::<Result<_, _>>()?;
    ensure!(
        String::from_utf8(output.stdout)? == texts.join("---\n"),
        "the chart's CRDs are not the program's. These are the documents of `cargo run -- crds`, one \
         for each file of deploy/helm/fairway/crds; the manifests are to be made after them"
    );
    Ok(())
}

pub(crate) fn versions_are_the_workspaces() -> Result<()> {
    let chart = fs::read_to_string(project("deploy/helm/fairway/Chart.yaml"))?;
    let chart: Value = serde_saphyr::from_str(&chart)?;
    for field in ["version", "appVersion"] {
        ensure!(
            chart[field] == env!("CARGO_PKG_VERSION"),
            "{field} of Chart.yaml"
        );
    }
    let image = fs::read_to_string(project("deploy/Containerfile"))?;
    for words in [
        concat!(
            "docker.io/library/rust:",
            env!("CARGO_PKG_RUST_VERSION"),
            "-"
        ),
        concat!("ARG VERSION=", env!("CARGO_PKG_VERSION"), "\n"),
        // The chart's user, who is nobody.
        "\nUSER 65532:65532\n",
        "\nFROM scratch\n",
    ] {
        ensure!(
            image.contains(words),
            "'{words}' is not in deploy/Containerfile"
        );
    }
    for line in image
        .lines()
        .filter(|line| line.starts_with("COPY ") && !line.contains("--from"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        for path in &words[1..words.len() - 1] {
            ensure!(project(path).exists(), "{path} is not there: {line}");
        }
    }
    Ok(())
}

pub(crate) fn flags_are_ones_that_the_program_takes() -> Result<()> {
    for values in VALUES {
        let objects = objects(values)?;
        if values.contains(&"fullnameOverride=edge") {
            continue;
        }
        for gateway in [false, true] {
            let container = &pod(&objects, gateway)?["containers"][0];
            let filled = |text: &str| {
                text.replace("[$(POD_IP)]", "[::1]")
                    .replace("$(POD_IP)", "127.0.0.1")
                    .replace("$(NODE_NAME)", "node")
                    .replace("$(POD_NAME)", "pod")
            };
            for probe in ["livenessProbe", "readinessProbe"] {
                let command = texts(&container[probe]["exec"]["command"]);
                let Some((program, arguments)) = command.split_first() else {
                    continue;
                };
                ensure!(*program == "fairway", "{command:?}");
                let mut asks = Command::new(programs::fairway()?);
                let said = asks.args(arguments).arg("--help").output()?;
                ensure!(said.status.success(), "{command:?}: {said:?}");
            }
            let arguments: Vec<String> =
                texts(&container["args"]).into_iter().map(filled).collect();
            let admin = container["env"]
                .as_array()
                .and_then(|all| all.iter().find(|it| it["name"] == "FAIRWAY_ADMIN"))
                .and_then(|it| it["value"].as_str())
                .context("no FAIRWAY_ADMIN")?;
            let admin: SocketAddr = admin.parse()?;
            ensure!(admin.ip().is_loopback(), "{admin}");
            // Flags are judged in their order, so that --help at the end is reached where all before
            // it are right.
            let output = Command::new(programs::fairway()?)
                .args(&arguments)
                .arg("--help")
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{values:?}: {arguments:?}: {said}");
        }
    }
    Ok(())
}

pub(crate) fn a_gateway_has_time_to_drain() -> Result<()> {
    for seconds in [0, 30, 600] {
        let value = format!("gateway.drainTimeoutSeconds={seconds}");
        let objects = objects(&[&value])?;
        let pod = pod(&objects, true)?;
        let flag = format!("--drain-timeout={seconds}s");
        ensure!(texts(&pod["containers"][0]["args"]).contains(&flag.as_str()));
        let grace = pod["terminationGracePeriodSeconds"].as_u64();
        ensure!(
            grace.is_some_and(|grace| grace >= seconds + 10),
            "{grace:?}"
        );
    }
    Ok(())
}

pub(crate) fn controller_and_gateway_do_not_clash_on_a_host() -> Result<()> {
    let objects = objects(&[])?;
    let (controller, gateway) = (pod(&objects, false)?, pod(&objects, true)?);
    ensure!(gateway["hostNetwork"] == true);
    // A network of its own has ports of its own.
    ensure!(controller.get("hostNetwork").is_none());
    ensure!(
        controller["containers"][0]["ports"][0]
            .get("hostPort")
            .is_none()
    );
    ensure!(gateway["nodeSelector"]["fairway.dev/edge"] == "true");
    // A port that is named would be a host port, and a new Pod could not start beside the old one.
    let container = &gateway["containers"][0];
    ensure!(container.get("ports").is_none(), "{container}");
    let daemon_set = object(&objects, "DaemonSet", "fairway-gateway")?;
    let rolling = &daemon_set["spec"]["updateStrategy"]["rollingUpdate"];
    ensure!(
        rolling["maxSurge"] == 1 && rolling["maxUnavailable"] == 0,
        "{rolling}"
    );
    ensure!(texts(&container["args"]).contains(&"--take-over"));
    // Of two Pods in one network each answers for itself.
    for probe in ["livenessProbe", "readinessProbe"] {
        ensure!(container[probe].get("exec").is_some(), "{container}");
    }
    let is_uid = |it: &Value| {
        it["name"] == "FAIRWAY_POD" && it["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
    };
    let environment = container["env"].as_array().context("env")?;
    ensure!(environment.iter().any(is_uid), "{environment:?}");
    // Not on the external addresses, which are local on an edge node.
    let arguments = texts(&gateway["containers"][0]["args"]);
    ensure!(
        arguments.contains(&"--metrics=$(POD_IP):9902"),
        "{arguments:?}"
    );
    Ok(())
}
