//! The thread of the fleet: one loop for all segments, without a runtime, since who answers for an address must not
//! wait for anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairway_config::exchange::AddressConflict;
use fairway_config::names::ClusterName;
use fairway_config::time::Timestamp;
use fairway_gateway_core::fleet::{BootTime, HEARTBEAT};
use fairway_gateway_core::segments::{HostNetwork, InterfaceName, PlacedRange, segments};
use rustix::event::poll;
use rustix::time::Timespec;
use tokio::sync::watch;

use super::owner_log::say;
use super::refused::RefusedDatagrams;
use super::reports::{AddressReportOutbox, MemberHealth, Standings};
use super::segment::{LONGEST, RunningSegment, SegmentInputs};
use crate::announcing::{Announceable, AnnouncedPool, ProbedAddress};
use crate::clock::{boot_time, wall_time};
use crate::handed::HandedSegment;
use crate::layer2::{Layer2, SegmentFault};
use crate::metrics::DRAINING_ADDRESSES;
use crate::passing::{PassTarget, PassedAddress, Passing};
use crate::receive_meter::ReceiveMeter;
use crate::seal::{Seal, SealPurpose};
use crate::shared::GatewayShared;
use crate::stalls::{Stalls, WorkerLoops, turns};
use crate::urgency;

/// How often the loops are looked at, and what failed is tried again.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is looked for the host's interfaces, before they are known.
const SOON: Duration = Duration::from_millis(5);

/// In so many heartbeats, a second, each address is looked at that no change of ownership has been reported of: some
/// with each, for thousands at once would keep heartbeats waiting.
const LOOKED_AT_IN: usize = 10;

/// A gateway that has begun counts as one that takes part after this time, though some do not hear it, or it has no
/// key yet.
const JOINS: Duration = Duration::from_secs(10);

/// What other threads tell this one.
#[derive(Debug, Default)]
pub(super) struct FleetSignals {
    pub(super) is_leaving: AtomicBool,
    pub(super) is_ending: AtomicBool,
    /// It ends because another process goes on as the same gateway.
    pub(super) is_handed_over: AtomicBool,
}

/// How far leaving is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It has not begun, or others are still to take addresses.
    #[default]
    Waiting,
    /// This gateway had owned nothing.
    Idle,
    /// Others have taken all.
    Taken,
    /// It owns addresses, and there is no other gateway to take them.
    Alone,
}

/// What the thread works with.
pub(super) struct FleetThread {
    pub(super) own: ClusterName,
    pub(super) port: u16,
    pub(super) waits_for_key: bool,
    pub(super) announceable: watch::Receiver<Arc<Announceable>>,
    pub(super) network: watch::Receiver<Option<HostNetwork>>,
    pub(super) layer2: Layer2,
    pub(super) passing: Passing,
    /// How long packets are passed to who has handed an address over.
    pub(super) passes_for: Duration,
    /// The loops that carry traffic.
    pub(super) loops: WorkerLoops,
    pub(super) reports: Arc<AddressReportOutbox>,
    pub(super) shared: Arc<GatewayShared>,
    pub(super) signals: Arc<FleetSignals>,
    pub(super) departure: watch::Sender<Departure>,
    /// What another process of this gateway had, of each network. It is used once.
    pub(super) continuations: Vec<HandedSegment>,
}

/// What the thread knows.
pub(super) struct FleetLoop {
    pub(super) inputs: FleetThread,
    seal: Option<Seal>,
    /// The pools, and what the controller asks for, as they were taken in the last time. Not all that may be announced:
    /// where somebody keeps that, each change of an address copies it.
    pub(super) pools: Arc<BTreeMap<ClusterName, Arc<AnnouncedPool>>>,
    pub(super) probing: Arc<BTreeMap<IpAddr, ProbedAddress>>,
    pub(super) segments: BTreeMap<InterfaceName, RunningSegment>,
    /// All addresses, those that belong to no segment, too.
    addresses: Vec<IpAddr>,
    /// So many of them have been looked at in this round.
    looked_at: usize,
    /// Those whose reports are to be made now.
    touched: BTreeSet<IpAddr>,
    refused: RefusedDatagrams,
    stalls: Stalls,
    /// Why this gateway can own nothing at all.
    pub(super) inability: Option<String>,
    /// The interfaces on which nobody can be answered, and why.
    faults: BTreeMap<InterfaceName, SegmentFault>,
    /// Why the kernel answers by itself.
    kernel_answers: Option<Arc<str>>,
    /// The gateways that are on none of the segments.
    unreachable: BTreeSet<ClusterName>,
    pub(super) standings: Standings,
    /// The addresses that have connections at another gateway.
    pub(super) passed: BTreeMap<PassedAddress, PassTarget>,
    /// Whether it has owned an address since it began to leave.
    has_owned: bool,
    began: BootTime,
    /// Whether it takes part, and that was said.
    has_joined: bool,
    /// Whether what is known from outside was looked at.
    has_looked: bool,
    /// Whether all is to be looked at that is known from outside.
    is_outdated: bool,
    next_tick: BootTime,
    next_look: BootTime,
}

