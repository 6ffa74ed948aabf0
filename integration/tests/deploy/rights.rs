//! What the chart lets Fairway do.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::chart::VALUES;
use crate::helm::{NAMESPACE, object, objects, pod, texts};

/// What a role allows: `GROUP/RESOURCE VERB`, or `GROUP/RESOURCE/NAME VERB` of those of that name alone; the core's
/// group left empty.
fn allowed(role: &Value) -> BTreeSet<String> {
    let rules = role["rules"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut all = BTreeSet::new();
    for rule in rules {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let names = match texts(&rule["resourceNames"]) {
                    names if names.is_empty() => vec![String::new()],
                    names => names.iter().map(|name| format!("/{name}")).collect(),
                };
                for (name, verb) in names.iter().flat_map(|name| {
                    let verbs = texts(&rule["verbs"]).into_iter();
                    verbs.map(move |verb| (name, verb))
                }) {
                    all.insert(format!("{group}/{resource}{name} {verb}"));
                }
            }
        }
    }
    all
}

/// The same, written short: `GROUP/RESOURCE VERB VERB…`.
fn spelled(lines: &[&str]) -> BTreeSet<String> {
    let verbs = lines.iter().flat_map(|line| {
        let (resource, verbs) = line.split_once(' ').unwrap_or((line, ""));
        verbs
            .split(' ')
            .map(move |verb| format!("{resource} {verb}"))
    });
    verbs.collect()
}

fn roles(objects: &[Value]) -> impl Iterator<Item = &Value> {
    let kinds = ["ClusterRole", "Role"];
    objects
        .iter()
        .filter(move |it| kinds.contains(&it["kind"].as_str().unwrap_or_default()))
}

pub(crate) fn roles_hold_what_each_part_needs_and_no_more() -> Result<()> {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "ClusterRole",
            "fairway-controller",
            &[
                "/services list watch patch",
                "/services/status patch",
                "/namespaces list watch",
                "/nodes list watch",
                "events.k8s.io/events create",
                "coordination.k8s.io/leases get",
                "fairway.dev/addresspools list watch",
                "fairway.dev/addresspools/status patch",
                "fairway.dev/bgppeers list watch",
                "fairway.dev/bgppeers/status patch",
            ],
        ),
        (
            "ClusterRole",
            "fairway-gateway",
            &[
                "/services list watch",
                "/nodes list watch",
                "discovery.k8s.io/endpointslices list watch",
                "fairway.dev/addresspools list watch",
                "fairway.dev/bgppeers list watch",
            ],
        ),
        (
            "Role",
            "fairway-controller",
            &[
                "coordination.k8s.io/leases get list watch create update delete",
                "/secrets/fairway-fleet get patch",
            ],
        ),
        (
            "Role",
            "fairway-gateway",
            &[
                "coordination.k8s.io/leases list watch create patch",
                "/secrets/fairway-fleet list watch",
            ],
        ),
    ];
    let objects = objects(&[])?;
    ensure!(roles(&objects).count() == cases.len(), "other roles");
    for (kind, name, wanted) in cases {
        let role = object(&objects, kind, name)?;
        let (has, wanted) = (allowed(role), spelled(wanted));
        let more: Vec<_> = has.difference(&wanted).collect();
        let less: Vec<_> = wanted.difference(&has).collect();
        ensure!(
            more.is_empty() && less.is_empty(),
            "{kind} {name}: {more:?} too much, {less:?} not there"
        );

        let binding = object(&objects, &format!("{kind}Binding"), name)?;
        ensure!(binding["roleRef"]["kind"] == **kind && binding["roleRef"]["name"] == **name);
        let account = json!([{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]);
        ensure!(binding["subjects"] == account, "{binding}");
        let account = object(&objects, "ServiceAccount", name)?;
        ensure!(account["automountServiceAccountToken"] == false);
    }
    for gateway in [false, true] {
        let name = if gateway {
            "fairway-gateway"
        } else {
            "fairway-controller"
        };
        ensure!(pod(&objects, gateway)?["serviceAccountName"] == name);
    }
    Ok(())
}

