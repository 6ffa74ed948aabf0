//! Gateways that announce their addresses on a LAN, and what clients see when one of them departs. Who owns an address
//! is judged from outside: by who answers a host that asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_gateway_core::fleet::{RIGHT, SILENT};
use fairway_integration::lab::{PacketSocket, Served};
use fairway_integration::lan::announcers::Announcers;
use fairway_integration::lan::departure::{EdgeDeparture, TrialPlan};
use fairway_integration::lan::frames;
use fairway_integration::lan::gateways::{self, FLEET_PORT, LanGateways};
use fairway_integration::lan::judge;
use fairway_integration::lan::network::{INTERFACE, Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::{ASKED_EVERY, LanObserver};
use fairway_integration::lan::trial::{self, TrialRecord};
use fairway_integration::servers::named;
use fairway_integration::{tests, wait};
use rustix::process::Signal;

tests![
    a_gateway_that_is_killed_is_followed,
    a_gateway_that_is_frozen_is_followed_and_stays_silent_when_it_goes_on,
    a_gateway_without_its_cable_is_followed,
    a_gateway_that_is_cut_off_is_followed_and_each_side_of_the_cut_has_one_owner,
    a_gateway_that_is_asked_to_stop_hands_over_first,
    seven_gateways_behind_a_bridge_that_snoops_share_addresses_of_ipv6,
    two_gateways_that_do_not_hear_each_other_are_not_two_owners_while_a_third_hears_both,
    a_replayed_heartbeat_keeps_nobody_alive,
    a_heartbeat_without_the_key_keeps_nobody_alive,
    a_gateway_alone_owns_all_its_addresses,
];

/// Each of these tests has the machine for itself: what is looked at is time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Departures in a row that are tried.
const RUNS: usize = 5;

/// What every client may see at the most.
const LONG: Duration = Duration::from_secs(2);

/// How long two may answer for one address at once, where each could hear of the other: an owner answers for so long
/// after its last heartbeat, and is asked so often.
const BOTH: Duration = RIGHT.saturating_add(ASKED_EVERY);

/// How long each address must have had one owner and no other one.
const SETTLED: Duration = Duration::from_secs(1);

/// Gateways on a LAN, and the servers behind them. They go in this order.
struct FailoverStage {
    gateways: LanGateways,
    lan: Lan,
    _farm: Served,
}

fn stage(edges: u8, snooping: Snooping, addresses: &[IpAddr]) -> Result<FailoverStage> {
    stage_on(Lan::new(edges, snooping)?, addresses)
}

fn stage_on(lan: Lan, addresses: &[IpAddr]) -> Result<FailoverStage> {
    let farm = named(&lan.farm, &gateways::endpoints())?;
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, gateways::services(addresses)].join("---\n");
    Ok(FailoverStage {
        gateways: LanGateways::start(&lan, &manifests)?,
        lan,
        _farm: farm,
    })
}

fn some_of_each_family(count: u16) -> Vec<IpAddr> {
    (1..=count).flat_map(|n| [vip(n), vip6(n)]).collect()
}

/// Departures in a row, each of who has the most; what `judge` says of each.
fn departures(
    departure: EdgeDeparture,
    judge: impl Fn(&FailoverStage, &TrialRecord) -> Result<()>,
) -> Result<()> {
    let _alone = alone();
    let addresses = some_of_each_family(3);
    let mut stage = stage(3, Snooping::Mld, &addresses)?;
    let plan = TrialPlan {
        addresses: &addresses,
        port: gateways::PORT,
        departure,
        held: 0,
        patience: Duration::from_secs(30),
    };
    let mut outages = Vec::new();
    for run in 0..RUNS {
        let record = trial::run(&stage.lan, &mut stage.gateways, &plan)?;
        println!("{departure}, run {run}: {:?}", record.seen);
        judge(&stage, &record).with_context(|| format!("run {run} of {departure}"))?;
        outages.extend(record.seen.values().map(|it| it.outage));
    }
    // One that the machine was too busy for is none of the gateways'.
    let long = outages.iter().filter(|it| **it > LONG).count();
    ensure!(
        long * 5 <= outages.len(),
        "{long} of {outages:?} are longer than {LONG:?}"
    );
    Ok(())
}