impl FleetThread {
    /// Runs until it is told to end. Returns what another process needs to go on, where it is handed over.
    pub(super) fn run(self) -> Vec<HandedSegment> {
        urgency::raise_or_say();
        let now = boot_time();
        let fleet = FleetLoop {
            inputs: self,
            seal: None,
            pools: Arc::default(),
            probing: Arc::default(),
            segments: BTreeMap::new(),
            addresses: Vec::new(),
            looked_at: 0,
            touched: BTreeSet::new(),
            refused: RefusedDatagrams::default(),
            stalls: Stalls::default(),
            inability: None,
            faults: BTreeMap::new(),
            kernel_answers: None,
            unreachable: BTreeSet::new(),
            standings: Standings::default(),
            passed: BTreeMap::new(),
            has_owned: false,
            began: now,
            has_joined: false,
            has_looked: false,
            is_outdated: true,
            next_tick: now,
            next_look: now,
        };
        fleet.run()
    }
}

impl FleetLoop {
    fn run(mut self) -> Vec<HandedSegment> {
        let mut buffer = vec![0; LONGEST];
        let mut meter = ReceiveMeter::new("fleet");
        while !self.inputs.signals.is_ending.load(Ordering::Relaxed) {
            self.wait(&meter);
            // What has come counts before the tick: who was frozen must hear first what went on.
            meter.receive(|| {
                let mut is_any = false;
                for segment in self.segments.values_mut() {
                    let (seal, own) = (self.seal.as_ref(), &self.inputs.own);
                    is_any |= segment.receive(own, seal, &mut buffer, &mut self.refused);
                }
                is_any
            });
            let now = boot_time();
            // What is offered is prepared at once.
            if self
                .segments
                .values_mut()
                .any(|it| it.fleet.take_offer_news())
            {
                self.pass(now);
            }
            if now >= self.next_tick {
                self.next_tick = match self.next_tick.after(HEARTBEAT) {
                    next if next > now => next,
                    _ => now.after(HEARTBEAT),
                };
                self.tick(now);
                if !self.has_looked {
                    // Another process may have had addresses here: there is no heartbeat to be lost.
                    self.next_tick = now.after(SOON);
                }
            }
            self.settle(now);
        }
        if self.inputs.signals.is_handed_over.load(Ordering::Relaxed) {
            return self.hand_over();
        }
        self.end();
        Vec::new()
    }

