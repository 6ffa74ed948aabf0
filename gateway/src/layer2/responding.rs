//! The thread that answers and announces.
//!
//! A turn reads a bounded number of frames of each interface and sends a bounded number, so that a flood on one
//! neither delays another nor its own announcements. What is read has a share of a processor ([`ReceiveMeter`]).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use fairway_gateway_core::fleet::{BootTime, HEARTBEAT};
use fairway_gateway_core::layer2::{
    AnnouncementForm, FrameKind, OutgoingFrame, ProbeOutcome, ProbeResult, Responder, SeenConflict,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::conflict_log::ConflictLog;
use super::shared::{AnswerRight, Layer2Shared, OpenLink, ProbeRequest};
use super::sockets::{NeighborProtocol, SegmentSockets};
use crate::clock::boot_time;
use crate::metrics::{ADDRESS_CONFLICTS, ANNOUNCEMENTS, NEIGHBOR_ANSWERS};
use crate::receive_meter::ReceiveMeter;
use crate::urgency;

/// The most frames that are read from a socket, and sent on an interface, in one turn.
const FRAMES: usize = 64;

/// The thread turns at least so often while it has an interface.
const TURN: Duration = HEARTBEAT;

/// Announcements that wait for the rate to allow them are collected for so long.
const PAUSE: Duration = Duration::from_millis(2);

/// Longer frames are no messages of neighbors, and are cut.
const LONGEST: usize = 2048;

/// The shortest time between two lines in the log about defences on one interface.
const QUIET: Duration = Duration::from_secs(5);

/// How often it is looked which conflicts there are. They are stated after a second, and frames that anybody can send
/// must not have all of them looked at each time.
const LOOK: Duration = Duration::from_millis(100);

/// An interface on which answers are given.
struct ServedSegment {
    name: Box<str>,
    link: OpenLink,
    right: Arc<AnswerRight>,
    owned: Arc<BTreeMap<IpAddr, u64>>,
    responder: Responder,
    /// Who waits for the result of a probe.
    probes: BTreeMap<IpAddr, Vec<Sender<ProbeResult>>>,
    conflicts: BTreeMap<IpAddr, SeenConflict>,
    looks_at: BootTime,
    log: ConflictLog,
    /// When a defence was logged the last time.
    logged: BootTime,
}

/// What one turn takes from the shared state.
#[derive(Default)]
struct Taken {
    version: Option<u64>,
    is_stopping: bool,
    is_wanted: bool,
}

/// Runs until the responder is stopped.
pub(super) fn run(shared: &Layer2Shared) {
    urgency::raise();
    give_up_capabilities();
    let mut segments: BTreeMap<Box<str>, ServedSegment> = BTreeMap::new();
    let mut taken = Taken::default();
    let mut buffer = vec![0; LONGEST];
    let mut meter = ReceiveMeter::new("arp_and_ndp");
    loop {
        let now = boot_time();
        shared.note_turn(now);
        take_in(shared, &mut segments, &mut taken, now);
        if taken.is_stopping {
            return;
        }
        let mut due = None;
        let mut has_changed = false;
        meter.receive(|| {
            let mut is_any = false;
            for segment in segments.values_mut() {
                is_any |= segment.receive(&mut buffer);
            }
            is_any
        });
        for segment in segments.values_mut() {
            segment.send_due();
            segment.tell_results();
            let now = boot_time();
            if now >= segment.looks_at {
                segment.looks_at = now.after(LOOK);
                has_changed |= segment.look_at_conflicts(now);
            }
            due = segment.due_at(now).into_iter().chain(due).min();
        }
        if has_changed {
            publish_conflicts(shared, &segments);
        }
        let now = boot_time();
        let resumes_at = meter.resumes_at(now);
        let due = due.into_iter().chain(resumes_at).min();
        let due = due.map(|at| at.since(now));
        let timeout = match taken.is_wanted {
            true => Some(due.map_or(TURN, |due| due.clamp(PAUSE, TURN))),
            false => None,
        };
        wait(shared, &segments, resumes_at.is_none(), timeout);
    }
}

/// This thread only reads and writes sockets that others open.
fn give_up_capabilities() {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    if let Err(error) = set_capabilities(None, none) {
        tracing::debug!(%error, "the responder's capabilities not given up");
    }
}

/// Takes in what has changed since the last turn.
fn take_in(
    shared: &Layer2Shared,
    segments: &mut BTreeMap<Box<str>, ServedSegment>,
    taken: &mut Taken,
    now: BootTime,
) {
    let news = shared.say(|state| {
        if taken.version == Some(state.version) {
            return None;
        }
        *taken = Taken {
            version: Some(state.version),
            is_stopping: state.is_stopping,
            is_wanted: !state.wanted.is_empty(),
        };
        let rights = state.rights.clone();
        let probes = std::mem::take(&mut state.probes);
        Some((state.links.clone(), rights, state.owned.clone(), probes))
    });
    let Some((links, rights, owned, probes)) = news else {
        return;
    };
    let gone = segments.extract_if(.., |name, segment| {
        let link = links.get(name);
        link.is_none_or(|link| !Arc::ptr_eq(&link.sockets, &segment.link.sockets))
    });
    for (_, mut segment) in gone {
        segment.responder.link_is_gone();
        segment.tell_results();
    }
    for (name, link) in links {
        let right = rights.get(&name).cloned().unwrap_or_default();
        let owned = owned.get(&name).cloned().unwrap_or_default();
        match segments.get_mut(&name) {
            Some(segment) => segment.set(now, link, right, owned),
            None => {
                let segment = ServedSegment::new(name.clone(), now, link, right, owned);
                segments.insert(name, segment);
            }
        }
    }
    for request in probes {
        begin_probe(segments, request, now);
    }
    publish_conflicts(shared, segments);
}

fn begin_probe(
    segments: &mut BTreeMap<Box<str>, ServedSegment>,
    request: ProbeRequest,
    now: BootTime,
) {
    let Some(segment) = segments.get_mut(&request.interface) else {
        for address in request.addresses {
            let outcome = ProbeOutcome::Unknown;
            // Who asked may be gone.
            let _ = request.results.send(ProbeResult { address, outcome });
        }
        return;
    };
    for address in &request.addresses {
        let waiting = segment.probes.entry(*address).or_default();
        waiting.push(request.results.clone());
    }
    segment.responder.probe(now, request.addresses);
}

fn publish_conflicts(shared: &Layer2Shared, segments: &BTreeMap<Box<str>, ServedSegment>) {
    let all = segments.iter().flat_map(|(name, segment)| {
        let conflicts = segment.conflicts.iter();
        conflicts.map(|(address, seen)| ((name.clone(), *address), *seen))
    });
    let all = all.collect();
    shared.say(|state| state.conflicts = all);
}

/// Waits for something new, for the time, or for a frame, if it may be received.
fn wait(
    shared: &Layer2Shared,
    segments: &BTreeMap<Box<str>, ServedSegment>,
    may_receive: bool,
    timeout: Option<Duration>,
) {
    let timeout = timeout.and_then(|it| Timespec::try_from(it).ok());
    let segments = segments.values().filter(|_| may_receive);
    let sockets = segments.flat_map(|segment| {
        NeighborProtocol::BOTH.map(|protocol| segment.link.sockets.fd(protocol))
    });
    let mut waited: Vec<PollFd<'_>> = sockets
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    if let Some(wake) = &shared.responder {
        waited.push(PollFd::new(wake, PollFlags::IN));
    }
    if let Err(error) = poll(&mut waited, timeout.as_ref()) {
        tracing::debug!(%error, "poll");
    }
    if let Some(wake) = &shared.responder {
        let mut count = [0; 8];
        // Nothing to read: it was not woken.
        let _ = rustix::io::read(wake, &mut count);
    }
}

impl ServedSegment {
    fn new(
        name: Box<str>,
        now: BootTime,
        link: OpenLink,
        right: Arc<AnswerRight>,
        owned: Arc<BTreeMap<IpAddr, u64>>,
    ) -> Self {
        let mut responder = Responder::new(link.hardware);
        responder.set_host_hardware(link.of_host.iter().copied());
        responder.set_owned(now, &owned);
        Self {
            name,
            link,
            right,
            owned,
            responder,
            probes: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            looks_at: BootTime::default(),
            log: ConflictLog::default(),
            logged: BootTime::default(),
        }
    }

    fn set(
        &mut self,
        now: BootTime,
        link: OpenLink,
        right: Arc<AnswerRight>,
        owned: Arc<BTreeMap<IpAddr, u64>>,
    ) {
        if (link.news, link.hardware) != (self.link.news, self.link.hardware) {
            self.responder.link_is_new(now, link.hardware);
        }
        if link.of_host != self.link.of_host {
            self.responder
                .set_host_hardware(link.of_host.iter().copied());
        }
        self.link = link;
        self.right = right;
        if !Arc::ptr_eq(&self.owned, &owned) {
            self.responder.set_owned(now, &owned);
            self.owned = owned;
            // What is ours no more is no conflict of ours.
            self.look_at_conflicts(now);
        }
    }

    /// Answers what has come, up to a number. Returns whether something has.
    fn receive(&mut self, buffer: &mut [u8]) -> bool {
        let mut is_any = false;
        for protocol in NeighborProtocol::BOTH {
            for _ in 0..FRAMES {
                // Where there is none the next turn goes on; a socket whose interface has gone down says so once.
                let Ok(frame) = self.link.sockets.receive(protocol, buffer) else {
                    break;
                };
                is_any = true;
                let answer = self
                    .responder
                    .receive(boot_time(), self.right.until(), frame);
                if let Some(answer) = answer {
                    send(&self.link.sockets, &self.right, &answer, protocol);
                }
            }
        }
        is_any
    }

    /// Sends what is due, up to a number.
    fn send_due(&mut self) {
        for _ in 0..FRAMES {
            let Some(frame) = self.responder.next_due(boot_time(), self.right.until()) else {
                break;
            };
            // The EtherType says by which socket it goes.
            let protocol = match frame.bytes.get(12..14) {
                Some([0x08, 0x06]) => NeighborProtocol::Arp,
                _ => NeighborProtocol::Ndp,
            };
            send(&self.link.sockets, &self.right, &frame, protocol);
            if let FrameKind::Defence(address) = frame.kind {
                self.log_conflict(address);
            }
        }
    }

    fn log_conflict(&mut self, address: IpAddr) {
        let now = boot_time();
        if now.since(self.logged) >= QUIET {
            self.logged = now;
            let interface = &*self.name;
            tracing::warn!(
                interface, %address,
                "another host answers for an address of ours; the address was announced again"
            );
        }
    }

    fn tell_results(&mut self) {
        for result in self.responder.take_probe_results() {
            for waits in self.probes.remove(&result.address).into_iter().flatten() {
                // Who asked may be gone.
                let _ = waits.send(result);
            }
        }
    }

    /// Returns whether there are other conflicts than before.
    fn look_at_conflicts(&mut self, now: BootTime) -> bool {
        let seen = self.responder.conflicts();
        let is_changed = seen != self.conflicts;
        if is_changed {
            let begun = seen.iter();
            let begun = begun.filter(|(address, _)| !self.conflicts.contains_key(address));
            let begun: Vec<_> = begun.map(|(address, it)| (*address, *it)).collect();
            let ended = self.conflicts.keys().filter(|it| !seen.contains_key(it));
            metrics::counter!(ADDRESS_CONFLICTS).increment(begun.len() as u64);
            self.log.note(begun, ended.copied());
            self.conflicts = seen;
        }
        self.log.say(now, &self.name);
        is_changed
    }

    fn due_at(&self, now: BootTime) -> Option<BootTime> {
        self.responder.due_at(now, self.right.until())
    }
}

/// Sends a frame. One that says that an address is ours is sent only as long as the right lasts.
fn send(
    sockets: &SegmentSockets,
    right: &AnswerRight,
    frame: &OutgoingFrame,
    protocol: NeighborProtocol,
) {
    if frame.kind.claims() && boot_time() > right.until() {
        return;
    }
    if let Err(error) = sockets.send(protocol, &frame.bytes) {
        // It is announced again, and who asked asks again.
        tracing::debug!(%error, kind = ?frame.kind, "frame not sent");
        return;
    }
    let protocol = match protocol {
        NeighborProtocol::Arp => "arp",
        NeighborProtocol::Ndp => "ndp",
    };
    let form = match frame.kind {
        FrameKind::Probe => return,
        FrameKind::Answer => {
            return metrics::counter!(NEIGHBOR_ANSWERS, "protocol" => protocol).increment(1);
        }
        FrameKind::Announcement(AnnouncementForm::ArpRequest) => "arp_request",
        FrameKind::Announcement(AnnouncementForm::ArpReply) => "arp_reply",
        FrameKind::Announcement(AnnouncementForm::Advertisement) => "neighbor_advertisement",
        FrameKind::Defence(_) => "defence",
    };
    metrics::counter!(ANNOUNCEMENTS, "kind" => form).increment(1);
}
