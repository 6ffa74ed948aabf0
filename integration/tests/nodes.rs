//! Where nodes take part: traffic that passes through their node ports to real kube-proxies, and
//! gateways that run on nodes beside one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::in_cluster::{Installed, health_says};
use fairway_integration::lab::{Host, Served};
use fairway_integration::load::Load;
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{at, client, server};
use fairway_integration::workers::{Worker, workers};
use fairway_integration::{clients, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    through_node_ports_affinity_keeps_a_client_on_one_pod,
    local_through_node_ports_goes_where_the_pods_are,
    a_udp_flow_through_node_ports_follows_its_pod,
    a_rolling_update_behind_node_ports_loses_no_request,
    a_node_is_left_out_by_its_label_its_taint_and_its_end,
    health_check_ports_are_right_on_every_node,
    who_takes_the_traffic_on_a_node_follows_the_ip_mode,
    source_ranges_hold_for_pods_and_nodes,
];

/// A controller and a gateway on the edge, and a pool 203.0.113.1-9.
fn running(it: &Installed<'_>) -> Result<(Fairway, Fairway)> {
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    let controller = it.controller("controller-1", &["--default-class"])?;
    Ok((controller, it.gateway(&[])?))
}

/// The Service `shop/NAME`, which is forwarded to node ports.
fn to_node_ports(it: &Installed<'_>, name: &str, spec: Value) -> Result<IpAddr> {
    let asks = json!({"fairway.dev/forward-to": "node-ports"});
    it.asking(("shop", name), asks, spec)?;
    it.address(name)
}

/// Who answers 15 requests of one client; fails where one is not answered.
fn fifteen(it: &Installed<'_>, from: IpAddr, to: SocketAddr) -> Result<BTreeSet<String>> {
    it.site.client.run(|| {
        let answers = (0..15).map(|_| clients::who_from(from, to));
        Ok(answers.collect::<Result<_, _>>()?)
    })
}

fn through_node_ports_affinity_keeps_a_client_on_one_pod() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let [one, two] = workers(&it)?;
    let _running = running(&it)?;
    let ends = [("a", at(one.pod_ip(0), 80)), ("b", at(one.pod_ip(1), 80))];
    let _servers = (
        named(&one.pods, &ends)?,
        named(&two.pods, &[("c", at(two.pod_ip(0), 80))])?,
    );
    let to = at(to_node_ports(&it, "web", json!({}))?, 80);
    one.pod(&it, "web", 0)?;
    one.pod(&it, "web", 1)?;
    two.pod(&it, "web", 0)?;
    for policy in ["Cluster", "Local"] {
        it.change("web", json!({"spec": {"externalTrafficPolicy": policy}}))?;
        for (affinity, one) in [("ClientIP", true), ("None", false)] {
            it.change("web", json!({"spec": {"sessionAffinity": affinity}}))?;
            for n in 0..3 {
                let what = format!("client {n}, affinity {affinity}, policy {policy}");
                wait::until_some(&what, || {
                    let who = fifteen(&it, client(n), to)?;
                    ensure!((who.len() == 1) == one, "{who:?}");
                    Ok(())
                })?;
            }
        }
    }
    Ok(())
}

fn local_through_node_ports_goes_where_the_pods_are() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let [one, two] = workers(&it)?;
    let (_controller, gateway) = running(&it)?;
    let _servers = (
        named(&one.pods, &[("a", at(one.pod_ip(0), 80))])?,
        named(&two.pods, &[("b", at(two.pod_ip(0), 80))])?,
    );
    let local = json!({"externalTrafficPolicy": "Local"});
    let to = at(to_node_ports(&it, "web", local)?, 80);
    let answer = |wanted: &[&str]| {
        wait::until_some(&format!("{wanted:?} answer"), || {
            let who = fifteen(&it, client(0), to)?;
            ensure!(who.iter().eq(wanted), "{who:?}");
            Ok(())
        })
    };
    // How the gateway has the nodes.
    let is =
        |worker: &Worker, state: &str| gateway.endpoint_is("web", ("node", &worker.name), state);
    // Every node has an endpoint: one client reaches both.
    one.pod(&it, "web", 0)?;
    two.pod(&it, "web", 0)?;
    answer(&["a", "b"])?;
    // One node has none: no connection is lost on it.
    cluster.delete("Pod", "shop", &one.pod_name("web", 0))?;
    is(&one, "node-excluded")?;
    answer(&["b"])?;
    // The pod moves; the address stays.
    cluster.delete("Pod", "shop", &two.pod_name("web", 0))?;
    it.answers(to.ip(), 80, None)?;
    one.pod(&it, "web", 0)?;
    answer(&["a"])?;
    it.has("web", &[to.ip()])?;
    // With the policy `Cluster` both nodes serve it.
    it.change("web", json!({"spec": {"externalTrafficPolicy": "Cluster"}}))?;
    is(&one, "eligible")?;
    is(&two, "eligible")?;
    answer(&["a"])
}

