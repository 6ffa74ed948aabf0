//! Pools with `forwarding: Node`: gateways announce the addresses, and the kube-proxies of the same nodes forward.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::in_cluster::Installed;
use fairway_integration::lab::Host;
use fairway_integration::routers::kernel_table;
use fairway_integration::servers::named;
use fairway_integration::site::at;
use fairway_integration::workers::{Worker, workers};
use fairway_integration::{clients, tests, wait};
use serde_json::json;

tests![gateways_announce_an_address_and_kube_proxy_forwards];

/// The one address of the pool: on the network that the workers and the client are on.
const ADDRESS: &str = "198.18.200.1";

const PROGRAMMED: &str = "fairway.dev/Programmed";
const ANNOUNCED: &str = "fairway.dev/Announced";

struct Edges {
    gateways: [Fairway; 2],
    workers: [Worker; 2],
    visitor: Host,
    visitor_ip: IpAddr,
    to: SocketAddr,
}

impl Edges {
    fn new(it: &Installed<'_>) -> Result<Self> {
        let workers: [Worker; 2] = workers(it)?;
        let visitor = Host::new("visitor")?;
        let visitor_ip = IpAddr::from(it.cluster.attach(&visitor)?.0);
        let gateway = |worker: &Worker| it.gateway_on(&worker.host, &worker.name, &[]);
        Ok(Self {
            gateways: [gateway(&workers[0])?, gateway(&workers[1])?],
            workers,
            visitor,
            visitor_ip,
            to: at(ADDRESS.parse()?, 80),
        })
    }

    /// The number of the worker whose gateway has the address, as the Service says.
    fn owner(&self, it: &Installed<'_>) -> Result<usize> {
        let said = it.condition("web", ANNOUNCED)?;
        let is_it = |worker: &Worker| said.contains(&format!("\"{}\"", worker.name));
        self.workers.iter().position(is_it).context(said)
    }

    fn is_announced_by(&self, it: &Installed<'_>, number: usize) -> Result<()> {
        let name = &self.workers[number].name;
        wait::until_some(&format!("{name} announces the address"), || {
            let owner = self.owner(it)?;
            ensure!(owner == number, "{owner}");
            it.says("web", PROGRAMMED, &["True"])
        })
    }

    /// Waits until those workers have the address as a route in Fairway's table, and no other.
    fn have_routes(&self, wanted: &[bool]) -> Result<()> {
        wait::until_some(&format!("routes to the address: {wanted:?}"), || {
            for (worker, wanted) in self.workers.iter().zip(wanted) {
                let routes = kernel_table(&worker.host)?;
                let is_it = routes.iter().any(|route| route.starts_with(ADDRESS));
                ensure!(is_it == *wanted, "{}: {routes:?}", worker.name);
            }
            Ok(())
        })
    }

    /// Who answers the client, and whom that one sees.
    fn ask(&self) -> Result<(String, IpAddr)> {
        let line = self.visitor.run(|| -> Result<String> {
            let mut stream = clients::connect_tcp(self.to)?;
            Ok(clients::ask(&mut stream, "who")?)
        })?;
        let (name, seen) = line.trim().split_once(' ').context("two words")?;
        let seen: SocketAddr = seen.parse()?;
        Ok((name.to_owned(), seen.ip()))
    }

    fn answers(&self, wanted: &str) -> Result<IpAddr> {
        wait::until_some(&format!("{wanted} answers"), || {
            let (name, seen) = self.ask()?;
            ensure!(name == wanted, "{name}");
            Ok(seen)
        })
    }
}

fn gateways_announce_an_address_and_kube_proxy_forwards() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let mut edges = Edges::new(&it)?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    let (one, two) = (&edges.workers[0], &edges.workers[1]);
    let _servers = (
        named(&one.pods, &[("a", at(one.pod_ip(0), 80))])?,
        named(&two.pods, &[("b", at(two.pod_ip(0), 80))])?,
    );
    it.pool_of(
        "nodes",
        &format!(
            "addresses: [{ADDRESS}], forwarding: Node, \
             announce: {{layer2: {{interfaces: [api]}}, routes: kernel}}"
        ),
    )?;
    one.pod(&it, "web", 0)?;
    let spec = "ports: [{port: 80, targetPort: 80}], allocateLoadBalancerNodePorts: false";
    it.service("web", spec)?;

    // Anybody may have it, and kube-proxy finds the pod.
    it.says("web", PROGRAMMED, &["True"])?;
    let ingress = it.get("web")?["status"]["loadBalancer"]["ingress"][0].clone();
    ensure!(
        ingress["ipMode"] == "VIP" && ingress["ip"] == ADDRESS,
        "{ingress}"
    );
    edges.answers("a")?;
    let listeners = edges.gateways[0].list("listeners")?;
    ensure!(
        listeners
            .iter()
            .all(|it| it["state"]["state"] == "forwarded"),
        "{listeners:?}"
    );

    // On each of them it is a route for a routing daemon, too.
    edges.have_routes(&[true, true])?;

    // Its gateway dies, and kube-proxy goes on there: another gateway is followed.
    let first = edges.owner(&it)?;
    edges.gateways[first].kill();
    wait::until_some("a client goes on", || edges.ask().map(drop))?;
    edges.is_announced_by(&it, 1 - first)?;
    edges.answers("a")?;
    edges.gateways[first].restart()?;

    // Under Local it is where the pod is, and the pod sees the client.
    it.change("web", json!({"spec": {"externalTrafficPolicy": "Local"}}))?;
    edges.is_announced_by(&it, 0)?;
    wait::until_some("the pod sees the client's own address", || {
        let (name, seen) = edges.ask()?;
        ensure!(
            name == "a" && seen == edges.visitor_ip,
            "{name} sees {seen}"
        );
        Ok(())
    })?;
    let (one, two) = (&edges.workers[0], &edges.workers[1]);
    edges.have_routes(&[true, false])?;
    two.pod(&it, "web", 0)?;
    it.cluster.delete("Pod", "shop", &one.pod_name("web", 0))?;
    edges.is_announced_by(&it, 1)?;
    edges.have_routes(&[false, true])?;
    let seen = edges.answers("b")?;
    ensure!(seen == edges.visitor_ip, "{seen}");

    // Without an endpoint nobody has it, and it is said why.
    it.cluster.delete("Pod", "shop", &two.pod_name("web", 0))?;
    it.says("web", PROGRAMMED, &["False", "NoEndpoints"])?;
    wait::until_some("no gateway owns the address", || {
        for gateway in &edges.gateways {
            let rows = gateway.list("addresses")?;
            let row = rows.first().context("it is not listed")?;
            ensure!(text(row, "state") == "unowned", "{row}");
            ensure!(
                text(row, "why").contains("externalTrafficPolicy: Local"),
                "{row}"
            );
        }
        Ok(())
    })?;
    let brief = Duration::from_millis(300);
    let reached = edges
        .visitor
        .run(|| std::net::TcpStream::connect_timeout(&edges.to, brief).is_ok());
    ensure!(!reached);
    Ok(())
}
