//! A new process takes over from an old one, and no client notices.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use fairway_integration::lan::gateways::{self, LanGateways};
use fairway_integration::lan::judge;
use fairway_integration::lan::network::{Lan, Snooping, vip as lan_vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::lan::outage::figures;
use fairway_integration::lan::prober::Prober;
use fairway_integration::load::Load;
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, at, vip};
use fairway_integration::upgrade::kills::{Killed, Since};
use fairway_integration::upgrade::{
    CheckedStreams, ECHO, LINES, NODE_PORT, OldClients, UpgradedEdge,
};
use fairway_integration::{tests, wait};
use rustix::process::Signal;

tests![
    clients_that_are_older_than_several_upgrades_notice_none_with_steering,
    clients_that_are_older_than_several_upgrades_notice_none_without_steering,
    a_kill_of_either_process_at_any_time_loses_only_what_that_one_carried_alone,
    a_new_process_that_is_killed_at_a_step_costs_nobody_anything_but_what_it_has,
    a_new_process_that_is_told_to_stop_in_the_middle_leaves_all_to_the_old_one,
    an_old_process_that_is_told_to_stop_in_the_middle_leaves_all_to_the_new_one,
    a_second_process_says_who_serves_already,
    a_process_that_does_not_agree_says_what_differs_and_the_other_one_goes_on,
    a_process_that_is_frozen_costs_the_other_one_nothing,
    where_nobody_is_there_a_process_that_is_to_take_over_starts_as_usual,
    a_download_by_http_ends_in_the_old_process,
    addresses_that_are_announced_stay_with_their_gateway,
];

fn clients_that_are_older_than_several_upgrades_notice_none_with_steering() -> Result<()> {
    upgrades(&[])
}

fn clients_that_are_older_than_several_upgrades_notice_none_without_steering() -> Result<()> {
    upgrades(&["--no-steering"])
}

fn upgrades(arguments: &[&str]) -> Result<()> {
    let mut edge = UpgradedEdge::start(arguments)?;
    let mut old = OldClients::open(&edge.site, 200, 60)?;
    let streams = CheckedStreams::start(&edge.site.client, at(vip(1), ECHO), 24)?;
    let every = Duration::from_millis(4);
    let loads = [at(vip(1), LINES), at(EDGE, NODE_PORT)]
        .map(|to| Load::start(&edge.site.client, to, every));
    let mut sockets = Vec::new();
    for round in 0..4 {
        let took = edge.upgrade()?;
        let changed = old.changed();
        println!("upgrade {round}: {took:?}, {:?}", streams.longest_pause());
        ensure!(changed == (0, 0), "upgrade {round}: {changed:?} changed");
        ensure!(streams.wrong().is_empty(), "{:?}", streams.wrong());
        sockets.push(edge.sockets()?);
    }
    streams.end()?;
    for load in loads {
        let load = load?;
        load.settle()?;
        let tally = load.take();
        println!("{} answered", tally.good);
        ensure!(tally.bad.is_empty(), "{:?}", tally.bad);
    }
    println!("sockets: {sockets:?}");
    // The load has some dozens of connections more or less at a time. What leaks does so with each upgrade, by hundreds.
    let (first, last) = (sockets.first(), sockets.last());
    ensure!(last < first.map(|it| it + 40).as_ref(), "{sockets:?}");
    Ok(())
}

fn a_kill_of_either_process_at_any_time_loses_only_what_that_one_carried_alone() -> Result<()> {
    let seed = seed();
    println!("seed {seed}");
    let mut edge = UpgradedEdge::start(&[])?;
    let mut old = OldClients::open(&edge.site, 120, 40)?;
    for number in 0..12 {
        let random = spread(seed + number);
        let which = match random % 2 {
            0 => Killed::Predecessor,
            _ => Killed::Successor,
        };
        // Handing over takes some tens of milliseconds.
        let (since, within) = match number % 3 {
            0 => (Since::Start, 300_000),
            _ => (Since::Serving, 30_000),
        };
        let after = Duration::from_micros((random >> 8) % within);
        let outcome = edge.kill(which, (since, after), &mut old)?;
        println!("{which:?} {since:?} + {after:?}: {outcome:?}");
        let (lost, alone) = (outcome.lost, outcome.alone);
        ensure!(
            lost.0 <= alone.0 && lost.1 <= alone.1,
            "{which:?} {since:?} + {after:?}: {outcome:?}"
        );
        ensure!(old.changed() == (0, 0), "a new one is not served");
    }
    Ok(())
}

