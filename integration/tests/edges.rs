//! What a cluster may do to a provider that is no fault of either.

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{Cluster, Component};
use fairway_integration::in_cluster::{Installed, NAMESPACE};
use fairway_integration::lab::Host;
use fairway_integration::site::vip;
use fairway_integration::{tests, wait};
use serde_json::json;
use tempfile::TempDir;

tests![
    may run beside others;
    a_status_that_admission_forbids_is_the_state_of_that_service,
    an_address_of_a_node_is_given_to_nobody,
    node_ports_are_asked_for_where_the_service_itself_sends_its_traffic_there,
    a_reversed_range_is_left_out_of_its_pool_and_the_pool_says_so,
    what_a_former_provider_left_in_the_status_is_removed,
    the_lease_of_a_gateway_that_is_gone_for_good_is_removed,
    gateways_know_each_other_and_their_key_by_the_cluster_and_without_it,
];

/// A rule of the cluster against statuses of Services with the label `guarded`.
const GUARD: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: guard}
spec:
  failurePolicy: Fail
  matchConstraints:
    objectSelector: {matchLabels: {guarded: 'yes'}}
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [services/status]}
  validations:
  - {expression: 'false', message: 'nobody writes here', reason: Forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: guard}
spec: {policyName: guard, validationActions: [Deny]}
";

fn a_status_that_admission_forbids_is_the_state_of_that_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    cluster.apply(GUARD)?;
    let guarded = |name: &str, kind: &str| {
        let metadata = json!({"name": name, "labels": {"guarded": "yes"}});
        let spec = json!({"type": kind, "ports": [{"port": 80}]});
        cluster
            .create(
                "Service",
                "shop",
                &json!({"metadata": metadata, "spec": spec}),
            )
            .map(drop)
    };
    guarded("probe", "ClusterIP")?;
    wait::until("the rule is in force", || {
        it.change_status("probe", json!({"conditions": []}))
            .is_err()
    })?;
    let mut controller = it.controller("controller-1", &["--default-class"])?;
    guarded("one", "LoadBalancer")?;
    let words = ["Rejected", "nobody writes here"];
    it.tells("one", "SyncLoadBalancerFailed", &words)?;
    controller.problem(&["Service shop/one", "nobody writes here"])?;
    controller.explains("shop/one", &["nobody writes here"])?;
    ensure!(controller.metric("fairway_rejected_writes", &[])? > 0.0);
    // Neither the process nor anybody else is held up.
    controller.ready()?;
    it.service("two", "ports: [{port: 80}]")?;
    let other = it.address("two")?;
    ensure!(it.addresses("one")?.is_empty());

    // What was decided stands, and is written as soon as it may be.
    cluster.delete("ValidatingAdmissionPolicyBinding", "", "guard")?;
    ensure!(it.address("one")? != other);
    wait::until_some("nothing is refused any more", || {
        let refused = controller.metric("fairway_rejected_writes", &[])?;
        ensure!(refused == 0.0, "{refused}");
        Ok::<_, anyhow::Error>(())
    })
}

fn an_address_of_a_node_is_given_to_nobody() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    cluster.node("node-a", &[vip(1)], &[])?;
    it.pool("edge", &["203.0.113.1-203.0.113.3"])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.service("web", "ports: [{port: 80}]")?;
    ensure!(it.address("web")? == vip(2));
    let asks = json!({"fairway.dev/addresses": "203.0.113.1"});
    it.asking(("shop", "greedy"), asks, json!({}))?;
    let words = ["NodeAddress", "203.0.113.1", "node 'node-a'"];
    it.says("greedy", "fairway.dev/AddressAssigned", &words)?;
    it.tells("greedy", "SyncLoadBalancerFailed", &words)?;
    let edge = || cluster.get_json("AddressPool", "", "edge");
    wait::until_some("the pool tells what it leaves out", || {
        let status = edge()?["status"].clone();
        let counts = json!({"total": 2, "used": 1, "available": 1});
        ensure!(status["ipv4"] == counts, "{status}");
        let ready = &status["conditions"][0];
        let message = ready["message"].as_str().unwrap_or_default();
        ensure!(message.contains("203.0.113.1 (node-a)"), "{status}");
        ensure!(ready["status"] == "True", "{status}");
        Ok::<_, anyhow::Error>(())
    })?;

    // A node that comes later takes nothing away.
    cluster.node("node-b", &[vip(2)], &[])?;
    it.says(
        "web",
        "fairway.dev/OutOfPool",
        &["True", "NodeAddress", "node 'node-b'"],
    )?;
    ensure!(it.addresses("web")? == ["203.0.113.2"]);
    cluster.delete("Node", "", "node-a")?;
    ensure!(it.address("greedy")? == vip(1));
    ensure!(it.addresses("web")? == ["203.0.113.2"]);
    Ok(())
}

