//! One segment that runs: who owns addresses there, and the messages to and from the other gateways on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_config::exchange::Successor;
use fairway_config::names::ClusterName;
use fairway_gateway_core::fleet::message::MemberName;
use fairway_gateway_core::fleet::wire::{self, FleetWireError};
use fairway_gateway_core::fleet::{
    Ability, BootTime, Candidacy, Fleet, FleetContinuation, GarbageWatch,
};
use fairway_gateway_core::layer2::ProbeOutcome;
use fairway_gateway_core::segments::{Segment, SegmentLink};
use ring::rand::{SecureRandom as _, SystemRandom};
use thiserror::Error;

use super::refused::{RefusedDatagrams, RefusedFor};
use super::sockets::{MemberSockets, TakenDatagram};
use super::wire_probes::WireProbes;
use crate::announcing::{Announceable, AnnouncedAddress, AnnouncedPool, ProbedAddress};
use crate::clock::boot_time;
use crate::layer2::{AnswerRight, Layer2, SegmentFault};
use crate::metrics::HEARTBEATS;
use crate::passing::{PassTarget, PassedAddress};
use crate::seal::{Seal, TAG};

/// So many datagrams are taken before the loop looks at the clock again, and at other segments.
const MOST: usize = 256;

/// How long an offer is not taken where the kernel has not said yet whether packets can be passed to who offers it.
const PREPARES: Duration = Duration::from_millis(200);

/// The longest message: one of the most members with the longest names.
pub(super) const LONGEST: usize = 20 * 1024;

/// Why a gateway can own nothing on a segment. Displays as the end of a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum SegmentProblem {
    #[error("this host has no interface {0}")]
    Missing(String),
    #[error("the interface {0} is down")]
    Down(String),
    #[error("requests for addresses can't be answered on {0}: {1}")]
    Mute(String, SegmentFault),
    #[error("{0} has no address by which other gateways could be heard")]
    NoAddress(String),
    #[error("the key of the fleet is not known yet")]
    NoKey,
    #[error("other gateways can't be heard on {0}: {1}")]
    Deaf(String, String),
    #[error("{0}, and other gateways may own it")]
    KernelAnswers(Arc<str>),
}

impl SegmentProblem {
    /// Whether nothing is heard of other gateways.
    fn is_deaf(&self) -> bool {
        !matches!(self, Self::Mute(..) | Self::KernelAnswers(_))
    }

    /// Whether it is there with every start, for a moment.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Mute(_, SegmentFault::NotYet))
    }

    /// Whether it ends some seconds after a start. Without the key nobody knows what other gateways have.
    fn ends_soon(&self) -> bool {
        self.is_passing() || matches!(self, Self::NoKey)
    }
}

/// What a segment is to be: the rest of what is known changes it.
pub(super) struct SegmentInputs<'a> {
    pub(super) own: &'a MemberName,
    pub(super) announceable: &'a Announceable,
    pub(super) segment: Segment,
    /// The kernel's number of the interface; 0: there is none.
    pub(super) index: u32,
    pub(super) port: u16,
    pub(super) seal: Option<&'a Seal>,
    /// Without the key it does not know whether there are others.
    pub(super) waits_for_key: bool,
    /// Why requests can't be answered there.
    pub(super) fault: Option<&'a SegmentFault>,
    /// Why the kernel answers requests by itself, whoever owns an address.
    pub(super) kernel_answers: Option<&'a Arc<str>>,
    /// Why this gateway can own nothing at all.
    pub(super) inability: Option<&'a str>,
}

/// See the module.
pub(super) struct RunningSegment {
    interface: Box<str>,
    pub(super) fleet: Fleet,
    pub(super) segment: Segment,
    /// The kernel's number of the interface; 0: there is none.
    index: u32,
    port: u16,
    /// The addresses that have connections at other gateways, where the kernel has not said whether packets can be
    /// passed there, and since when.
    unprepared: BTreeMap<IpAddr, BootTime>,
    pub(super) problem: Option<SegmentProblem>,
    sockets: MemberSockets,
    garbage: GarbageWatch,
    /// A socket could not be opened: it is to be tried again.
    pub(super) is_incomplete: bool,
    /// Until when the responder may answer here.
    pub(super) right: Arc<AnswerRight>,
    /// Which addresses are used by another host, as far as it was asked.
    pub(super) probes: WireProbes,
    /// The addresses whose first term waits until that is known.
    asking: BTreeSet<IpAddr>,
    /// One controller asks all gateways. Without a store that tells of the others each gateway has a controller of its
    /// own, which asks it alone.
    has_one_controller: bool,
    /// The last message could not be sent, and that was said.
    is_unheard: bool,
}