pub(crate) fn no_role_has_a_wildcard_or_reads_secrets_of_others() -> Result<()> {
    for values in VALUES {
        let objects = objects(values)?;
        ensure!(roles(&objects).count() == 4, "{values:?}");
        for line in roles(&objects).flat_map(allowed) {
            ensure!(!line.contains('*'), "{values:?}: {line}");
            if line.starts_with("/secrets/fairway-fleet ") {
                continue;
            }
            let resource = line.split([' ', '/']).nth(1).unwrap_or_default();
            for other in [
                "secrets",
                "configmaps",
                "pods",
                "roles",
                "clusterroles",
                "tokenreviews",
            ] {
                ensure!(resource != other, "{values:?}: {line}");
            }
        }
        for binding in objects.iter().filter(|it| it.get("roleRef").is_some()) {
            // cluster-admin and its like are given by no binding of ours.
            ensure!(
                binding["roleRef"]["name"] == binding["metadata"]["name"],
                "{binding}"
            );
        }
    }
    Ok(())
}

pub(crate) fn a_gateway_can_write_nothing_but_leases_of_its_own_namespace() -> Result<()> {
    for values in VALUES {
        let objects = objects(values)?;
        let ours = |role: &&Value| {
            let name = role["metadata"]["name"].as_str().unwrap_or_default();
            name.ends_with("-gateway")
        };
        for role in roles(&objects).filter(ours) {
            for line in allowed(role) {
                let (resource, verb) = line.split_once(' ').context("no verb")?;
                let reads = ["list", "watch"].contains(&verb);
                let own = role["kind"] == "Role" && role["metadata"]["namespace"] == NAMESPACE;
                let lease = own && resource == "coordination.k8s.io/leases";
                let lease = lease && ["create", "patch"].contains(&verb);
                ensure!(reads || lease, "{values:?}: {line}");
            }
        }
    }
    Ok(())
}

/// Which of them, a role can't say; tests/leaders.rs shows that the API server holds to it.
pub(crate) fn a_gateway_is_held_to_its_own_lease() -> Result<()> {
    for values in VALUES {
        let objects = objects(values)?;
        let of_kind = |kind: &str| -> Result<&Value> {
            let mut all = objects.iter().filter(|it| it["kind"] == kind);
            let one = all
                .next()
                .with_context(|| format!("{values:?}: no {kind}"))?;
            ensure!(all.next().is_none(), "{values:?}: more than one {kind}");
            Ok(one)
        };
        let policy = of_kind("ValidatingAdmissionPolicy")?;
        let name = policy["metadata"]["name"].as_str().context("no name")?;
        // Of the account that the gateway has, and where it has rights.
        let account = object(&objects, "ServiceAccount", name)?;
        let gateway = object(&objects, "DaemonSet", name)?;
        let own = &gateway["spec"]["template"]["spec"]["serviceAccountName"];
        ensure!(*own == account["metadata"]["name"], "{own}");
        let spec = &policy["spec"];
        let user = format!("== 'system:serviceaccount:{NAMESPACE}:{name}'");
        let condition = spec["matchConditions"][0]["expression"].as_str();
        ensure!(condition.is_some_and(|it| it.ends_with(&user)), "{spec}");
        ensure!(spec["failurePolicy"] == "Fail");
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}});
        ensure!(spec["matchConstraints"]["namespaceSelector"] == selector);
        let binding = &of_kind("ValidatingAdmissionPolicyBinding")?["spec"];
        ensure!(*binding == json!({"policyName": name, "validationActions": ["Deny"]}));
    }
    Ok(())
}

/// The containers of a Pod, of which there is one, and what holds for it in either part.
fn container(pod: &Value) -> Result<&Value> {
    let containers = pod["containers"].as_array().context("no containers")?;
    ensure!(containers.len() == 1 && pod.get("initContainers").is_none());
    let own = &containers[0];
    ensure!(own["securityContext"]["allowPrivilegeEscalation"] == false);
    ensure!(own["securityContext"]["readOnlyRootFilesystem"] == true);
    ensure!(own["securityContext"]["capabilities"]["drop"] == json!(["ALL"]));
    ensure!(own["securityContext"].get("privileged").is_none());
    ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault");
    ensure!(pod.get("hostPID").is_none() && pod.get("hostIPC").is_none());
    // Two Pods in the host's network have one address: each is asked in its own container.
    let is_gateway = pod["hostNetwork"] == true;
    for (probe, question, path) in [
        ("livenessProbe", "alive", "/livez"),
        ("readinessProbe", "ready", "/readyz"),
    ] {
        let command = json!({"command": ["fairway", "probe", question]});
        let request = json!({"path": path, "port": "metrics"});
        let (way, asks) = match is_gateway {
            true => ("exec", command),
            false => ("httpGet", request),
        };
        ensure!(own[probe][way] == asks, "{own}");
    }
    Ok(own)
}