fn a_new_process_that_is_killed_at_a_step_costs_nobody_anything_but_what_it_has() -> Result<()> {
    let mut edge = UpgradedEdge::start(&[])?;
    let mut old = OldClients::open(&edge.site, 300, 100)?;
    for since in [
        Since::Asked,
        Since::Serving,
        Since::Asked,
        Since::Serving,
        Since::Serving,
    ] {
        let outcome = edge.kill(Killed::Successor, (since, Duration::ZERO), &mut old)?;
        println!("{since:?}: {outcome:?}");
        let (lost, alone) = (outcome.lost, outcome.alone);
        ensure!(
            lost.0 <= alone.0 && lost.1 <= alone.1,
            "{since:?}: {outcome:?}"
        );
        ensure!(
            old.changed() == (0, 0),
            "{since:?}: a new one is not served"
        );
    }
    edge.upgrade()?;
    ensure!(old.changed() == (0, 0));
    Ok(())
}

/// Connections that are older than it all, and new ones all the time, while one of the two processes is told to stop.
fn told_to_stop(which: Killed, since: Since) -> Result<()> {
    let mut edge = UpgradedEdge::start(&[])?;
    let mut old = OldClients::open(&edge.site, 200, 0)?;
    let load = Load::start(
        &edge.site.client,
        at(vip(1), LINES),
        Duration::from_millis(4),
    )?;
    let mut successor = edge.begin(since)?;
    let told = match which {
        Killed::Predecessor => edge.fairway.process()?,
        Killed::Successor => successor.process()?,
    };
    told.signal(Signal::TERM)?;
    // What the one that stops still has it carries for as long as it drains.
    ensure!(old.changed() == (0, 0), "{which:?} {since:?}");
    let (stays, says) = match which {
        Killed::Predecessor => (&successor, " taken over c"),
        // It may have been through already.
        Killed::Successor => (&edge.fairway, "hand"),
    };
    stays.logs(&[says])?;
    wait::until_some("somebody serves", || {
        let serves = |fairway: &fairway_integration::fairway::Fairway| fairway.get("/readyz");
        let answer = serves(&successor).or_else(|_| serves(&edge.fairway))?;
        ensure!(answer.status == 200, "{}", answer.body);
        anyhow::Ok(())
    })?;
    load.settle()?;
    let tally = load.take();
    println!("{which:?} {since:?}: {} answered", tally.good);
    ensure!(tally.bad.is_empty(), "{which:?} {since:?}: {:?}", tally.bad);
    Ok(())
}

fn a_new_process_that_is_told_to_stop_in_the_middle_leaves_all_to_the_old_one() -> Result<()> {
    told_to_stop(Killed::Successor, Since::Asked)
}

fn an_old_process_that_is_told_to_stop_in_the_middle_leaves_all_to_the_new_one() -> Result<()> {
    told_to_stop(Killed::Predecessor, Since::Asked)?;
    told_to_stop(Killed::Predecessor, Since::Serving)
}

fn a_second_process_says_who_serves_already() -> Result<()> {
    let mut edge = UpgradedEdge::start(&[])?;
    let id = edge.fairway.process()?.id();
    let mut second = edge.second()?;
    second.launch()?;
    let status = second.process()?.wait(wait::SOON)?;
    ensure!(status.code() == Some(2), "{status}");
    second.logs(&[
        "--admin 127.0.0.1:9901 can't be listened on",
        &format!("process {id} ("),
        "serves from the same state directory",
        "--take-over",
    ])?;
    edge.fairway.ready()
}

fn a_process_that_does_not_agree_says_what_differs_and_the_other_one_goes_on() -> Result<()> {
    const CLASS: &str = "--class is fairway.dev/gateway there and example.com/other here";
    // There is one for each core.
    let cores = std::thread::available_parallelism()?.get();
    let (more, fewer) = (&*(cores + 1).to_string(), &*(cores - 1).max(1).to_string());
    let fewer = if cores == 1 { more } else { fewer };
    for steering in [&[][..], &["--no-steering"]] {
        let mut edge = UpgradedEdge::start(steering)?;
        let mut old = OldClients::open(&edge.site, 8, 4)?;
        for (arguments, says) in [
            (["--class", "example.com/other"], CLASS),
            // Each worker has listening sockets of its own, and the kernel's steering is made for so many.
            (["--workers", more], "--workers is"),
            (["--workers", fewer], "--workers is"),
            (["--node-name", "other"], "--node-name is"),
        ] {
            let mut successor = edge.successor(&arguments)?;
            successor.launch()?;
            let status = successor.process()?.wait(wait::SOON)?;
            ensure!(status.code() == Some(2), "{arguments:?}: {status}");
            successor.logs(&[says])?;
            ensure!(old.changed() == (0, 0), "{arguments:?}");
        }
        edge.upgrade()?;
        ensure!(old.changed() == (0, 0));
    }
    Ok(())
}