impl RunningSegment {
    pub(super) fn new(
        interface: &str,
        own: &MemberName,
        right: Arc<AnswerRight>,
        continuation: Option<&FleetContinuation>,
        now: BootTime,
    ) -> Self {
        let going_on = continuation.and_then(|from| Fleet::go_on(own.clone(), from, now));
        Self {
            interface: interface.into(),
            fleet: going_on.unwrap_or_else(|| new_fleet(own, now)),
            segment: Segment {
                link: SegmentLink::Missing,
                own: BTreeSet::new(),
                members: BTreeMap::new(),
                addresses: BTreeSet::new(),
            },
            problem: None,
            sockets: MemberSockets::default(),
            garbage: GarbageWatch::default(),
            is_incomplete: false,
            index: 0,
            port: 0,
            unprepared: BTreeMap::new(),
            right,
            probes: WireProbes::default(),
            asking: BTreeSet::new(),
            has_one_controller: false,
            is_unheard: false,
        }
    }

    /// Takes in what has changed.
    pub(super) fn set(&mut self, now: BootTime, inputs: SegmentInputs<'_>) {
        let problem = self.listen(&inputs);
        if problem != self.problem {
            let interface = &*self.interface;
            match &problem {
                Some(problem) if problem.is_passing() => tracing::debug!(interface, %problem),
                Some(problem) => tracing::warn!(interface, %problem, "no address is owned here"),
                None => tracing::info!(interface, "addresses can be owned here"),
            }
        }
        let was_deaf = self.problem.as_ref().is_some_and(SegmentProblem::is_deaf);
        if was_deaf && !problem.as_ref().is_some_and(SegmentProblem::is_deaf) {
            // It owned nothing, and does not know what the others own: it listens first, as with a start.
            self.fleet = new_fleet(inputs.own, now);
        }
        self.problem = problem;
        (self.segment, self.port) = (inputs.segment, inputs.port);
        self.index = inputs.index;
        self.has_one_controller = inputs.waits_for_key;
        self.fleet.set_members(self.segment.members.keys().cloned());
        let is_draining = inputs.announceable.draining.is_some();
        self.fleet.set_draining(is_draining);
        let can_own = self.problem.is_none() && inputs.inability.is_none();
        let mut wanted = BTreeMap::new();
        for address in &self.segment.addresses {
            let Some(announced) = inputs.announceable.addresses.get(address) else {
                continue;
            };
            let pool = inputs.announceable.pools.get(&announced.pool);
            let candidates = pool.map(|pool| pool.owners.clone()).unwrap_or_default();
            let ability = match can_own {
                true => ability(announced, candidates.contains(inputs.own)),
                false => Ability::Unable,
            };
            let preferred = match announced.local_nodes.is_subset(&candidates) {
                true => announced.local_nodes.clone(),
                false => Arc::new(&*announced.local_nodes & &*candidates),
            };
            let candidacy = Candidacy {
                candidates,
                preferred,
                ability,
                reach: announced.reach,
            };
            wanted.insert(*address, candidacy);
        }
        self.fleet.set_addresses(now, wanted);
        self.probes.retain(&self.segment.addresses, now);
    }

    /// Asks who has the addresses that the controller wants to know of, and those that this gateway would be the
    /// first to own.
    pub(super) fn ask(
        &mut self,
        now: BootTime,
        layer2: &Layer2,
        probing: &BTreeMap<IpAddr, ProbedAddress>,
        pools: &BTreeMap<ClusterName, Arc<AnnouncedPool>>,
    ) {
        self.probes.collect(now);
        self.asking.clear();
        if self.problem.is_some() {
            return;
        }
        let mut asked = BTreeMap::new();
        for (address, probed) in probing {
            if self.segment.addresses.contains(address)
                && self.probes.number(*address) != Some(probed.number)
                && self.fleet.owner(*address, now).is_none()
                && self.is_asker(*address, pools.get(&probed.pool), now)
            {
                asked.insert(*address, probed.number);
            }
        }
        for address in self.fleet.unasked(now) {
            if let Some(at) = self.probes.free_at(address) {
                self.fleet.note_free(address, at);
            }
        }
        self.asking = self.fleet.unasked(now).into_iter().collect();
        for &address in &self.asking {
            if self.probes.is_due(address, now) {
                let number = self.probes.number(address).unwrap_or_default();
                asked.entry(address).or_insert(number);
            }
        }
        self.probes.ask(layer2, &self.interface, asked);
    }