/// Nobody who departed has an address meanwhile, or gets one back by itself; never did two answer.
fn moved_once(stage: &FailoverStage, record: &TrialRecord) -> Result<()> {
    let [before, during, after] = &record.owners;
    for (address, owner) in before {
        let next = during.get(address).context("nobody has it")?;
        if *owner == record.departed {
            ensure!(next != owner, "{address} stays with who departed");
        } else {
            ensure!(
                next == owner,
                "{address} moved, although its owner was there"
            );
        }
    }
    ensure!(during == after, "moved back: {during:?}, then {after:?}");
    let overlaps = judge::overlaps(&record.heard);
    ensure!(record.longest_overlap() <= BOTH, "{overlaps:?}");
    cache_is_right(stage, record)
}

/// The client's own cache has the present owner of what it has asked for all the time.
fn cache_is_right(stage: &FailoverStage, record: &TrialRecord) -> Result<()> {
    for address in record.seen.keys() {
        let known = stage.lan.neighbor(&stage.lan.client, *address)?;
        let known = known.context("the client's cache lacks it")?.0;
        ensure!(
            record.owners[2].get(address) == Some(&known),
            "{address}: {known:02x?}"
        );
    }
    Ok(())
}

fn a_gateway_that_is_killed_is_followed() -> Result<()> {
    departures(EdgeDeparture::Killed, moved_once)
}

fn a_gateway_that_is_frozen_is_followed_and_stays_silent_when_it_goes_on() -> Result<()> {
    departures(EdgeDeparture::Frozen, |stage, record| {
        let back = record.times[1];
        let since: Vec<_> = record
            .heard
            .iter()
            .filter(|it| it.at >= back)
            .copied()
            .collect();
        let of_it = since
            .iter()
            .filter(|it| it.naming.hardware == record.departed);
        let vips: Vec<_> = of_it
            .filter(|it| record.owners[0].contains_key(&it.naming.address))
            .collect();
        ensure!(
            vips.is_empty(),
            "it said something when it went on: {vips:?}"
        );
        moved_once(stage, record)
    })
}

fn a_gateway_without_its_cable_is_followed() -> Result<()> {
    departures(EdgeDeparture::Unplugged, |stage, record| {
        ensure!(
            record.longest_overlap() <= BOTH,
            "{:?}",
            judge::overlaps(&record.heard)
        );
        cache_is_right(stage, record)
    })
}

fn a_gateway_that_is_cut_off_is_followed_and_each_side_of_the_cut_has_one_owner() -> Result<()> {
    departures(EdgeDeparture::CutOff, |stage, record| {
        ensure!(
            record.longest_overlap() <= BOTH,
            "{:?}",
            judge::overlaps(&record.heard)
        );
        cache_is_right(stage, record)
    })?;
    let _alone = alone();
    let addresses = some_of_each_family(3);
    let stage = stage(4, Snooping::Off, &addresses)?;
    let lan = &stage.lan;
    let (near, far) = (
        lan.observe(&addresses, ASKED_EVERY)?,
        lan.observe_apart(&addresses, ASKED_EVERY)?,
    );
    near.settled(&addresses, SETTLED)?;
    let apart = [lan.edge(1)?, lan.edge(2)?];
    lan.part(&apart)?;
    let is_apart = |owner: &[u8; 6]| apart.iter().any(|it| it.hardware() == *owner);
    for (side, wanted) in [(&near, false), (&far, true)] {
        wait::until("each address has an owner on this side", || {
            side.settled(&addresses, SETTLED)
                .is_ok_and(|owners| owners.values().all(|it| is_apart(it) == wanted))
        })?;
    }
    lan.heal(&apart)?;
    let healed = Instant::now();
    for side in [&near, &far] {
        side.settled(&addresses, SETTLED)?;
        // Hosts of both sides answered until one of each two had heard of the other.
        for overlap in judge::overlaps(&side.heard_since(healed)) {
            ensure!(
                overlap.until <= healed + SILENT + ASKED_EVERY,
                "{overlap:?}"
            );
        }
    }
    Ok(())
}