fn a_process_that_is_frozen_costs_the_other_one_nothing() -> Result<()> {
    let mut edge = UpgradedEdge::start(&[])?;
    let mut old = OldClients::open(&edge.site, 40, 10)?;
    edge.fairway.process()?.signal(Signal::STOP)?;
    let mut successor = edge.successor(&[])?;
    successor.launch()?;
    let status = successor.process()?.wait(wait::SOON)?;
    ensure!(status.code() == Some(1), "{status}");
    successor.logs(&["does not answer"])?;
    edge.fairway.process()?.signal(Signal::CONT)?;
    // It hears of that one now. The next one must not be taken for it.
    edge.fairway.logs(&["goes on with all"])?;
    ensure!(old.changed() == (0, 0));
    let mut successor = edge.freeze_successor()?;
    successor.process()?.signal(Signal::CONT)?;
    let status = successor.process()?.wait(wait::SOON)?;
    ensure!(!status.success(), "{status}");
    ensure!(old.changed() == (0, 0));
    edge.upgrade()?;
    ensure!(old.changed() == (0, 0));
    Ok(())
}

fn where_nobody_is_there_a_process_that_is_to_take_over_starts_as_usual() -> Result<()> {
    let mut edge = UpgradedEdge::start(&["--take-over"])?;
    edge.fairway
        .logs(&["there is no process to take over from"])?;
    // A process that was killed leaves its socket behind.
    edge.fairway.kill();
    let mut successor = edge.successor(&[])?;
    successor.launch()?;
    successor.ready()?;
    successor.logs(&["there is no process to take over from"])?;
    Ok(())
}

fn a_download_by_http_ends_in_the_old_process() -> Result<()> {
    let mut edge = UpgradedEdge::start(&[])?;
    let download = edge.download()?;
    let mut successor = edge.successor(&[])?;
    successor.launch()?;
    successor.logs(&[" taken over c"])?;
    // A new request is the new process's, and the old one waits for the download.
    let second = edge.download()?;
    ensure!(edge.fairway.process()?.ended()?.is_none(), "it has ended");
    let length = download.finish()?;
    println!("{length} bytes");
    let status = edge.fairway.process()?.wait(wait::SOON)?;
    ensure!(status.success(), "{status}");
    second.finish()?;
    Ok(())
}

/// How long each address must have one owner before an upgrade.
const SETTLED: Duration = Duration::from_millis(500);

fn addresses_that_are_announced_stay_with_their_gateway() -> Result<()> {
    let lan = Lan::new(3, Snooping::Off)?;
    let _servers = named(&lan.farm, &gateways::endpoints())?;
    let addresses: Vec<IpAddr> = (1..=3).flat_map(|n| [lan_vip(n), vip6(n)]).collect();
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, gateways::services(&addresses)].join("---\n");
    let mut all = LanGateways::prepare(&lan, &manifests, |_, gateway| gateway.log("info"))?;
    all.launch()?;
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    let owners = observer.settled(&addresses, SETTLED)?;
    observer.forget();
    let probers = addresses.iter();
    let probers = probers.map(|it| Prober::start(&lan.client, at(*it, gateways::PORT)));
    let probers = probers.collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        for edge in &lan.edges {
            all.on(edge)?.upgrade()?;
        }
    }
    let heard = observer.finish()?;
    for (address, owner) in &owners {
        let spans = judge::spans(&heard, *address);
        let is_same = spans.iter().all(|span| span.hardware == *owner);
        ensure!(
            !spans.is_empty() && is_same,
            "{address} has moved: {spans:?}"
        );
    }
    for prober in probers {
        let figures = figures(&prober.finish()?);
        println!("{figures:?}");
        ensure!(figures.failed == 0, "{figures:?}");
    }
    Ok(())
}

/// A number that differs from run to run, or that of the environment: what a failure has printed.
fn seed() -> u64 {
    let given = std::env::var("FAIRWAY_TEST_SEED").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(1, |since| since.as_secs())
    })
}

/// Bits that look random (SplitMix64).
fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
