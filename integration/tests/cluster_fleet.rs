//! Gateways of a real cluster that share announced addresses on one network: who is given which address, who owns it,
//! and what people are told of both, while other hosts have addresses, gateways die, and the API server is away.

use std::net::IpAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::cluster::{Cluster, Component, WatchEvent};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed};
use fairway_integration::lan::network::{INTERFACE, Lan, Snooping, vip};
use fairway_integration::lan::observer::{ASKED_EVERY, LanObserver};
use fairway_integration::lan::outage::{AttemptEnd, figures};
use fairway_integration::lan::prober::Prober;
use fairway_integration::servers::named;
use fairway_integration::site::{at, server};
use fairway_integration::{lab, tests, wait};

tests![gateways_of_a_cluster_share_addresses_that_no_other_host_uses];

const EDGES: u8 = 3;

/// The hardware address of the host that has an address of the pool.
const OTHER: [u8; 6] = [2, 0, 0, 0, 1, 103];
const OTHER_TEXT: &str = "02:00:00:00:01:67";

const CONFLICT: &str = "fairway.dev/AddressConflict";
const ANNOUNCED: &str = "fairway.dev/Announced";
const PROGRAMMED: &str = "fairway.dev/Programmed";

/// A client may be without answers for so long on a busy machine; the bench of failover judges exactly.
const LONGEST: Duration = Duration::from_secs(5);

/// So many attempts of a client must have been answered one after the other.
const SERVED: usize = 50;

/// So often a gateway is cut off from the API server.
const CUTS: usize = 5;

/// A fleet under a control plane.
struct ClusterFleet<'a> {
    gateways: Vec<Fairway>,
    controller: Fairway,
    lan: Lan,
    _servers: lab::Served,
    // Last: they run on its hosts.
    it: Installed<'a>,
}

impl<'a> ClusterFleet<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let it = Installed::new(cluster)?;
        let lan = Lan::new(EDGES, Snooping::Off)?;
        let servers = named(&lan.farm, &[("a", at(server(0), 80))])?;
        let announce = format!("announce: {{layer2: {{interfaces: [{INTERFACE}]}}}}");
        it.pool_of(
            "lan",
            &format!("addresses: [198.19.1.1-198.19.1.9], {announce}"),
        )?;
        let controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
        for edge in &lan.edges {
            cluster.attach(&edge.host)?;
            cluster.node(&edge.name, &[edge.ip()], &[])?;
        }
        let places = lan.edges.iter().map(|edge| (&edge.host, &*edge.name));
        let gateways = it.gateways_on(places)?;
        // The key of the fleet comes some seconds after the gateways. They say themselves whom they hear: what stands in
        // their Leases of that is up to ten seconds old.
        wait::until_some("all gateways hear each other", || {
            for gateway in &gateways {
                let heard = gateway.metric("fairway_fleet_members", &["state=\"heard\""])?;
                ensure!(heard == f64::from(EDGES - 1), "{heard}");
            }
            Ok(())
        })?;
        Ok(Self {
            gateways,
            controller,
            lan,
            _servers: servers,
            it,
        })
    }

    /// A Service with an endpoint; `asks` is more of its spec.
    fn service(&self, name: &str, asks: &str) -> Result<()> {
        self.it
            .service(name, &format!("ports: [{{port: 80}}]{asks}"))?;
        self.it.pod(name, 0, server(0), "edge-1")
    }

    /// The rows of `get addresses` of the controller of an address that is so.
    fn rows(&self, address: IpAddr, state: &str) -> Result<Vec<serde_json::Value>> {
        let mut rows = self.controller.list("addresses")?;
        let address = address.to_string();
        rows.retain(|row| text(row, "address") == address && text(row, "state") == state);
        Ok(rows)
    }

    /// The place of the gateway that owns an address, as everybody says who can be asked: the frames on the network, the
    /// gateways that live, the controller, the Service, its Event.
    fn owner(&self, observer: &LanObserver, (service, address): (&str, IpAddr)) -> Result<usize> {
        let owners = observer.settled(&[address], ASKED_EVERY * 20)?;
        let edge = self.lan.edge_with(owners[&address])?;
        let name = &edge.name;
        wait::until_some(&format!("{name} owns {address}"), || {
            // What a dead one said last is no row.
            let rows = self.rows(address, "owned")?;
            let owners: Vec<&str> = rows.iter().map(|row| text(row, "gateway")).collect();
            ensure!(owners == [name], "{rows:?}");
            Ok(())
        })?;
        let announces = format!("announcing from node \"{name}\" with protocol \"layer2\"");
        self.it.says(service, ANNOUNCED, &["True", &announces])?;
        self.it.says(service, PROGRAMMED, &["True"])?;
        self.it.tells(service, "nodeAssigned", &[&announces])?;
        let label = [&*format!("address=\"{address}\"")];
        let owned = |n: usize| {
            // One that was killed says nothing.
            let gateway = self.gateways.get(n)?;
            gateway.metric("fairway_vip_owned", &label).ok()
        };
        let places = 0..self.gateways.len();
        wait::until_some("the metrics say so", || {
            let owners: Vec<usize> = places.clone().filter(|n| owned(*n) == Some(1.0)).collect();
            ensure!(owners == [usize::from(edge.number) - 1], "{owners:?}");
            Ok(())
        })?;
        Ok(usize::from(edge.number) - 1)
    }

    /// Kills the gateway at that place while a client goes on. Whoever owns the address then is not it.
    fn kill(&mut self, number: usize, prober: &Prober) -> Result<()> {
        self.gateways[number].kill();
        let ended = prober.ended().len();
        wait::until_some("a client is served", || {
            let attempts = prober.last(SERVED);
            let bad = attempts
                .iter()
                .filter(|it| !matches!(it.end, AttemptEnd::Answered(_)))
                .count();
            ensure!(
                prober.ended().len() > ended + SERVED && bad == 0,
                "{bad} fail"
            );
            Ok(())
        })
    }
}