    /// Whether this gateway is one of those that ask here for the controller after an address of that pool.
    fn is_asker(&self, address: IpAddr, pool: Option<&Arc<AnnouncedPool>>, now: BootTime) -> bool {
        let owners = |name: &MemberName| pool.is_some_and(|it| it.owners.contains(name));
        !self.has_one_controller
            || (!self.fleet.is_listening(now) && self.fleet.is_asker(address, owners, now))
    }

    /// Whether this gateway waits with the first term of an address until it knows whether another host uses it.
    pub(super) fn is_asking(&self, address: IpAddr) -> bool {
        self.asking.contains(&address)
    }

    /// Whether the controller's probe of an address is left to other gateways here.
    pub(super) fn leaves(&self, address: IpAddr, number: u64, now: BootTime) -> bool {
        self.problem.is_none()
            && !self.fleet.is_listening(now)
            && self.fleet.owner(address, now).is_none()
            && self.probes.number(address) != Some(number)
    }

    /// What is to be answered to the controller's probe of an address; none: nothing yet.
    pub(super) fn answer(
        &self,
        address: IpAddr,
        number: u64,
        now: BootTime,
    ) -> Option<ProbeOutcome> {
        match &self.problem {
            Some(problem) if problem.ends_soon() => None,
            Some(_) => Some(ProbeOutcome::Unknown),
            // What a gateway has is not another host's.
            None if self.fleet.is_listening(now) => None,
            None if self.fleet.owner(address, now).is_some() => Some(ProbeOutcome::Free),
            None => self.probes.outcome(address, number),
        }
    }

    /// Opens what it takes to hear the others. Returns why nothing can be owned here.
    fn listen(&mut self, inputs: &SegmentInputs<'_>) -> Option<SegmentProblem> {
        self.is_incomplete = false;
        let interface = || self.interface.to_string();
        let segment = &inputs.segment;
        match segment.link {
            SegmentLink::Missing => return Some(SegmentProblem::Missing(interface())),
            SegmentLink::Down => return Some(SegmentProblem::Down(interface())),
            SegmentLink::Up => {}
        }
        if inputs.waits_for_key && inputs.seal.is_none() {
            return Some(SegmentProblem::NoKey);
        }
        if segment.own.is_empty() && !inputs.announceable.members.is_empty() {
            return Some(SegmentProblem::NoAddress(interface()));
        }
        if segment.members.is_empty() {
            self.sockets = MemberSockets::default();
        } else if inputs.seal.is_none() {
            return Some(SegmentProblem::NoKey);
        } else {
            let needed = segment.members.values().map(|path| path.own).collect();
            let on = (&*self.interface, inputs.index);
            let set = self.sockets.set(on, inputs.port, &segment.own, &needed);
            self.is_incomplete = !matches!(set, Ok(true));
            if let Err(error) = set {
                return Some(SegmentProblem::Deaf(interface(), error.to_string()));
            }
        }
        // Last: it hears the others also where it can't answer.
        if let Some(fault) = inputs.fault {
            return Some(SegmentProblem::Mute(interface(), fault.clone()));
        }
        // Alone it is the one that answers anyway.
        let kernel_answers = inputs.kernel_answers;
        let kernel_answers = kernel_answers.filter(|_| !segment.members.is_empty());
        kernel_answers.map(|why| SegmentProblem::KernelAnswers(why.clone()))
    }

    /// Whether this gateway takes part, or has a lasting reason not to.
    pub(super) fn is_settled(&self, now: BootTime) -> bool {
        match &self.problem {
            None => self.fleet.has_joined(now),
            Some(problem) => !problem.ends_soon(),
        }
    }

    /// What poll(2) is to wait for.
    pub(super) fn sockets(&self) -> &MemberSockets {
        &self.sockets
    }

    /// Takes the messages that have come, but not without end. Returns whether any have.
    pub(super) fn receive(
        &mut self,
        own: &str,
        seal: Option<&Seal>,
        buffer: &mut [u8],
        refused: &mut RefusedDatagrams,
    ) -> bool {
        let Some(seal) = seal else {
            return false;
        };
        for turn in 0..MOST {
            let Some(datagram) = self.sockets.receive(turn, buffer) else {
                return turn > 0;
            };
            metrics::counter!(HEARTBEATS, "direction" => "receive").increment(1);
            let now = boot_time();
            if let Err(why) = take(&mut self.fleet, own, seal, now, &datagram) {
                refused.note(now, &self.interface, datagram.from, why);
                if matches!(why, RefusedFor::Format(_) | RefusedFor::Seal) {
                    self.garbage.note(now);
                }
            }
        }
        true
    }