fn a_udp_flow_through_node_ports_follows_its_pod() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let [one, two] = workers(&it)?;
    let _running = running(&it)?;
    let _servers = (
        named_udp(&one.pods, &[("a", at(one.pod_ip(0), 80))])?,
        named_udp(&two.pods, &[("b", at(two.pod_ip(0), 80))])?,
    );
    for policy in ["Cluster", "Local"] {
        let name = policy.to_lowercase();
        let ports = json!([{"port": 80, "protocol": "UDP"}]);
        let spec = json!({"externalTrafficPolicy": policy, "ports": ports});
        let to = at(to_node_ports(&it, &name, spec)?, 80);
        let flow = it.flow(to)?;
        flow.answers(None)?;
        one.pod(&it, &name, 0)?;
        flow.answers(Some("a"))?;
        two.pod(&it, &name, 0)?;
        cluster.wait_for_endpoints("shop", &name, &[one.pod_ip(0), two.pod_ip(0)])?;
        cluster.delete("Pod", "shop", &one.pod_name(&name, 0))?;
        flow.answers(Some("b"))?;
    }
    Ok(())
}

/// Whether the rules of a node's kube-proxy name a pod.
fn knows(worker: &Worker, pod: IpAddr) -> Result<bool> {
    let table = ["list", "table", "ip", "kube-proxy"];
    let rules = worker.host.run(|| clients::output("nft", &table))?;
    let pod = pod.to_string();
    let is_part = |it: char| it.is_ascii_digit() || it == '.';
    Ok(rules.split(|it| !is_part(it)).any(|word| word == pod))
}

fn a_rolling_update_behind_node_ports_loses_no_request() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let workers: [Worker; 2] = workers(&it)?;
    let (_controller, gateway) = running(&it)?;
    // Each policy has pods at addresses of its own, so that rules which name one are its own.
    for (policy, first) in [("Cluster", 0), ("Local", 6)] {
        let name = policy.to_lowercase();
        let is = |worker: &Worker, state: &str| {
            gateway.endpoint_is(&name, ("node", &worker.name), state)
        };
        let spec = json!({"externalTrafficPolicy": policy});
        let to = at(to_node_ports(&it, &name, spec)?, 80);
        let start = |worker: &Worker, round: u8| -> Result<Served> {
            let ip = worker.pod_ip(first + round);
            let served = named(&worker.pods, &[("pod", at(ip, 80))])?;
            worker.pod(&it, &name, first + round)?;
            is(worker, "eligible")?;
            wait::until("the node has the new pod", || {
                knows(worker, ip).is_ok_and(|knows| knows)
            })?;
            Ok(served)
        };
        // A DaemonSet: one pod a node, and the next only when the former is gone.
        let mut pods = workers
            .iter()
            .map(|worker| start(worker, 0).map(Some))
            .collect::<Result<Vec<_>>>()?;
        let load = Load::start(&it.site.client, to, Duration::from_millis(10))?;
        for round in 1..=5 {
            load.take();
            for (worker, pod) in workers.iter().zip(&mut pods) {
                let former = worker.pod_name(&name, first + round - 1);
                cluster.terminate_pod("shop", &former)?;
                if policy == "Local" {
                    // The node goes on sending it what it gets: so it must get nothing.
                    is(worker, "terminating")?;
                } else {
                    let ip = worker.pod_ip(first + round - 1);
                    wait::until("nothing new is sent to it", || {
                        let forgets = |it: &Worker| knows(it, ip).is_ok_and(|knows| !knows);
                        workers.iter().all(forgets)
                    })?;
                }
                load.settle()?;
                drop(pod.take());
                cluster.delete("Pod", "shop", &former)?;
                *pod = Some(start(worker, round)?);
            }
            load.mostly_good(&format!("round {round} ({policy})"))?;
        }
    }
    Ok(())
}

