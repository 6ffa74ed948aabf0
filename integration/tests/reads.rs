//! What is read of the API server, how much of it there may be, and what is done before all of it is
//! there.

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{AtWork, DEFAULT_CLASS, Installed, MANIFESTS};
use fairway_integration::lab::Host;
use fairway_integration::routers::routed::peer_is;
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    nothing_is_decided_before_every_list_is_in,
    nothing_is_served_before_every_list_is_in,
    a_cluster_without_the_kind_of_peers_has_none_and_its_gateway_is_ready,
    lists_of_several_pages_are_read_whole,
    a_gateway_that_joins_or_goes_writes_to_no_service,
];

/// Takes from one of the two accounts the right to read a kind, or gives it back.
fn may_read(it: &Installed<'_>, account: &str, resource: &str, may: bool) -> Result<()> {
    let role = ("ClusterRole", "", account);
    let rules = it.cluster.get_json(role.0, role.1, role.2)?["rules"].take();
    let withheld = format!("withheld-{resource}");
    let (from, to) = match may {
        true => (withheld.as_str(), resource),
        false => (resource, withheld.as_str()),
    };
    let [from, to] = [from, to].map(|name| json!(name).to_string());
    let rules: Value = serde_json::from_str(&rules.to_string().replace(&from, &to))?;
    it.cluster.patch(role, "", &json!({"rules": rules}))?;
    // The API server reads roles in its own time.
    let kubeconfig = it.account(account)?;
    let question = format!("list {resource} -A");
    wait::until_some(&format!("{account} may {question}: {may}"), || {
        ensure!(it.cluster.may(&kubeconfig, &question)? == may);
        Ok(())
    })
}

/// Waits until that process says that it is not ready because of a kind.
fn waits_for(process: &Fairway, resource: &str) -> Result<()> {
    wait::until_some(&format!("it waits for {resource}"), || {
        let answer = process.get("/readyz")?;
        let says = answer.body.contains(resource) && answer.body.contains("orbidden");
        ensure!(answer.status == 503 && says, "{answer:?}");
        Ok(())
    })
}

/// One that is not ready, and will not be for a while.
fn member(it: &Installed<'_>, command: &'static str) -> Result<Fairway> {
    let account = it.account(&format!("fairway-{command}"))?;
    let mut member =
        Fairway::member(&it.site.edge, command, &account)?.arguments(&["--node-name", "edge-1"]);
    if command == "controller" {
        member = member.arguments(&[DEFAULT_CLASS]);
    }
    member.launch()?;
    Ok(member)
}

fn nothing_is_decided_before_every_list_is_in() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    // What it holds may be taken from it only by whoever knows all that there is.
    it.service("old", "ports: [{port: 80}]")?;
    it.change_status(
        "old",
        json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}),
    )?;
    it.service("new", "ports: [{port: 80}]")?;
    let before = ["old", "new"].map(|name| it.get(name));
    for resource in [
        "namespaces",
        "nodes",
        "addresspools",
        "bgppeers",
        "services",
    ] {
        may_read(&it, "fairway-controller", resource, false)?;
        let mut controller = member(&it, "controller")?;
        controller.logs(&["leading"])?;
        waits_for(&controller, resource)?;
        for (name, before) in ["old", "new"].into_iter().zip(&before) {
            let Ok(before) = before else { continue };
            ensure!(it.get(name)? == *before, "without {resource}");
        }
        // The next one need not wait for the end of the Lease.
        controller.stop()?;
        may_read(&it, "fairway-controller", resource, true)?;
    }
    let mut controller = member(&it, "controller")?;
    controller.ready()?;
    it.address("new")?;
    it.has("old", &["203.0.113.7".parse()?])
}

fn nothing_is_served_before_every_list_is_in() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controlled()?;
    let web = it.web()?;
    for resource in [
        "nodes",
        "addresspools",
        "bgppeers",
        "services",
        "endpointslices",
    ] {
        may_read(&it, "fairway-gateway", resource, false)?;
        let mut gateway = member(&it, "gateway")?;
        waits_for(&gateway, resource)?;
        ensure!(it.who(web.to).is_none(), "without {resource}");
        ensure!(gateway.list("listeners")?.is_empty(), "without {resource}");
        may_read(&it, "fairway-gateway", resource, true)?;
        gateway.ready()?;
        it.answers(web.ip, 80, Some("a"))?;
    }
    Ok(())
}