    /// Where so much comes that members have not written that their messages may be lost among it, the kernel takes
    /// these first.
    fn heed_flood(&mut self, now: BootTime) {
        let is_flood = self.garbage.is_flood(now);
        let runs = is_flood.then(|| self.fleet.present_runs().map(|(_, run)| run).collect());
        if let Err(error) = self.sockets.hear(runs) {
            tracing::debug!(%error, "the kernel does not sort out what comes to the fleet's port");
        }
    }

    /// The tick of the fleet, with its messages.
    pub(super) fn tick(&mut self, now: BootTime, seal: Option<&Seal>) {
        self.heed_flood(now);
        let messages = self.fleet.tick(now);
        let Some(seal) = seal else {
            return;
        };
        let mut failed = None;
        for (to, message) in messages {
            let Some(path) = self.segment.members.get(&to) else {
                continue;
            };
            let mut datagram = wire::encode(&message);
            seal.close(&to, path.theirs, &mut datagram);
            let place = SocketAddr::new(path.theirs, self.port);
            match self.sockets.send(path.own, place, &datagram) {
                Ok(()) => metrics::counter!(HEARTBEATS, "direction" => "transmit").increment(1),
                Err(error) => failed = Some((to, error)),
            }
        }
        if let Some((to, error)) = &failed
            && !self.is_unheard
        {
            let interface = &*self.interface;
            tracing::warn!(interface, to = &**to, %error, "another gateway can't be spoken to");
        }
        self.is_unheard = failed.is_some();
    }

    /// The kernel's number of the interface.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// The addresses of which other gateways have connections: those that have handed them over no longer than
    /// `passes_for` ago, or offer them.
    pub(super) fn predecessors(
        &self,
        now: BootTime,
        passes_for: Duration,
    ) -> impl Iterator<Item = (PassedAddress, PassTarget)> {
        let all = self.fleet.predecessors(now, passes_for).into_iter();
        all.filter_map(|(address, gateway)| {
            let at = self.segment.members.get(&gateway)?.theirs;
            Some(((self.index, address), PassTarget { gateway, at }))
        })
    }

    /// Offers are taken when the packets of older connections are passed, or can't be: else this host would end the
    /// connections. It is not waited for long.
    pub(super) fn hold_offers(&mut self, now: BootTime, unanswered: &BTreeSet<PassedAddress>) {
        let here = unanswered.iter().filter(|(index, _)| *index == self.index);
        let here: BTreeSet<IpAddr> = here.map(|(_, address)| *address).collect();
        self.unprepared.retain(|address, _| here.contains(address));
        for address in here {
            self.unprepared.entry(address).or_insert(now);
        }
        let held = self.unprepared.iter();
        let held = held.filter(|(_, since)| now < since.after(PREPARES));
        self.fleet
            .hold_offers(held.map(|(address, _)| *address).collect());
    }

    /// Who takes an address of this gateway where it drains.
    pub(super) fn successor(
        &self,
        own: &MemberName,
        address: IpAddr,
        pool: Option<&AnnouncedPool>,
        now: BootTime,
    ) -> Successor {
        if let Some(name) = self.fleet.successor(address, now) {
            return Successor::Gateway(name.clone());
        }
        let others = self.segment.members.keys().filter(|name| *name != own);
        let may = |name: &&MemberName| pool.is_some_and(|pool| pool.owners.contains(*name));
        let (mut members, mut candidates) = (others.clone(), others.filter(may));
        let interface = &self.interface;
        Successor::Nobody(if members.next().is_none() {
            format!("there is no other gateway on {interface}").into()
        } else if candidates.clone().next().is_none() {
            "the nodeSelector of its pool selects the node of no other gateway".into()
        } else if !candidates
            .clone()
            .any(|name| self.fleet.is_alive(name, now))
        {
            format!("no other gateway is heard of on {interface}").into()
        } else if candidates.any(|name| self.fleet.is_draining(name, now)) {
            "the other gateways drain, too".into()
        } else {
            "no other gateway can serve an address now".into()
        })
    }

    /// The owner of an address, if that is another gateway.
    pub(super) fn other_owner(
        &self,
        own: &str,
        address: IpAddr,
        now: BootTime,
    ) -> Option<(MemberName, u64)> {
        let (owner, term) = self.fleet.owner(address, now)?;
        (**owner != *own).then(|| (owner.clone(), term))
    }
}

