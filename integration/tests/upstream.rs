//! What Kubernetes' own tests ask of a load balancer (test/e2e/network/loadbalancer.go), of a
//! gateway that reaches the endpoints itself. `contract.rs` has what they ask of the Service object,
//! `nodes.rs` what they ask where traffic passes through nodes.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::{AtWork, Installed};
use fairway_integration::lab::Served;
use fairway_integration::load::Load;
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{EDGE, at, server, vip, vip6};
use fairway_integration::{clients, tests, wait};
use serde_json::json;

tests![
    may run beside others;
    without_endpoints_connections_are_refused_and_nothing_answers,
    node_ports_follow_a_live_service,
    a_udp_flow_follows_its_pod_from_node_to_node,
    a_rolling_update_loses_no_request,
    the_families_of_a_live_service_change,
    each_step_of_a_load_balancer_is_told_in_an_event,
];

/// Waits until a client that connects is refused, and one that sends a datagram is told so too.
fn refuses(it: &Installed<'_>, to: SocketAddr, udp: bool) -> Result<()> {
    wait::until_some(&format!("{to} refuses"), || {
        let who = it.site.client.run(|| match udp {
            true => clients::who_udp(None, to),
            false => clients::who(to),
        });
        match who {
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("{other:?}"),
        }
    })
}

fn without_endpoints_connections_are_refused_and_nothing_answers() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let _tcp = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&it.site.farm, &[("a", at(server(0), 80))])?;
    // A proxy for HTTP could say 503, which is an answer that nobody has given.
    let ports = json!([
        {"name": "tcp", "port": 80, "nodePort": 30061},
        {"name": "http", "port": 81, "targetPort": 80, "nodePort": 30062, "appProtocol": "http"},
        {"name": "udp", "port": 80, "nodePort": 30061, "protocol": "UDP"},
    ]);
    it.asking(("shop", "web"), json!({}), json!({"ports": ports}))?;
    let address = it.address("web")?;
    let all_refuse = || -> Result<()> {
        for (ip, port, udp) in [
            (address, 80, false),
            (address, 81, false),
            (address, 80, true),
            (EDGE, 30061, false),
            (EDGE, 30062, false),
            (EDGE, 30061, true),
        ] {
            refuses(&it, at(ip, port), udp)?;
        }
        Ok(())
    };
    let all_answer = || -> Result<()> {
        for (ip, port) in [(address, 80), (EDGE, 30061)] {
            it.answers(ip, port, Some("a"))?;
            it.answers_udp(ip, port, Some("a"))?;
        }
        for (ip, port) in [(address, 81), (EDGE, 30062)] {
            let connects = || it.site.client.run(|| clients::connect_tcp(at(ip, port)));
            wait::until(&format!("{ip} port {port} accepts"), || connects().is_ok())?;
        }
        Ok(())
    };
    all_refuse()?;
    for number in 0..2 {
        it.pod("web", number, server(0), "node-a")?;
        all_answer()?;
        cluster.delete("Pod", "shop", &format!("web-{number}"))?;
        all_refuse()?;
    }
    // A pod that is not ready is none.
    it.pod("web", 2, server(0), "node-a")?;
    all_answer()?;
    cluster.set_pod_ready("shop", "web-2", false)?;
    all_refuse()?;
    it.says("web", "fairway.dev/Programmed", &["False NoEndpoints"])
}

