//! Gateways of a real cluster that share announced addresses on one network: who is given which address, who owns it,
//! and what people are told of both, while other hosts have addresses, gateways die, and the API server is away.

use std::net::IpAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::cluster::{Cluster, Component, WatchEvent};
use fairway_integration::in_cluster::{ClusterFleet, served_by};
use fairway_integration::lan::network::{INTERFACE, vip};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::lan::outage::figures;
use fairway_integration::lan::prober::Prober;
use fairway_integration::site::at;
use fairway_integration::{tests, wait};

tests![gateways_of_a_cluster_share_addresses_that_no_other_host_uses];

/// The hardware address of the host that has an address of the pool.
const OTHER: [u8; 6] = [2, 0, 0, 0, 1, 103];
const OTHER_TEXT: &str = "02:00:00:00:01:67";

const CONFLICT: &str = "fairway.dev/AddressConflict";
const PROGRAMMED: &str = "fairway.dev/Programmed";

/// A client may be without answers for so long on a busy machine; the bench of failover judges exactly.
const LONGEST: Duration = Duration::from_secs(5);

/// So often a gateway is cut off from the API server, and for how long.
const CUTS: usize = 5;
const SHORT_CUT: Duration = Duration::from_secs(1);

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
    let mut before = Vec::new();
    for _ in 0..CUTS {
        before.push(fleet.cut_off_from_api_server(second, free, SHORT_CUT)?);
    }
    cut_off.ip("link set dev api down")?;
    cluster.pause_component(Component::ApiServer)?;
    let prober = Prober::start(&fleet.lan.client, at(free, 80))?;
    served_by(&prober)?;
    before.push(figures(&prober.finish()?));
    ensure!(before.iter().all(|it| it.failed == 0), "{before:?}");
    let prober = Prober::start(&fleet.lan.client, at(free, 80))?;
    served_by(&prober)?;
    fleet.kill(second, &prober)?;
    let alone = figures(&prober.finish()?);
    let last = (0..fleet.gateways.len()).find(|it| ![first, second].contains(it));
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