fn a_gateway_that_is_asked_to_stop_hands_over_first() -> Result<()> {
    departures(EdgeDeparture::Asked, |stage, record| {
        for (address, figures) in &record.seen {
            // One that is under way at the moment of the move may meet its successor in the midst of the handshake.
            ensure!(figures.failed <= 1, "{address}: {figures:?}");
        }
        moved_once(stage, record)
    })
}

/// How many addresses each has.
fn counts(owners: &BTreeMap<IpAddr, [u8; 6]>) -> BTreeMap<[u8; 6], usize> {
    let mut counts = BTreeMap::new();
    for owner in owners.values() {
        *counts.entry(*owner).or_default() += 1;
    }
    counts
}

/// Each has some. (How even the shares are is judged where time is simulated: a gateway that starts later than the
/// others wait for it finds what they have left.)
fn each_has_some(owners: &BTreeMap<IpAddr, [u8; 6]>, gateways: usize) -> Result<()> {
    let counts = counts(owners);
    ensure!(counts.len() == gateways, "{counts:?}");
    Ok(())
}

/// One of many departs and comes back.
fn spread(edges: u8, snooping: Snooping, addresses: &[IpAddr]) -> Result<()> {
    let _alone = alone();
    // Nothing moves by itself, so who is ready first has all. Here all are ready before one has its cable.
    let lan = Lan::new(edges, snooping)?;
    lan.edges.iter().try_for_each(|it| lan.unplug(it))?;
    let mut stage = stage_on(lan, addresses)?;
    let (lan, gateways) = (&stage.lan, &mut stage.gateways);
    lan.edges.iter().try_for_each(|it| lan.plug(it))?;
    // Less often than usual: there are many.
    let observer = lan.observe(addresses, SETTLED / 4)?;
    let before = observer.settled(addresses, SETTLED)?;
    each_has_some(&before, edges.into())?;
    let leaves = lan.edge(2)?;
    gateways.signal(leaves, Signal::KILL)?;
    wait::until("others have what it had", || {
        let named = judge::last_named(&observer.heard(), addresses);
        named.values().all(|it| *it != leaves.hardware())
    })?;
    let during = observer.settled(addresses, SETTLED)?;
    each_has_some(&during, usize::from(edges) - 1)?;
    let moved = |one: &BTreeMap<IpAddr, [u8; 6]>, other: &BTreeMap<IpAddr, [u8; 6]>| {
        let moved = one
            .iter()
            .filter(|(it, owner)| other.get(it) != Some(owner));
        moved.map(|(it, _)| *it).collect::<BTreeSet<_>>()
    };
    let its = before
        .iter()
        .filter(|(_, owner)| **owner == leaves.hardware());
    let its: BTreeSet<_> = its.map(|(it, _)| *it).collect();
    ensure!(moved(&before, &during) == its, "others moved, too");
    gateways.revive(leaves)?;
    let after = observer.settled(addresses, SETTLED)?;
    ensure!(
        after == during,
        "moved by itself: {:?}",
        moved(&during, &after)
    );
    Ok(())
}

fn seven_gateways_behind_a_bridge_that_snoops_share_addresses_of_ipv6() -> Result<()> {
    let addresses: Vec<IpAddr> = (1..=70).map(vip6).collect();
    spread(7, Snooping::Mld, &addresses)
}

fn two_gateways_that_do_not_hear_each_other_are_not_two_owners_while_a_third_hears_both()
-> Result<()> {
    let _alone = alone();
    let addresses = some_of_each_family(3);
    let stage = stage(3, Snooping::Off, &addresses)?;
    let lan = &stage.lan;
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    let before = observer.settled(&addresses, SETTLED)?;
    let [one, two] = [lan.edge(1)?, lan.edge(2)?];
    // First one way, then both.
    for deaf in [(one, two), (two, one)] {
        lan.deafen(deaf.0, &[deaf.1])?;
        let span = SILENT * 4;
        wait::always(span, "each has what it had, and nobody else", || {
            let heard = observer.heard();
            judge::last_named(&heard, &addresses) == before && judge::overlaps(&heard).is_empty()
        })?;
        observer.settled(&addresses, SETTLED)?;
    }
    Ok(())
}