fn a_node_is_left_out_by_its_label_its_taint_and_its_end() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    // What answers at a node port is a server here, so that it says which node it is.
    let nodes = [
        ("node-0", at(server(0), 30065)),
        ("node-1", at(server(1), 30065)),
    ];
    let _servers = named(&it.site.farm, &nodes)?;
    for (name, place) in nodes {
        cluster.node(name, &[place.ip()], &[])?;
    }
    let _running = running(&it)?;
    let ports = json!([{"port": 80, "nodePort": 30065}]);
    let to = at(to_node_ports(&it, "web", json!({"ports": ports}))?, 80);
    it.pod("web", 0, server(5), "node-0")?;
    let answer = |why: &str, wanted: &[&str]| {
        wait::until_some(&format!("{wanted:?} take part ({why})"), || {
            let who = fifteen(&it, client(0), to)?;
            ensure!(who.iter().eq(wanted), "{who:?}");
            Ok(())
        })
    };
    let (both, one) = (&["node-0", "node-1"][..], &["node-0"][..]);
    answer("as they are", both)?;
    // KEP-3458: whether it is ready is for its kubelet; connections that it has go on.
    cluster.set_node_ready("node-1", false)?;
    let node = ("Node", "", "node-1");
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    for (value, wanted) in [
        (Some(""), one),
        (Some("false"), both),
        (Some("true"), one),
        (Some("0"), both),
        (Some("maybe"), one),
        (None, both),
    ] {
        let patch = json!({"metadata": {"labels": {label: value}}});
        cluster.patch(node, "", &patch)?;
        answer(&format!("label {value:?}"), wanted)?;
    }
    let taint = |taints: Value| cluster.patch(node, "", &json!({"spec": {"taints": taints}}));
    taint(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]))?;
    answer("taint", one)?;
    taint(json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]))?;
    answer("cordoned", both)?;
    // On its way out, and gone.
    cluster.patch(
        node,
        "",
        &json!({"metadata": {"finalizers": ["example.com/held"]}}),
    )?;
    cluster.delete("Node", "", "node-1")?;
    answer("being deleted", one)?;
    cluster.patch(node, "", &json!({"metadata": {"finalizers": null}}))?;
    cluster.wait_gone("Node", "", "node-1")?;
    answer("deleted", one)?;
    cluster.node("node-1", &[server(1)], &[])?;
    answer("back", both)
}

/// Two workers with a gateway each, and a host that reaches either.
struct Edges {
    workers: [Worker; 2],
    gateways: [Fairway; 2],
    visitor: Host,
    _controller: Fairway,
}

impl Edges {
    fn new(it: &Installed<'_>) -> Result<Self> {
        let workers: [Worker; 2] = workers(it)?;
        let controller = it.controller("controller-1", &["--default-class"])?;
        let visitor = Host::new("visitor")?;
        it.cluster.attach(&visitor)?;
        let gateway = |n: usize| {
            let worker: &Worker = workers.get(n).context("two workers")?;
            it.gateway_on(&worker.host, &worker.name, &[])
        };
        let gateways = [gateway(0)?, gateway(1)?];
        Ok(Self {
            workers,
            gateways,
            visitor,
            _controller: controller,
        })
    }

    /// Who answers a client whose way to the address is that worker.
    fn who(&self, by: usize, to: SocketAddr) -> Result<String> {
        let ip = self.workers[by].ip;
        self.visitor
            .ip(&format!("route replace {}/32 via {ip}", to.ip()))?;
        self.visitor.run(|| Ok(clients::who(to)?))
    }

    fn answers(&self, by: usize, to: SocketAddr, who: Option<&str>) -> Result<()> {
        wait::until_some(&format!("{who:?} answers by {by}"), || {
            let answer = self.who(by, to).ok();
            ensure!(answer.as_deref() == who, "{answer:?}");
            Ok(())
        })
    }
}

fn health_check_ports_are_right_on_every_node() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let edges = Edges::new(&it)?;
    let [one, two] = &edges.workers;
    let _servers = (
        named(&one.pods, &[("a", at(one.pod_ip(0), 80))])?,
        named(&two.pods, &[("b", at(two.pod_ip(0), 80))])?,
    );
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    it.service("web", "externalTrafficPolicy: Local, ports: [{port: 80}]")?;
    let to = at(it.address("web")?, 80);
    let port = it.health_port("web")?;
    let is_at = |here: [Option<&str>; 2]| -> Result<()> {
        for (by, who) in here.into_iter().enumerate() {
            let check = at(edges.workers[by].ip, port);
            health_says(&edges.visitor, check, "web", who.is_some().into())?;
            edges.answers(by, to, who)?;
        }
        Ok(())
    };
    is_at([None, None])?;
    one.pod(&it, "web", 0)?;
    is_at([Some("a"), None])?;
    two.pod(&it, "web", 0)?;
    is_at([Some("a"), Some("b")])?;
    // The pod has moved from one node to the other, and the address is the same.
    cluster.delete("Pod", "shop", &one.pod_name("web", 0))?;
    is_at([None, Some("b")])?;
    ensure!(it.addresses("web")? == [to.ip().to_string()]);
    it.change("web", json!({"spec": {"type": "ClusterIP"}}))?;
    for by in [0, 1] {
        let worker = &edges.workers[by];
        wait::until(&format!("it is closed on {}", worker.name), || {
            let ask = || clients::http_get(at(worker.ip, port), "/");
            edges.visitor.run(ask).is_err()
        })?;
        edges.answers(by, to, None)?;
    }
    Ok(())
}