fn node_ports_follow_a_live_service() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let _tcp = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&it.site.farm, &[("a", at(server(0), 80))])?;
    let ports = |number: Option<u16>| {
        let mut ports = json!([
            {"name": "tcp", "port": 80},
            {"name": "udp", "port": 80, "protocol": "UDP"},
        ]);
        if let Some(number) = number {
            ports[0]["nodePort"] = json!(number);
            ports[1]["nodePort"] = json!(number);
        }
        ports
    };
    let spec = json!({"type": "ClusterIP", "ports": ports(None)});
    it.asking(("shop", "web"), json!({}), spec)?;
    it.pod("web", 0, server(0), "node-a")?;
    let answers = |ip: IpAddr, port: u16, who: Option<&str>| {
        it.answers(ip, port, who)?;
        it.answers_udp(ip, port, who)
    };
    it.change(
        "web",
        json!({"spec": {"type": "NodePort", "ports": ports(Some(30063))}}),
    )?;
    answers(EDGE, 30063, Some("a"))?;
    ensure!(it.addresses("web")?.is_empty());
    it.change("web", json!({"spec": {"type": "LoadBalancer"}}))?;
    let address = it.address("web")?;
    answers(address, 80, Some("a"))?;
    answers(EDGE, 30063, Some("a"))?;
    it.change("web", json!({"spec": {"ports": ports(Some(30064))}}))?;
    answers(EDGE, 30064, Some("a"))?;
    answers(EDGE, 30063, None)?;
    answers(address, 80, Some("a"))?;
    ensure!(it.addresses("web")? == [address.to_string()]);
    it.change("web", json!({"spec": {"type": "NodePort"}}))?;
    answers(address, 80, None)?;
    answers(EDGE, 30064, Some("a"))?;
    it.change("web", json!({"spec": {"type": "ClusterIP"}}))?;
    answers(EDGE, 30064, None)
}

fn a_udp_flow_follows_its_pod_from_node_to_node() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    cluster.node("node-b", &[server(19)], &[])?;
    let ends = [("a", at(server(0), 80)), ("b", at(server(1), 80))];
    let _servers = named_udp(&it.site.farm, &ends)?;
    for policy in ["Cluster", "Local"] {
        let name = policy.to_lowercase();
        let spec = json!({
            "ports": [{"port": 80, "protocol": "UDP"}], "externalTrafficPolicy": policy,
        });
        it.asking(("shop", &name), json!({}), spec)?;
        let to = at(it.address(&name)?, 80);
        refuses(&it, to, true)?;
        // One socket from beginning to end: its port is what a flow is known by.
        let flow = it.flow(to)?;
        flow.answers(None)?;
        it.pod(&name, 0, server(0), "node-a")?;
        flow.answers(Some("a"))?;
        // The next comes before the first goes, as a Deployment has it, and on another node.
        it.pod(&name, 1, server(1), "node-b")?;
        cluster.wait_for_endpoints("shop", &name, &[server(0), server(1)])?;
        cluster.delete("Pod", "shop", &format!("{name}-0"))?;
        flow.answers(Some("b"))?;
        // And the other way round.
        cluster.delete("Pod", "shop", &format!("{name}-1"))?;
        flow.answers(None)?;
        it.pod(&name, 2, server(0), "node-b")?;
        flow.answers(Some("a"))?;
    }
    Ok(())
}

fn a_rolling_update_loses_no_request() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    cluster.node("node-b", &[server(19)], &[])?;
    for policy in ["Cluster", "Local"] {
        let name = policy.to_lowercase();
        let spec = json!({"externalTrafficPolicy": policy});
        it.asking(("shop", &name), json!({}), spec)?;
        // Three pods; each round gives each another address.
        let place = |pod: u8, round: u8| at(server(pod + 3 * (round % 2)), 80);
        let is = |place: SocketAddr, state: &str| {
            let field = ("endpoint", place.to_string());
            it.gateway.endpoint_is(&name, (field.0, &field.1), state)
        };
        let start = |pod: u8, round: u8| -> Result<Served> {
            let place = place(pod, round);
            let served = named(&it.site.farm, &[("pod", place)])?;
            let number = usize::from(round * 3 + pod);
            let node = ["node-a", "node-b"][usize::from(pod % 2)];
            it.pod(&name, number, place.ip(), node)?;
            is(place, "eligible")?;
            Ok(served)
        };
        let mut pods = (0..3)
            .map(|pod| start(pod, 0))
            .collect::<Result<Vec<_>>>()?;
        let load = Load::start(
            &it.site.client,
            at(it.address(&name)?, 80),
            Duration::from_millis(10),
        )?;
        for round in 1..=5 {
            load.take();
            for pod in 0..3 {
                let number = round * 3 + pod - 3;
                let former = format!("{name}-{number}");
                cluster.terminate_pod("shop", &former)?;
                // The grace, which is a minute in Kubernetes' test, ends when the gateway knows
                // and what it sent before is answered.
                is(place(pod, round - 1), "terminating")?;
                load.settle()?;
                let place = pods.get_mut(usize::from(pod)).context("three pods")?;
                let none = named(&it.site.farm, &[])?;
                drop(std::mem::replace(place, none));
                cluster.delete("Pod", "shop", &former)?;
                *place = start(pod, round)?;
            }
            load.mostly_good(&format!("round {round} ({policy})"))?;
        }
    }
    Ok(())
}