pub(crate) fn the_controller_is_nobody_and_has_no_capability() -> Result<()> {
    let objects = objects(&[])?;
    let pod = pod(&objects, false)?;
    let own = container(pod)?;
    ensure!(own["securityContext"]["capabilities"].get("add").is_none());
    ensure!(pod["securityContext"]["runAsNonRoot"] == true);
    ensure!(pod["securityContext"]["runAsUser"] == 65532);
    ensure!(pod.get("hostNetwork").is_none() && pod.get("volumes").is_none());
    ensure!(own["resources"]["requests"]["memory"].is_string());
    let spec = &object(&objects, "Deployment", "fairway-controller")?["spec"];
    ensure!(spec["replicas"] == 2);
    let budget = object(&objects, "PodDisruptionBudget", "fairway-controller")?;
    ensure!(budget["spec"]["maxUnavailable"] == 1);
    ensure!(budget["spec"]["selector"] == spec["selector"]);
    Ok(())
}

pub(crate) fn the_gateway_has_five_capabilities() -> Result<()> {
    let objects = objects(&[])?;
    let pod = pod(&objects, true)?;
    let own = container(pod)?;
    let added = texts(&own["securityContext"]["capabilities"]["add"]);
    ensure!(
        added
            == [
                "BPF",
                "NET_ADMIN",
                "NET_BIND_SERVICE",
                "NET_RAW",
                "SYS_NICE"
            ],
        "{added:?}"
    );
    // One place of the host's, and no more.
    let path = json!({"path": "/var/lib/fairway", "type": "DirectoryOrCreate"});
    ensure!(
        pod["volumes"]
            == json!([{"name": "state", "hostPath": path}, {"name": "run", "emptyDir": {}}]),
        "{pod}"
    );
    Ok(())
}

pub(crate) fn kernel_routes_add_one_device_and_no_capability() -> Result<()> {
    let (plain, with) = (objects(&[])?, objects(&["gateway.kernelRoutes=true"])?);
    let (plain, with) = (pod(&plain, true)?, pod(&with, true)?);
    let (of_plain, of_with) = (container(plain)?, container(with)?);
    ensure!(of_plain["securityContext"] == of_with["securityContext"]);
    ensure!(plain["securityContext"] == with["securityContext"]);
    let device = json!({"path": "/dev/net/tun", "type": "CharDevice"});
    let added = json!({"name": "tun", "hostPath": device});
    let volumes = with["volumes"].as_array().context("volumes")?;
    ensure!(
        volumes.len() == 3 && volumes.contains(&added),
        "{volumes:?}"
    );
    // To be written to, for that is how the interface is made.
    let mounts = of_with["volumeMounts"].as_array().context("mounts")?;
    let mount = json!({"name": "tun", "mountPath": "/dev/net/tun"});
    ensure!(mounts.contains(&mount), "{mounts:?}");
    Ok(())
}

pub(crate) fn the_controller_talks_to_the_api_server_and_to_dns_alone() -> Result<()> {
    let ports = |rule: &Value| -> Vec<String> {
        let all = rule["ports"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        all.iter()
            .map(|it| format!("{} {}", it["protocol"], it["port"]).replace('"', ""))
            .collect()
    };
    let all = objects(&["networkPolicy.apiServerPorts={6443}"])?;
    let policy = &object(&all, "NetworkPolicy", "fairway-controller")?["spec"];
    ensure!(policy["policyTypes"] == json!(["Ingress", "Egress"]));
    let controller = &object(&all, "Deployment", "fairway-controller")?["spec"];
    ensure!(policy["podSelector"] == controller["selector"]);
    let rules = |way: &str| -> Vec<Vec<String>> {
        let all = policy[way]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        all.iter().map(ports).collect()
    };
    ensure!(rules("ingress") == [vec!["TCP metrics"]], "{policy}");
    ensure!(
        rules("egress") == [vec!["TCP 6443"], vec!["UDP 53", "TCP 53"]],
        "{policy}"
    );
    let from = "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus";
    let all = objects(&[from])?;
    let policy = &object(&all, "NetworkPolicy", "fairway-controller")?["spec"];
    ensure!(policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app"] == "prometheus");
    let without = objects(&["networkPolicy.enabled=false"])?;
    ensure!(!without.is_empty() && without.iter().all(|it| it["kind"] != "NetworkPolicy"));
    Ok(())
}