fn node_ports_are_asked_for_where_the_service_itself_sends_its_traffic_there() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}]});
    let holder = json!({"metadata": {"name": "holder"}, "spec": spec});
    cluster.create("Service", "shop", &holder)?;
    // The dynamic band of this range begins with a number that the API server does not have, as if
    // somebody had been faster, and goes on with one that is taken.
    let range = ["--default-class", "--node-port-range", "29983-30100"];
    let mut controller = it.controller("controller-1", &range)?;
    let without = json!({"allocateLoadBalancerNodePorts": false});
    it.asking(("shop", "plain"), json!({}), without.clone())?;
    let asks = json!({"fairway.dev/forward-to": "node-ports"});
    let ports = json!([
        {"name": "tcp", "port": 53, "protocol": "TCP"},
        {"name": "udp", "port": 53, "protocol": "UDP"},
    ]);
    let mut spec = without;
    spec["ports"] = ports;
    it.asking(("shop", "web"), asks, spec)?;
    let numbers = |name: &str| -> Result<Vec<Option<u64>>> {
        let service = it.get(name)?;
        let ports = service["spec"]["ports"].as_array().cloned();
        let ports = ports.unwrap_or_default();
        Ok(ports.iter().map(|port| port["nodePort"].as_u64()).collect())
    };
    wait::until_some("each port has the number that is free", || {
        let numbers = numbers("web")?;
        ensure!(numbers == [Some(30001), Some(30001)], "{numbers:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    it.tells(
        "web",
        "NodePortsRefused",
        &["29999", "forward-to: node-ports"],
    )?;
    it.says(
        "web",
        "fairway.dev/NodePortsAllocated",
        &["True", "Allocated"],
    )?;
    ensure!(it.address("web")? == vip(2));
    ensure!(it.address("plain")? == vip(1));
    ensure!(numbers("plain")? == [None]);

    // What was given stays when nobody asks for it any more.
    it.change("web", json!({"metadata": {"annotations": null}}))?;
    it.service("next", "ports: [{port: 80}]")?;
    it.address("next")?;
    ensure!(numbers("web")? == [Some(30001), Some(30001)]);
    controller.ready()
}

fn a_reversed_range_is_left_out_of_its_pool_and_the_pool_says_so() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    // CEL can't compare addresses: the API server takes it.
    it.pool("edge", &["203.0.113.9-203.0.113.5", "203.0.113.1"])?;
    wait::until_some("the pool says what is wrong and what to do", || {
        let status = cluster.get_json("AddressPool", "", "edge")?["status"].clone();
        let ready = &status["conditions"][0];
        ensure!(ready["status"] == "False", "{status}");
        ensure!(ready["reason"] == "UnusableAddresses", "{status}");
        let message = ready["message"].as_str().unwrap_or_default();
        let words = ["spec.addresses[0]", "203.0.113.9-203.0.113.5", "swap them"];
        ensure!(words.iter().all(|it| message.contains(it)), "{status}");
        ensure!(status["ipv4"]["total"] == 1, "{status}");
        Ok::<_, anyhow::Error>(())
    })?;
    it.service("web", "ports: [{port: 80}]")?;
    ensure!(it.address("web")? == vip(1));
    Ok(())
}