    /// Waits for datagrams, if they may be received, until the next tick.
    fn wait(&self, meter: &ReceiveMeter) {
        let now = boot_time();
        let resumes_at = meter.resumes_at(now);
        let segments = self.segments.values();
        let mut polled: Vec<_> = segments
            .filter(|_| resumes_at.is_none())
            .flat_map(|segment| segment.sockets().polled())
            .collect();
        let until = resumes_at.map_or(self.next_tick, |at| at.min(self.next_tick));
        let left = until.since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or_default(),
            tv_nsec: left.subsec_nanos().into(),
        };
        // An error is a signal: the loop looks at all anyway.
        let _ = poll(&mut polled, Some(&timeout));
    }

    fn tick(&mut self, now: BootTime) {
        self.look(now);
        let faults = self.inputs.layer2.faults();
        let kernel_answers = self.inputs.layer2.kernel_answers();
        if faults != self.faults || kernel_answers != self.kernel_answers {
            (self.faults, self.kernel_answers) = (faults, kernel_answers);
            self.is_outdated = true;
        }
        if self.is_outdated
            || self.inputs.announceable.has_changed().unwrap_or(false)
            || self.inputs.network.has_changed().unwrap_or(false)
        {
            self.is_outdated = false;
            self.update(now);
        }
        self.pass(now);
        let unanswered = match self.passed.is_empty() {
            true => BTreeSet::new(),
            false => self.inputs.passing.unanswered(&self.passed),
        };
        let is_leaving = self.inputs.signals.is_leaving.load(Ordering::Relaxed);
        for segment in self.segments.values_mut() {
            if is_leaving {
                segment.fleet.leave();
            }
            segment.hold_offers(now, &unanswered);
            segment.ask(now, &self.inputs.layer2, &self.probing, &self.pools);
            segment.tick(now, self.seal.as_ref());
        }
        if is_leaving {
            self.depart(now);
        }
        self.join(now);
        let share = self.addresses.len().div_ceil(LOOKED_AT_IN);
        let next = self.addresses.iter().skip(self.looked_at).take(share);
        self.touched.extend(next);
        self.looked_at += share;
        if self.looked_at >= self.addresses.len() {
            self.looked_at = 0;
        }
    }

    /// Says that this gateway takes part, once after it has begun.
    fn join(&mut self, now: BootTime) {
        let mut segments = self.segments.values();
        let is_late = now >= self.began.after(JOINS);
        if !self.has_joined
            && (is_late || (self.has_looked && segments.all(|it| it.is_settled(now))))
        {
            self.has_joined = true;
            self.inputs.shared.fleet.set_joining(false);
        }
    }

    /// Has packets of connections that are at other gateways passed to them.
    fn pass(&mut self, now: BootTime) {
        let passes_for = self.inputs.passes_for;
        let segments = self.segments.values();
        let mut passed: BTreeMap<_, _> = segments
            .flat_map(|it| it.predecessors(now, passes_for))
            .collect();
        if !passed.is_empty() {
            // Of what kube-proxy forwards there are no sockets by which the kernel could tell whose it is.
            let announceable = self.inputs.announceable.borrow();
            passed.retain(|(_, address), _| announceable.ends_connections(*address));
        }
        if passed != self.passed {
            self.inputs.passing.set(&passed);
            self.passed = passed;
        }
    }

    /// Looks whether all loops turn, and what can be tried again.
    fn look(&mut self, now: BootTime) {
        if now < self.next_look {
            return;
        }
        self.next_look = now.after(LOOK);
        let responder = self.inputs.layer2.last_turn().0.as_nanos() as u64;
        let responder = ("the responder of ARP and NDP".to_owned(), responder);
        let stalled = self
            .stalls
            .look(now, turns(&self.inputs.loops).chain([responder]));
        let inability = stalled.map(|name| format!("{name} has not turned for a second"));
        if inability != self.inability {
            match &inability {
                Some(why) => tracing::error!(%why, "no address is owned"),
                None => tracing::info!("addresses can be owned again: all loops turn"),
            }
            self.inability = inability;
            self.is_outdated = true;
        }
        self.is_outdated |= self.segments.values().any(|it| it.is_incomplete);
        self.show_members(now);
        let owned = self.segments.values().flat_map(|it| it.fleet.owned());
        let owned: BTreeSet<IpAddr> = owned.map(|(address, _)| address).collect();
        let is_draining = self.inputs.announceable.borrow().draining.is_some();
        let still = if is_draining { owned.len() } else { 0 };
        metrics::gauge!(DRAINING_ADDRESSES).set(still as f64);
    }

    /// Says which other gateways are heard: on each network on which this one is to hear them.
    fn show_members(&self, now: BootTime) {
        let unreachable = self.unreachable.iter();
        let mut members: BTreeMap<ClusterName, bool> =
            unreachable.map(|name| (name.clone(), false)).collect();
        for segment in self.segments.values() {
            for (name, is_in_touch) in segment.fleet.in_touch(now) {
                *members.entry(name.clone()).or_insert(true) &= is_in_touch;
            }
        }
        self.inputs.shared.fleet.set(now, members);
    }

    /// Takes in what has changed outside: addresses, pools, other gateways, interfaces.
    fn update(&mut self, now: BootTime) {
        let announceable = self.inputs.announceable.borrow_and_update().clone();
        let Some(network) = self.inputs.network.borrow_and_update().clone() else {
            self.is_outdated = true;
            return;
        };
        self.pools = announceable.pools.clone();
        self.probing = announceable.probing.clone();
        self.has_looked = true;
        self.seal = announceable
            .key
            .as_deref()
            .map(|key| Seal::new(key, SealPurpose::Fleet));
        let named = |address: &IpAddr| {
            let announcement = match announceable.addresses.get(address) {
                Some(announced) => &announced.announcement,
                None => {
                    let probed = announceable.probing.get(address)?;
                    &announceable.pools.get(&probed.pool)?.announcement
                }
            };
            Some(&*announcement.layer2.as_ref()?.interfaces)
        };
        let pools = announceable.pools.values().flat_map(|pool| {
            let named = pool.announcement.layer2.as_ref();
            let ranges = named.map(|it| (&*it.interfaces, &pool.ranges));
            ranges.into_iter().flat_map(|(named, ranges)| {
                ranges.iter().map(move |range| PlacedRange {
                    range: *range,
                    named,
                })
            })
        });
        let addresses = announceable.addresses.keys();
        let probing = announceable.probing.keys();
        let probing = probing.filter(|it| !announceable.addresses.contains_key(it));
        let addresses = addresses.chain(probing);
        let addresses = addresses.filter_map(|address| Some((*address, named(address)?)));
        let members = announceable.members.iter().map(|(name, member)| {
            let addresses = member.addresses.iter().map(ipnet::IpNet::addr);
            (name.clone(), addresses.collect())
        });
        let planned = segments(&network, pools, addresses.clone(), &members.collect());
        self.addresses = addresses.map(|(address, _)| address).collect();
        self.looked_at = 0;
        // Those that are gone are reported at once.
        let left: BTreeSet<IpAddr> = self.addresses.iter().copied().collect();
        let gone = self.standings.addresses().filter(|it| !left.contains(it));
        self.touched.extend(gone);
        let mut unreachable: BTreeSet<_> = announceable.members.keys().cloned().collect();
        for name in planned.values().flat_map(|it| it.members.keys()) {
            unreachable.remove(name);
        }
        // Where nothing is announced nobody is to be heard.
        if planned.is_empty() {
            unreachable.clear();
        }
        if !unreachable.is_subset(&self.unreachable) {
            tracing::warn!(
                gateways = ?unreachable,
                "other gateways have no address on a network where addresses are announced: they are not heard there, \
                 and each may own the same addresses"
            );
        }
        self.unreachable = unreachable;
        self.inputs
            .layer2
            .set_interfaces(planned.keys().cloned().collect());
        // An interface that is new is not open yet.
        self.faults = self.inputs.layer2.faults();
        self.segments.retain(|interface, segment| {
            let is_kept = planned.contains_key(interface);
            if !is_kept {
                segment.right.set(BootTime::default());
                self.inputs.layer2.set_owned(interface, BTreeMap::new());
            }
            is_kept
        });
        for (interface, segment) in planned {
            let index = network.interfaces.get(&interface).map_or(0, |it| it.index);
            let own = &self.inputs.own;
            let right = || self.inputs.layer2.right(&interface);
            let handed = self.inputs.continuations.iter();
            let handed = handed.rev().find(|it| *it.interface == *interface);
            let handed = handed.map(HandedSegment::continuation);
            let new = || RunningSegment::new(&interface, own, right(), handed.as_ref(), now);
            let inputs = SegmentInputs {
                own,
                announceable: &announceable,
                segment,
                index,
                port: self.inputs.port,
                seal: self.seal.as_ref(),
                waits_for_key: self.inputs.waits_for_key,
                fault: self.faults.get(&interface),
                kernel_answers: self.kernel_answers.as_ref(),
                inability: self.inability.as_deref(),
            };
            self.segments
                .entry(interface.clone())
                .or_insert_with(new)
                .set(now, inputs);
        }
    }

    /// Hands on what may be answered for, and reports.
    fn settle(&mut self, now: BootTime) {
        let mut touched = std::mem::take(&mut self.touched);
        for (interface, segment) in &mut self.segments {
            // What is lost ends before what is kept goes on.
            let changes = segment.fleet.take_changes();
            if !changes.is_empty() {
                let owned: BTreeMap<IpAddr, u64> = segment.fleet.owned().collect();
                for is_owned in [false, true] {
                    let of_kind = changes.iter().filter(|it| it.is_owned == is_owned);
                    let addresses: BTreeSet<IpAddr> = of_kind
                        .map(|it| it.address)
                        .filter(|it| owned.contains_key(it) == is_owned)
                        .collect();
                    say(interface, &addresses, is_owned);
                }
                touched.extend(changes.iter().map(|it| it.address));
                self.inputs.layer2.set_owned(interface, owned);
            }
            segment.right.set(segment.fleet.answers_until());
        }
        touched.extend(self.newly_answered(now));
        if touched.is_empty() {
            return;
        }
        let mut reports = BTreeMap::new();
        let conflicts = self.inputs.layer2.conflicts();
        for address in touched {
            let Some(mut seen) = self.seen(address, now) else {
                if self.standings.remove(address) {
                    reports.insert(address, None);
                }
                continue;
            };
            let on_segments = seen.interfaces.iter();
            let conflict = on_segments.filter_map(|name| conflicts.get(&(name.clone(), address)));
            seen.conflict = conflict
                .min_by_key(|it| it.since)
                .map(|it| AddressConflict {
                    hardware_address: it.hardware_address.to_string().into(),
                    since: day_of(it.since, now),
                })
                .or(seen.conflict);
            let is_alive = |name: &str| {
                let mut segments = self.segments.values();
                segments.any(|it| it.fleet.is_alive(name, now))
            };
            let is_draining = |name: &str| {
                let mut segments = self.segments.values();
                segments.any(|it| it.fleet.is_draining(name, now))
            };
            let after = |name: &str| match (is_alive(name), is_draining(name)) {
                (false, _) => MemberHealth::Silent,
                (true, true) => MemberHealth::Draining,
                (true, false) => MemberHealth::Alive,
            };
            if let Some(report) = self.standings.set(address, seen, wall_time(), after) {
                reports.insert(address, Some(report));
            }
        }
        self.inputs.reports.put(reports);
    }

    /// Says how far leaving is.
    fn depart(&mut self, now: BootTime) {
        let mut segments = self.segments.values();
        let owns = |it: &&RunningSegment| it.fleet.owned().next().is_some();
        let departure = if !segments.clone().any(|it| owns(&it)) {
            match self.has_owned {
                true => Departure::Taken,
                false => Departure::Idle,
            }
        } else if segments.any(|it| {
            let mut members = it.segment.members.keys();
            owns(&it) && members.any(|name| it.fleet.is_alive(name, now))
        }) {
            Departure::Waiting
        } else {
            Departure::Alone
        };
        self.has_owned |= !matches!(departure, Departure::Idle | Departure::Taken);
        self.inputs.departure.send_if_modified(|known| {
            let is_news = *known != departure;
            *known = departure;
            is_news
        });
    }

    /// Leaves all to another process, and says nothing: others hear that one from now on.
    fn hand_over(self) -> Vec<HandedSegment> {
        let segments = self.segments.iter();
        let handed = segments.map(|(interface, segment)| {
            // It answers no more: its answers and those of the other process are the same, but who has the right is one.
            segment.right.set(BootTime::default());
            HandedSegment::new(interface, segment.fleet.continuation())
        });
        handed.collect()
    }

    /// Lets go of all, and says so to the others, so that they need not wait until they miss this gateway.
    fn end(mut self) {
        let now = boot_time();
        for (interface, segment) in &mut self.segments {
            segment.right.set(BootTime::default());
            segment.fleet.set_addresses(now, BTreeMap::new());
            segment.tick(now, self.seal.as_ref());
            self.inputs.layer2.set_owned(interface, BTreeMap::new());
        }
    }
}

/// The time of day at that time.
pub(super) fn day_of(at: BootTime, now: BootTime) -> Timestamp {
    let ago = i64::try_from(now.since(at).as_secs()).unwrap_or(i64::MAX);
    Timestamp(wall_time().0.saturating_sub(ago))
}