/// Whether a gateway that works can serve an address. `may` is whether its Node is one of those that may.
fn ability(announced: &AnnouncedAddress, may: bool) -> Ability {
    // Connections that it has go on, whether the last endpoint is about to end or the Node's labels have changed.
    match (announced.is_able, may) {
        (true, true) => Ability::Able,
        (true, false) => Ability::Ceasing,
        (false, _) if announced.lacks_local_endpoint && !announced.local_nodes.is_empty() => {
            Ability::Ceasing
        }
        (false, _) => Ability::Unable,
    }
}

/// Hands a datagram to the fleet, if it is a message to this gateway. What costs little is looked at first.
fn take(
    fleet: &mut Fleet,
    own: &str,
    seal: &Seal,
    now: BootTime,
    datagram: &TakenDatagram<'_>,
) -> Result<(), RefusedFor> {
    let (at, bytes) = (datagram.at, datagram.bytes);
    if !wire::is_begun(bytes) || bytes.len() <= TAG || bytes.len() >= LONGEST {
        return Err(RefusedFor::Format(FleetWireError::Foreign));
    }
    let message = seal.open(own, at, bytes).ok_or(RefusedFor::Seal)?;
    let message = wire::decode(message).map_err(RefusedFor::Format)?;
    fleet.receive(now, &message).map_err(RefusedFor::Fleet)
}

fn new_fleet(own: &MemberName, now: BootTime) -> Fleet {
    let day = SystemTime::now().duration_since(UNIX_EPOCH);
    let day = day.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
    let mut fleet = Fleet::new(own.clone(), random(), day, now);
    fleet.ask_first();
    fleet
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_be_bytes(bytes),
        // The time is as new with each start.
        Err(_) => boot_time().0.as_nanos() as u64,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_gateway_core::fleet::message::FleetRejection;

    use super::*;
    use crate::seal::{SealPurpose, fleet_key};

    const AT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 12));
    const NOW: BootTime = BootTime(std::time::Duration::from_secs(1_000));

    fn fleet(name: &str, run: u64) -> Fleet {
        let mut fleet = Fleet::new(name.into(), run, 1_800_000_000_000, NOW);
        fleet.set_members(["edge-1", "edge-2"].map(MemberName::from));
        fleet
    }

    /// What `from` says to `to` now, sealed.
    fn said(from: &mut Fleet, to: &str, seal: &Seal) -> Vec<u8> {
        let mut messages = from.tick(NOW).into_iter();
        let (_, message) = messages.find(|(name, _)| **name == *to).unwrap();
        let mut datagram = wire::encode(&message);
        seal.close(to, AT, &mut datagram);
        datagram
    }

    #[test]
    fn a_datagram_counts_that_a_member_has_written_to_this_gateway_just_now() {
        let seal = Seal::new(&fleet_key(b"the secret of this fleet"), SealPurpose::Fleet);
        let (mut one, mut two) = (fleet("edge-1", 1), fleet("edge-2", 2));
        let good = said(&mut one, "edge-2", &seal);
        let mut take = |bytes: &[u8]| {
            let datagram = TakenDatagram {
                from: AT,
                at: AT,
                bytes,
            };
            take(&mut two, "edge-2", &seal, NOW, &datagram)
        };
        let refused = |length: usize| {
            let mut datagram = good.clone();
            datagram.truncate(length);
            datagram
        };
        let mut flipped = good.clone();
        flipped[10] ^= 1;
        let mut long = good.clone();
        long.resize(LONGEST, 0);
        let foreign = Err(RefusedFor::Format(FleetWireError::Foreign));
        assert_eq!(take(b"GET / HTTP/1.1"), foreign);
        assert_eq!(take(b""), foreign);
        assert_eq!(take(&refused(TAG)), foreign);
        assert_eq!(take(&long), foreign);
        assert_eq!(take(&refused(good.len() - 1)), Err(RefusedFor::Seal));
        assert_eq!(take(&flipped), Err(RefusedFor::Seal));
        assert_eq!(take(&good), Ok(()));
        assert_eq!(
            take(&good),
            Err(RefusedFor::Fleet(FleetRejection::Replayed))
        );
        // A message to itself, and one of a stranger under the right key.
        let stray = said(
            &mut one,
            "edge-2",
            &Seal::new(&fleet_key(b"the secret of another"), SealPurpose::Fleet),
        );
        assert_eq!(take(&stray), Err(RefusedFor::Seal));
        let mut stranger = fleet("edge-9", 3);
        let stranger = said(&mut stranger, "edge-2", &seal);
        assert_eq!(
            take(&stranger),
            Err(RefusedFor::Fleet(FleetRejection::Unknown))
        );
    }
}