fn a_cluster_without_the_kind_of_peers_has_none_and_its_gateway_is_ready() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controlled()?;
    let web = it.web()?;
    // As a version of Fairway without BGPPeers left the cluster: neither the right nor the kind.
    let definition = "crd/bgppeers.fairway.dev";
    may_read(&it, "fairway-gateway", "bgppeers", false)?;
    cluster.kubectl(&["delete", definition, "--timeout=60s"])?;
    let mut gateway = member(&it, "gateway")?;
    gateway.ready()?;
    it.answers(web.ip, 80, Some("a"))?;
    // Both come while it runs.
    cluster.apply(MANIFESTS)?;
    let established = "--for=condition=Established";
    cluster.kubectl(&["wait", established, "--timeout=60s", definition])?;
    let peer = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "BGPPeer",
        "metadata": {"name": "tor"}, "spec": {"myASN": 64512, "peerASN": 64513,
        "peerAddress": "192.0.2.1", "passwordSecret": {"name": "tor", "namespace": "shop"}}});
    let kind = "bgppeers.fairway.dev";
    wait::until_some("BGPPeers are served", || {
        cluster.create(kind, "", &peer).map(drop)
    })?;
    let words = [
        "spec.passwordSecret",
        "another namespace than Fairway's own",
    ];
    peer_is(&gateway, "tor", "Idle", &words)?;
    cluster.delete(kind, "", "tor")?;
    wait::until_some("it is gone", || {
        let peers = gateway.list("peers")?;
        ensure!(peers.is_empty(), "{peers:?}");
        Ok(())
    })?;
    // The right alone is there, and the kind goes while it is watched.
    cluster.kubectl(&["delete", definition, "--timeout=60s"])?;
    gateway.stop()?;
    let mut gateway = member(&it, "gateway")?;
    gateway.ready()?;
    it.answers(web.ip, 80, Some("a"))
}

fn lists_of_several_pages_are_read_whole() -> Result<()> {
    // A page has 500 Services and 50 Nodes.
    const SERVICES: usize = 1100;
    const NODES: u8 = 120;
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["10.20.0.0/20"])?;
    let nodes: Vec<Value> = (0..NODES)
        .map(|n| json!({"metadata": {"name": format!("node-{n:03}")}}))
        .collect();
    cluster.create_all("Node", "", &nodes)?;
    // The last Node of the last page has an address that is the pool's first.
    let addresses = json!([{"type": "InternalIP", "address": "10.20.0.0"}]);
    let last = format!("node-{:03}", NODES - 1);
    cluster.patch(
        ("Node", "", &last),
        "status",
        &json!({"status": {"addresses": addresses}}),
    )?;
    let services: Vec<Value> = (0..SERVICES)
        .map(|n| {
            json!({"metadata": {"name": format!("web-{n:04}")}, "spec": {
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"port": 80}],
            }})
        })
        .collect();
    cluster.create_all("Service", "shop", &services)?;
    let mut controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
    cluster.wait_for_holders("shop", SERVICES)?;
    let held = cluster.holders("shop")?;
    let taken = held
        .values()
        .flatten()
        .any(|address| address == "10.20.0.0");
    ensure!(!taken, "the address of a Node was given out");
    // And as much is told to one that begins where another ended, when that one's term has run out.
    controller.restart()?;
    wait::until_some("it knows all of them", || {
        let known = controller.list("services")?;
        let known = known.iter().filter(|row| row["namespace"] == "shop");
        let known = known.count();
        ensure!(known == SERVICES, "{known}");
        Ok(())
    })?;
    controller.ready()?;
    ensure!(cluster.holders("shop")? == held, "some were given another");
    Ok(())
}

fn a_gateway_that_joins_or_goes_writes_to_no_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin_with(&cluster, &["203.0.113.0/27"], &[])?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    let others: Vec<Value> = (0..20)
        .map(|n| {
            json!({"metadata": {"name": format!("other-{n}")}, "spec": {
                "type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}],
            }})
        })
        .collect();
    cluster.create_all("Service", "shop", &others)?;
    for n in 0..20 {
        it.says(&format!("other-{n}"), "fairway.dev/Programmed", &["True"])?;
    }
    it.says("web", "fairway.dev/Programmed", &["True"])?;
    let versions = || -> Result<Vec<Value>> {
        let all = cluster.list("Service", "shop", "")?;
        Ok(all
            .iter()
            .map(|it| it["metadata"]["resourceVersion"].clone())
            .collect())
    };
    let gateways = |wanted: &[(&str, bool)]| {
        wait::until_some(&format!("the gateways are {wanted:?}"), || {
            let rows = it.controller.list("gateways")?;
            let are: Vec<(&str, bool)> = rows
                .iter()
                .filter_map(|row| Some((row["name"].as_str()?, row["ready"].as_bool()?)))
                .collect();
            ensure!(are == wanted, "{rows:?}");
            Ok(())
        })
    };
    gateways(&[("edge-1", true)])?;
    let before = versions()?;
    let host = Host::new("edge-2")?;
    cluster.attach(&host)?;
    let mut second = it.gateway_on(&host, "edge-2", &[])?;
    gateways(&[("edge-1", true), ("edge-2", true)])?;
    let row = it.controller.list("gateways")?[1].clone();
    ensure!(row["version"] == env!("CARGO_PKG_VERSION"), "{row}");
    ensure!(versions()? == before, "a Service was written to");
    // It dies, and is told of as one that is not there, with its age.
    second.kill();
    gateways(&[("edge-1", true), ("edge-2", false)])?;
    ensure!(versions()? == before, "a Service was written to");
    it.answers(web.ip, 80, Some("a"))
}