fn the_families_of_a_live_service_change() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let _web = it.web()?;
    let has = |wanted: &[IpAddr]| it.has("web", wanted);
    let policy = |policy: &str| it.change("web", json!({"spec": {"ipFamilyPolicy": policy}}));
    has(&[vip(1)])?;
    it.says("web", "fairway.dev/AddressAssigned", &["True"])?;
    // Where no pool has the other family, who prefers both is content with one, and who requires
    // both keeps what it has and is told.
    policy("PreferDualStack")?;
    // Whoever comes after it is answered after it.
    it.service("marker", "ports: [{port: 80}]")?;
    it.address("marker")?;
    has(&[vip(1)])?;
    it.says("web", "fairway.dev/AddressAssigned", &["True"])?;
    policy("RequireDualStack")?;
    it.says("web", "fairway.dev/AddressAssigned", &["False", "IPv6"])?;
    it.tells("web", "SyncLoadBalancerFailed", &["IPv6"])?;
    has(&[vip(1)])?;
    it.answers(vip(1), 80, Some("a"))?;
    it.pool("six", &["2001:db8:f::1-2001:db8:f::9"])?;
    has(&[vip(1), vip6(1)])?;
    it.says("web", "fairway.dev/AddressAssigned", &["True"])?;
    it.answers(vip6(1), 80, Some("a"))?;
    policy("SingleStack")?;
    has(&[vip(1)])?;
    it.answers(vip6(1), 80, None)?;
    policy("PreferDualStack")?;
    has(&[vip(1), vip6(1)])?;
    it.answers(vip6(1), 80, Some("a"))?;
    it.answers(vip(1), 80, Some("a"))
}

fn each_step_of_a_load_balancer_is_told_in_an_event() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.service("life", "ports: [{port: 80}]")?;
    it.tells("life", "EnsuringLoadBalancer", &["Ensuring load balancer"])?;
    it.tells(
        "life",
        "SyncLoadBalancerFailed",
        &["NoPools", "There is no AddressPool: create one"],
    )?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    it.tells("life", "EnsuredLoadBalancer", &["203.0.113.1 is assigned"])?;
    it.change("life", json!({"spec": {"loadBalancerIP": "203.0.113.5"}}))?;
    it.tells(
        "life",
        "UpdatedLoadBalancer",
        &["203.0.113.5", "203.0.113.1"],
    )?;
    it.change("life", json!({"spec": {"type": "ClusterIP"}}))?;
    it.tells("life", "DeletingLoadBalancer", &["Deleting load balancer"])?;
    it.tells("life", "DeletedLoadBalancer", &["203.0.113.5 taken back"])?;
    // What is deleted is told of too.
    it.service("next", "ports: [{port: 80}]")?;
    let address = it.address("next")?;
    it.tells("next", "EnsuredLoadBalancer", &[&address.to_string()])?;
    cluster.delete("Service", "shop", "next")?;
    it.tells("next", "DeletingLoadBalancer", &[])?;
    it.tells("next", "DeletedLoadBalancer", &[&address.to_string()])?;
    cluster.wait_gone("Service", "shop", "next")
}