fn what_a_former_provider_left_in_the_status_is_removed() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let left = [
        json!([{"hostname": "lb.example.com"}]),
        json!([{"ip": "198.51.100.77"}]),
        json!([{"ip": "198.51.100.77"}, {"hostname": "lb.example.com"}]),
    ];
    // Before there is a controller, and while one runs; with no address to give, and with one.
    it.service("old", "ports: [{port: 80}]")?;
    it.change_status("old", json!({"loadBalancer": {"ingress": left[0]}}))?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    let is = |name: &str, wanted: &[&str]| {
        wait::until_some(&format!("{name} has {wanted:?} and nothing else"), || {
            let status = it.get(name)?["status"]["loadBalancer"].clone();
            let ingress = status["ingress"].as_array().cloned().unwrap_or_default();
            let ips: Vec<_> = ingress.iter().map(|it| it["ip"].as_str()).collect();
            let wanted: Vec<_> = wanted.iter().copied().map(Some).collect();
            ensure!(ips == wanted, "{status}");
            ensure!(
                ingress.iter().all(|it| it["hostname"].is_null()),
                "{status}"
            );
            Ok::<_, anyhow::Error>(())
        })
    };
    is("old", &[])?;
    it.service("new", "ports: [{port: 80}]")?;
    for ingress in &left {
        it.says("new", "fairway.dev/AddressAssigned", &["False", "NoPools"])?;
        it.change_status("new", json!({"loadBalancer": {"ingress": ingress}}))?;
        is("new", &[])?;
    }
    it.pool("edge", &["203.0.113.1-203.0.113.4"])?;
    for name in ["old", "new"] {
        it.says(name, "fairway.dev/AddressAssigned", &["True"])?;
        let address = it.address(name)?.to_string();
        is(name, &[&address])?;
        for ingress in &left {
            it.change_status(name, json!({"loadBalancer": {"ingress": ingress}}))?;
            is(name, &[&address])?;
        }
    }
    Ok(())
}

fn the_lease_of_a_gateway_that_is_gone_for_good_is_removed() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let lease = |name: &str, renewed: &str| {
        let report = json!({"gateway": {
            "name": name, "version": "0.1.0", "ready": true, "why": "", "listening": 1,
            "failed": 0, "connections": 0, "flows": 0, "started": renewed,
        }});
        let object = json!({
            "metadata": {
                "name": format!("fairway-gateway-{name}"),
                "labels": {"fairway.dev/component": "gateway"},
                "annotations": {"fairway.dev/report": report.to_string()},
            },
            "spec": {
                "holderIdentity": name, "leaseDurationSeconds": 30, "renewTime": renewed,
            },
        });
        cluster.create("Lease", NAMESPACE, &object).map(drop)
    };
    lease("old", "2020-01-01T00:00:00.000000Z")?;
    // Its clock is ahead, and so it is not known how long it has been away.
    lease("silent", "2099-01-01T00:00:00.000000Z")?;
    let controller = it.controller("controller-1", &[])?;
    cluster.wait_gone("Lease", NAMESPACE, "fairway-gateway-old")?;
    wait::until_some("the one that is left is shown with its age", || {
        let rows = controller.list("gateways")?;
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (&row["name"], &row["ready"]))
            .collect();
        ensure!(shown == [(&json!("silent"), &json!(false))], "{rows:?}");
        let why = rows[0]["why"].as_str().unwrap_or_default();
        ensure!(why.contains("since 2099-01-01"), "{why}");
        Ok::<_, anyhow::Error>(())
    })
}

fn gateways_know_each_other_and_their_key_by_the_cluster_and_without_it() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let state = TempDir::with_prefix("fairway-state-")?;
    let folder = state.path().to_str().context("no UTF-8")?;
    let other = Host::new("edge-2")?;
    cluster.attach(&other)?;
    let mut one = it.gateway(&["--state", folder])?;
    let mut controller = it.controller("controller-1", &[])?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    let secret = || cluster.get_json("Secret", NAMESPACE, "fairway-fleet");
    ensure!(secret()?.get("data").is_none(), "nothing is announced");

    // With the first pool that announces on layer 2 there is a key, and it is the only one.
    let announce = json!({"spec": {"announce": {"layer2": {}}}});
    cluster.patch(("AddressPool", "", "edge"), "", &announce)?;
    let key = || -> Result<String> {
        let secret = secret()?;
        let key = secret["data"]["key"].as_str().context("no key")?;
        Ok(key.to_owned())
    };
    let made = wait::until_some("the controller makes a key", key)?;
    // 32 bytes in base64.
    ensure!(made.len() == 44, "{made}");
    one.logs(&["the key of the fleet is known"])?;
    let two = it.gateway_on(&other, "edge-2", &[])?;
    for (gateway, other) in [(&one, "gateway=edge-2"), (&two, "gateway=edge-1")] {
        // With its addresses, each with a prefix.
        gateway.logs(&["another gateway is known", other, "/"])?;
        gateway.logs(&["the key of the fleet is known"])?;
    }
    // The next leader finds it.
    controller.restart()?;
    controller.logs(&["the gateways have a key"])?;
    ensure!(key()? == made, "another key");

    // One that starts while the API server is away knows the other one and the key.
    cluster.stop_component(Component::ApiServer)?;
    one.restart()?;
    one.logs(&["another gateway is known", "gateway=edge-2", "/"])?;
    one.logs(&["the key of the fleet is known"])?;
    cluster.start_component(Component::ApiServer)
}