/// Whether a Service was ever shown with that address.
fn was_shown(watch: &Receiver<WatchEvent>, address: IpAddr) -> bool {
    let ip = format!("\"ip\":\"{address}\"");
    watch
        .try_iter()
        .any(|event| event.object["status"].to_string().contains(&ip))
}

fn gateways_of_a_cluster_share_addresses_that_no_other_host_uses() -> Result<()> {
    // Of its own: nobody needs it clean after the one test here.
    let cluster = Cluster::start()?;
    let mut fleet = ClusterFleet::new(&cluster)?;
    let [used, free] = [vip(1), vip(2)];
    let other = fleet.lan.other_witness.clone();
    other.ip(&format!("address add {used}/32 dev {INTERFACE}"))?;
    let observer = fleet.lan.observe(&[used, free], ASKED_EVERY)?;

    // The first address of the pool is another host's: the next one is given.
    let watch = cluster.watch("Service", "shop")?;
    let began = Instant::now();
    fleet.service("web", "")?;
    fleet.it.has("web", &[free])?;
    println!(
        "an address after {:?}, past one that is used",
        began.elapsed()
    );
    ensure!(!was_shown(&watch, used), "{used} was shown");
    let passed_over = format!(
        "{used} is not given to the Service, because another host uses it: the one with the hardware address \
         {OTHER_TEXT}. The next one is tried"
    );
    fleet.it.tells("web", "AddressConflict", &[&passed_over])?;
    let first = fleet.owner(&observer, ("web", free))?;
    println!("it is announced after {:?}", began.elapsed());
    wait::until_some("the pool says which address is left out", || {
        let pool = cluster.get_json("addresspools", "", "lan")?;
        let status = pool["status"].to_string();
        ensure!(
            status.contains(&format!("{used} ({OTHER_TEXT})")),
            "{status}"
        );
        let probing = pool["status"]["probing"].as_object();
        let asked = probing.is_some_and(|it| it.values().any(|asked| !asked.is_null()));
        ensure!(!asked, "{status}");
        Ok(())
    })?;

    // Who asks for it has it, and no gateway says that it has it.
    fleet.service("asked", &format!(", loadBalancerIP: {used}"))?;
    fleet.it.has("asked", &[used])?;
    let in_use = format!(
        "{used} is not announced, because another host uses it: the one with the hardware address {OTHER_TEXT}"
    );
    fleet
        .it
        .says("asked", CONFLICT, &["True AddressConflict", &in_use])?;
    fleet
        .it
        .says("asked", PROGRAMMED, &["False AddressConflict", &in_use])?;
    fleet.it.tells("asked", "AddressConflict", &[&in_use])?;
    let rows = fleet.rows(used, "conflict")?;
    ensure!(!rows.is_empty(), "no gateway says so");
    ensure!(
        rows.iter().all(|row| row.to_string().contains(OTHER_TEXT)),
        "{rows:?}"
    );
    let heard = observer.heard();
    let strangers = heard
        .iter()
        .find(|it| it.naming.address == used && it.naming.hardware != OTHER);
    ensure!(strangers.is_none(), "{strangers:?}");
    other.ip(&format!("address del {used}/32 dev {INTERFACE}"))?;

    // The owner dies.
    let prober = Prober::start(&fleet.lan.client, at(free, 80))?;
    fleet.kill(first, &prober)?;
    let second = fleet.owner(&observer, ("web", free))?;
    ensure!(second != first, "a dead gateway owns {free}");
    let dead = &fleet.lan.edges[first].name;
    let why = format!("{dead} was not heard of for 500 ms");
    fleet
        .controller
        .explains("shop/web", &[&format!("{free} is owned by"), &why])?;
    let killed = figures(&prober.finish()?);

    // What the other host had is announced when that one has gone.
    let third = fleet.owner(&observer, ("asked", used))?;
    ensure!(third != first, "a dead gateway owns {used}");
    wait::until_some("there is no conflict any more", || {
        let service = fleet.it.get("asked")?;
        ensure!(
            !service["status"].to_string().contains(CONFLICT),
            "{service}"
        );
        Ok(())
    })?;

    // The owner is cut off from the API server, then nobody reaches it: all goes on. It dies, and is followed.
    let cut_off = fleet.lan.edges[second].host.clone();
    let prober = Prober::start(&fleet.lan.client, at(free, 80))?;
    let is_served = || {
        let attempts = prober.ended().len();
        wait::until("a client is served", || {
            prober.ended().len() > attempts + SERVED
        })
    };
    for state in ["down", "up"].repeat(CUTS) {
        cut_off.ip(&format!("link set dev api {state}"))?;
        is_served()?;
    }
    cut_off.ip("link set dev api down")?;
    cluster.pause_component(Component::ApiServer)?;
    is_served()?;
    let before = figures(&prober.finish()?);
    ensure!(before.failed == 0, "{before:?}");
    let prober = Prober::start(&fleet.lan.client, at(free, 80))?;
    wait::until("attempts are answered", || prober.ended().len() > SERVED)?;
    fleet.kill(second, &prober)?;
    let alone = figures(&prober.finish()?);
    let last = (0..usize::from(EDGES)).find(|it| ![first, second].contains(it));
    let last = last.context("three gateways")?;
    for address in [used, free] {
        let label = [&*format!("address=\"{address}\"")];
        wait::until_some("the last gateway has all", || {
            let owned = fleet.gateways[last].metric("fairway_vip_owned", &label)?;
            ensure!(owned == 1.0, "{address}: {owned}");
            Ok(())
        })?;
    }
    cluster.resume_component(Component::ApiServer)?;
    for it in [("web", free), ("asked", used)] {
        let owner = fleet.owner(&observer, it)?;
        if owner != last {
            bail!("{it:?} is owned by edge-{}", owner + 1);
        }
    }
    println!("kill -9: {killed:?}; cut off from the API server: {before:?}; without it: {alone:?}");
    for seen in [killed, alone] {
        ensure!(seen.outage < LONGEST, "{seen:?}");
    }
    Ok(())
}