/// The frames that bring heartbeats of an edge to another one, a second of them.
fn heartbeats(lan: &Lan, from: u8, to: u8) -> Result<Vec<Vec<u8>>> {
    let (from, to) = (lan.edge(from)?.hardware(), lan.edge(to)?);
    let socket = to.host.run(|| PacketSocket::open(INTERFACE))?;
    let mut buffer = vec![0; 2048];
    let mut frames = Vec::new();
    wait::until("there are heartbeats", || {
        while let Ok(Some((frame, _))) = socket.receive(&mut buffer) {
            if frame.get(6..12) == Some(&from) && frames::is_udp_to(frame, FLEET_PORT) {
                let mut copy = frame.to_vec();
                frames::without_udp_sum(&mut copy);
                frames.push(copy);
            }
        }
        frames.len() >= 10
    })?;
    Ok(frames)
}

/// Of two gateways one is killed, and somebody else sends these frames in its place, again and again. The other one
/// takes its addresses all the same.
fn nobody_is_kept_alive(reason: &str, change: impl Fn(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let _alone = alone();
    let addresses = some_of_each_family(2);
    let mut stage = stage(2, Snooping::Off, &addresses)?;
    let (lan, gateways) = (&stage.lan, &mut stage.gateways);
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    observer.settled(&addresses, SETTLED)?;
    let mut frames = heartbeats(lan, 1, 2)?;
    frames.iter_mut().try_for_each(&change)?;
    let is_over = AtomicBool::new(false);
    let socket = lan.witness.run(|| PacketSocket::open(INTERFACE))?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<u32> {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                for frame in &frames {
                    socket.send(frame)?;
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(sent)
        });
        let outcome = is_taken_over(lan, gateways, &observer, &addresses, reason);
        is_over.store(true, Ordering::Relaxed);
        let sent = sender
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome.with_context(|| format!("{sent} frames were sent"))
    })
}

/// The first edge is killed, and the second one takes all, although it goes on to hear of the first.
fn is_taken_over(
    lan: &Lan,
    gateways: &mut LanGateways,
    observer: &LanObserver,
    addresses: &[IpAddr],
    reason: &str,
) -> Result<()> {
    let [one, other] = [lan.edge(1)?, lan.edge(2)?];
    gateways.signal(one, Signal::KILL)?;
    wait::until("the other one has all", || {
        let named = judge::last_named(&observer.heard(), addresses);
        named.values().all(|it| *it == other.hardware())
    })?;
    observer.settled(addresses, SETTLED)?;
    // What was sent had arrived, and was known for what it was.
    let label = format!("reason=\"{reason}\"");
    wait::until("what was sent is refused", || {
        let gateway = gateways.on(other);
        let count = gateway.and_then(|it| it.metric("fairway_heartbeat_rejected_total", &[&label]));
        count.is_ok_and(|count| count >= 20.0)
    })
}

fn a_replayed_heartbeat_keeps_nobody_alive() -> Result<()> {
    nobody_is_kept_alive("replayed", |_| Ok(()))
}

fn a_heartbeat_without_the_key_keeps_nobody_alive() -> Result<()> {
    // As if it were newer: the number of the message grows. Who has no key can't make the rest fit.
    nobody_is_kept_alive("key", |frame| {
        let payload = frames::udp_payload(frame);
        let begins = payload.windows(4).position(|it| it == b"FWF1");
        let begins = begins.context("no message was found in the frame")?;
        let message = payload.get_mut(begins..).context("it has a message")?;
        let name = usize::from(*message.get(4).context("it has a name")?);
        // Behind the name and the run of 8 bytes; the sixth of eight bytes is 65,536 messages more.
        let byte = message
            .get_mut(5 + name + 8 + 5)
            .context("it has a number")?;
        *byte = byte.wrapping_add(1);
        Ok(())
    })
}

fn a_gateway_alone_owns_all_its_addresses() -> Result<()> {
    let _alone = alone();
    let addresses = some_of_each_family(2);
    let stage = stage(1, Snooping::Mld, &addresses)?;
    let observer = stage.lan.observe(&addresses, ASKED_EVERY)?;
    let owners = observer.settled(&addresses, SETTLED)?;
    let own = stage.lan.edge(1)?.hardware();
    ensure!(owners.values().all(|it| *it == own), "{owners:?}");
    Ok(())
}
