//! BGP in a cluster: BGPPeers and their passwords by the real API server, two gateways as hosts of their own, BIRD as
//! their router.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::{Installed, NAMESPACE};
use fairway_integration::routers::Bird;
use fairway_integration::routers::routed::{
    ID, OURS, RoutedSite, THEIRS, edge, peer_is, router, session,
};
use fairway_integration::site::{server, vip};
use fairway_integration::{tests, wait};
use rustix::process::Signal;
use serde_json::json;

tests![gateways_of_a_cluster_announce_to_a_router_and_one_is_killed];

/// What the chart's `gateway.passwordSecrets: [tor]` comes to.
const MAY_READ: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: passwords, namespace: fairway-system}
rules:
- {apiGroups: [''], resources: [secrets], resourceNames: [tor], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: passwords, namespace: fairway-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: passwords}
subjects: [{kind: ServiceAccount, name: fairway-gateway, namespace: fairway-system}]
";

/// Waits until `kubectl` shows that the BGPPeer `tor-N` is ready or not, with these words.
fn ready(cluster: &Cluster, number: u8, status: &str, words: &[&str]) -> Result<()> {
    let name = format!("tor-{number}");
    wait::until_some(&format!("{name} is ready: {status} {words:?}"), || {
        let peer = cluster.get_json("bgppeers.fairway.dev", "", &name)?;
        let condition = &peer["status"]["conditions"][0];
        let said = condition.to_string();
        ensure!(
            condition["type"] == "Ready"
                && condition["status"] == status
                && words.iter().all(|word| said.contains(word)),
            "{said}"
        );
        Ok(())
    })
}

fn gateways_of_a_cluster_announce_to_a_router_and_one_is_killed() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let site = RoutedSite::new(2)?;
    let password = "password \"hush\";";
    let sessions = session(1, password) + &session(2, "");
    let bird = Bird::start(&site.router, ID, &sessions)?;
    it.pool_of("edge", "addresses: [203.0.113.1], announce: {bgp: {}}")?;
    for n in 1..=2 {
        cluster.node(
            &format!("edge-{n}"),
            &[edge(n)],
            &[("link", &n.to_string())],
        )?;
        let mut spec = json!({
            "myASN": OURS, "peerASN": THEIRS, "peerAddress": router(n).to_string(),
            "connectTime": "1s", "nodeSelectors": [{"matchLabels": {"link": n.to_string()}}],
        });
        if n == 1 {
            spec["passwordSecret"] = json!({"name": "tor", "namespace": NAMESPACE});
        }
        let peer = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": format!("tor-{n}")}, "spec": spec});
        cluster.create("bgppeers.fairway.dev", "", &peer)?;
    }
    let controller = it.controller("controller-1", &["--default-class"])?;
    it.service("web", "ports: [{port: 80}]")?;
    it.pod("web", 0, server(0), "edge-1")?;
    ensure!(it.address("web")? == vip(1));
    let mut gateways = Vec::new();
    for n in 1..=2 {
        let edge = site.edge(n)?;
        cluster.attach(&edge.host)?;
        gateways.push(it.gateway_on(&edge.host, &edge.name, &[])?);
    }
    let [one, two] = &mut gateways[..] else {
        bail!("two gateways");
    };
    // Each has the session of its Node.
    peer_is(two, "tor-2", "Established", &["\"prefixes\":1"])?;
    ready(&cluster, 2, "True", &["Established", "edge-2 has one"])?;
    bird.reaches(vip(1), &[edge(2)])?;
    // The password: neither the right nor the Secret, then the right alone, then both.
    peer_is(
        one,
        "tor-1",
        "Idle",
        &["spec.passwordSecret", "gateways read it"],
    )?;
    ready(
        &cluster,
        1,
        "False",
        &["NotEstablished", "edge-1 has none", "passwordSecret"],
    )?;
    cluster.apply(MAY_READ)?;
    peer_is(
        one,
        "tor-1",
        "Idle",
        &["the Secret tor, which is not there"],
    )?;
    let secret = |password: &str| {
        cluster.apply(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: tor, namespace: {NAMESPACE}}}, \
             type: kubernetes.io/basic-auth, stringData: {{password: {password}}}}}"
        ))
    };
    secret("hush")?;
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    let both: BTreeSet<String> = ["edge-1", "edge-2"].map(str::to_owned).into();
    ensure!(site.answers(vip(1))? == both);
    ready(&cluster, 1, "True", &["Established", "edge-1 has one"])?;
    // The controller says the same of all.
    for n in 1..=2 {
        let (peer, edge) = (format!("tor-{n}"), format!("\"edge-{n}\""));
        peer_is(&controller, &peer, "Established", &[&edge])?;
    }
    let table = cluster.kubectl(&["get", "bgppeers"])?;
    ensure!(table.matches("True").count() == 2, "{table}");
    // The session is of the BGPPeer as it is now.
    let spec = json!({"spec": {"connectTime": "2s"}});
    cluster.patch(("bgppeers.fairway.dev", "", "tor-2"), "", &spec)?;
    ready(&cluster, 2, "True", &["\"observedGeneration\":2"])?;
    // Another password is another session.
    secret("wrong")?;
    bird.reaches(vip(1), &[edge(2)])?;
    secret("hush")?;
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    // Where kube-proxy forwards, the address is announced all the same: by the gateways of Nodes with an endpoint.
    it.pool_of(
        "nodes",
        "addresses: [203.0.113.77], autoAssign: false, forwarding: Node, announce: {bgp: {}}",
    )?;
    let (asks, local) = (
        json!({"fairway.dev/pool": "nodes"}),
        json!({"allocateLoadBalancerNodePorts": false}),
    );
    it.asking(("shop", "direct"), asks, local)?;
    it.pod("direct", 0, server(1), "edge-2")?;
    bird.reaches(vip(77), &[edge(1), edge(2)])?;
    it.change(
        "direct",
        json!({"spec": {"externalTrafficPolicy": "Local"}}),
    )?;
    bird.reaches(vip(77), &[edge(2)])?;
    cluster.delete("Pod", "shop", "direct-0")?;
    bird.reaches(vip(77), &[])?;
    // One is killed: the router turns to the other, and comes back.
    one.process()?.signal(Signal::KILL)?;
    bird.reaches(vip(1), &[edge(2)])?;
    ensure!(site.answers(vip(1))? == BTreeSet::from(["edge-2".to_owned()]));
    one.restart()?;
    bird.reaches(vip(1), &[edge(1), edge(2)])?;
    ready(&cluster, 1, "True", &["edge-1 has one"])?;
    cluster.delete("Secret", NAMESPACE, "tor")?;
    bird.reaches(vip(1), &[edge(2)])?;
    ready(
        &cluster,
        1,
        "False",
        &["the Secret tor, which is not there"],
    )?;
    peer_is(
        one,
        "tor-1",
        "Idle",
        &["the Secret tor, which is not there"],
    )?;
    // One that stops is none any more.
    two.stop()?;
    ready(&cluster, 2, "False", &["NoGateway"])?;
    // Nobody has logged the password.
    let said = one.process()?.said();
    ensure!(!said.contains("hush"), "{said}");
    Ok(())
}