fn who_takes_the_traffic_on_a_node_follows_the_ip_mode() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let edges = Edges::new(&it)?;
    let [one, two] = &edges.workers;
    let _server = named(&two.pods, &[("a", at(two.pod_ip(0), 80))])?;
    two.pod(&it, "web", 0)?;
    let mut port = 80;
    for (pool, range, forwarding, mode) in [
        ("proxy", "203.0.113.1-203.0.113.9", "Proxy", "Proxy"),
        ("node", "203.0.113.11-203.0.113.19", "Node", "VIP"),
    ] {
        it.pool(pool, &[range])?;
        port += 1;
        let asks = json!({"fairway.dev/pool": pool});
        let spec = json!({"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": 80}]});
        it.asking(("shop", pool), asks, spec)?;
        let to = at(it.address(pool)?, port);
        // Who has an address keeps it, whoever carries its traffic now.
        it.pool_of(
            pool,
            &format!("addresses: [{range}], forwarding: {forwarding}"),
        )?;
        wait::until_some(&format!("the status says {mode}"), || {
            let ingress = it.get(pool)?["status"]["loadBalancer"]["ingress"][0].clone();
            ensure!(ingress["ipMode"] == mode, "{ingress}");
            ensure!(ingress["ip"] == to.ip().to_string(), "{ingress}");
            anyhow::Ok(())
        })?;
        // Nothing has the address of a pool of the nodes: a route only has to lead there.
        if mode == "VIP" {
            let router = one.pod_ip(0);
            one.host
                .ip(&format!("route add {}/32 via {router}", to.ip()))?;
        }
        edges.answers(0, to, Some("a"))?;
        let carried = || {
            let label = format!("service=\"{pool}\"");
            edges.gateways[0].metric("fairway_connections_total", &[&label])
        };
        for (who, host) in [
            ("a client", &edges.visitor),
            ("a pod", &one.pods),
            ("the node", &one.host),
        ] {
            let before = carried()?;
            wait::until_some(&format!("{who} is answered ({mode})"), || {
                let answer = host.run(|| clients::who(to))?;
                ensure!(answer == "a", "{answer}");
                anyhow::Ok(())
            })?;
            if mode == "Proxy" {
                wait::until_some(&format!("the gateway counts {who}"), || {
                    ensure!(carried()? > before, "{before}");
                    anyhow::Ok(())
                })?;
            }
        }
        wait::until_some(&format!("listeners are as {mode} has them"), || {
            let listeners = edges.gateways[0].list("listeners")?;
            let state = |row: &Value| {
                text(row, "service")
                    .ends_with(pool)
                    .then(|| text(&row["state"], "state").to_owned())
            };
            let state = listeners.iter().find_map(state);
            let wanted = if mode == "Proxy" {
                "listening"
            } else {
                "forwarded"
            };
            ensure!(state.as_deref() == Some(wanted), "{listeners:?}");
            anyhow::Ok(())
        })?;
        ensure!((carried()? > 0.0) == (mode == "Proxy"), "{}", carried()?);
    }
    Ok(())
}

fn source_ranges_hold_for_pods_and_nodes() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let edges = Edges::new(&it)?;
    let [one, two] = &edges.workers;
    let _server = named(&two.pods, &[("a", at(two.pod_ip(0), 80))])?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    it.service("web", "ports: [{port: 80}]")?;
    two.pod(&it, "web", 0)?;
    let to = at(it.address("web")?, 80);
    edges.answers(0, to, Some("a"))?;
    let accepted = one.pod_ip(5);
    let dropped = one.pod_ip(6);
    let let_in = |wanted: [bool; 3]| {
        wait::until_some(&format!("pod, pod, client are let in: {wanted:?}"), || {
            let pod = |from| one.pods.run(|| clients::who_from(from, to).is_ok());
            let are = [pod(accepted), pod(dropped), edges.who(0, to).is_ok()];
            ensure!(are == wanted, "{are:?}");
            Ok(())
        })
    };
    let_in([true, true, true])?;
    let (first, second) = (format!("{accepted}/32"), format!("{dropped}/32"));
    for (ranges, wanted) in [
        (vec![first.as_str()], [true, false, false]),
        (vec![&second], [false, true, false]),
        (vec![&first, &second], [true, true, false]),
        (vec!["198.18.0.0/16"], [false, false, true]),
        (vec![], [true, true, true]),
    ] {
        it.change("web", json!({"spec": {"loadBalancerSourceRanges": ranges}}))?;
        let_in(wanted)?;
        ensure!(it.addresses("web")? == [to.ip().to_string()]);
    }
    Ok(())
}
