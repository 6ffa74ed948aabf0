//! Which gateway owns an external address on a segment: membership by heartbeats, and takeover.
//!
//! One value for one gateway and one segment (a layer 2 network), without I/O: time comes in as an argument, and
//! messages go in and out as values. The idea is VRRP's (RFC 9568), per address and among any number of gateways:
//! - Every [`HEARTBEAT`] a member tells each other one whom it hears and what it owns ([`message`]).
//! - An owner may answer for an address until [`RIGHT`] after its last tick. Whoever answers (ARP, NDP) looks at
//!   that at each answer, so a process that is killed, stopped or starved answers no longer.
//! - A member from whom nobody has heard for [`SILENT`], directly or through one other, owns nothing any more.
//!   Since `RIGHT` is the shorter time, it has ceased to answer by then.
//! - What nobody owns is taken by the candidates in the order of a rendezvous hash, [`STEP`] apart. So addresses
//!   are spread evenly, and only those of a member that leaves move. Who has its even share is passed over.
//! - Messages carry a digest of the addresses that a member knows. What is new is left to whose share it is while
//!   another one does not know it yet, for [`LEARNS`] at most.
//! - With each new owner an address begins a new term. Of two owners the one of the older term yields as soon as it
//!   hears of the other; of the same term the one of the lesser hash.
//! - An owner of an older term that goes on for a quarter of a second does not hear the one of the newer term, which then yields:
//!   whoever is heard by all and hears not all keeps what it has.
//! - Nothing goes back by itself: who returns owns nothing until somebody leaves. A planned move is an offer: the
//!   owner goes on until it hears that the other has begun the next term. Then it is the predecessor of the other:
//!   connections that it has go on there, and their packets are passed to it.
//! - A member that drains offers what it owns, and keeps what nobody takes. It stands behind all others in the order
//!   in which members take what nobody owns: an address that it alone can serve is served.
//! - Before it begins the first term of an address that it knows of, a member asks whether another host uses it
//!   ([`Fleet::unasked`]).
//! - Of some addresses members are preferred, for they alone serve all that is there. Whoever has one without being so
//!   offers it to them, and goes on until it is taken.
//! - So does a member whose checks of the endpoints all fail. One takes it that has nothing against them; where nobody
//!   reaches them nobody does.
//! - A member whose clock stands has no right to answer when the clocks of others have gone on: when they are further
//!   ahead of ours than before. Messages that were held up on the way are not.
//! - A member that can serve no address says that it listens: others wait a moment for it, and then take its share.
//! - A member that was frozen neither answers nor takes anything before it has listened for [`RIGHT`]. Frozen again
//!   soon after, it lets go of what it owns.
//!
//! Two members that do not hear each other, and of whom no third one hears both, are two fleets: each side of a
//! partition has one owner. If clients reach both sides, they see two.

mod candidacy;
mod continuation;
mod due;
mod first_terms;
mod former_owners;
mod garbage;
mod handover;
mod members;
pub mod message;
mod offers;
mod predecessors;
mod rank;
mod terms;
mod timing;
mod vacancy;
pub mod wire;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use self::candidacy::Contest;
pub use self::candidacy::{Ability, Candidacy, EndpointReach};
pub use self::continuation::FleetContinuation;
use self::due::{DueAddresses, DueFor};
pub use self::first_terms::ASKERS;
use self::former_owners::FormerOwners;
pub use self::garbage::GarbageWatch;
use self::handover::Handover;
use self::members::{Members, OwnRun, SentLately};
use self::message::{
    FleetMessage, FleetRejection, MemberName, MemberStage, Term, TermChanges, TermState,
};
use self::rank::{digest, rank};
use self::terms::OwnTerms;
pub use self::timing::{BootTime, HEARTBEAT, LEARNS, RIGHT, SILENT, STEP};

/// An owner of an older term has heard of a newer one after this time, if it can hear of it at all.
const DEAF: Duration = Duration::from_millis(250);

/// Who is frozen a second time within this time lets go of what it owns.
const AGAIN: Duration = Duration::from_secs(10);

/// An address whose owner this gateway has become, or is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnershipChange {
    /// The address.
    pub address: IpAddr,
    /// Whether this gateway owns it now.
    pub is_owned: bool,
    /// The number of the term that begins or ends.
    pub term: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Fleet {
    own: MemberName,
    run: u64,
    sequence: u64,
    sent: SentLately,
    members: Members,
    addresses: BTreeMap<IpAddr, Contest>,
    /// Of all these addresses: two members that have the same one know the same addresses.
    digest: u64,
    due: DueAddresses,
    terms: OwnTerms,
    /// It neither answers nor takes anything before it has listened until then.
    listens_until: BootTime,
    /// Whether it listens because it has begun: then it has heard enough when it has heard all.
    is_new: bool,
    /// It goes on with what it owned in another process: it may answer for that while it listens.
    goes_on: bool,
    last_tick: BootTime,
    answers_until: BootTime,
    /// The clocks of others went on, and ours did not.
    clock_stood: bool,
    /// When it went on after it had been frozen, the last time.
    last_frozen: Option<BootTime>,
    handover: Handover,
    /// See [`Self::ask_first`].
    asks_first: bool,
    /// The addresses that no gateway has owned since they are contended for.
    never_owned: BTreeSet<IpAddr>,
    /// Those of them that it would take now if it knew that no other host uses them.
    to_ask: BTreeSet<IpAddr>,
    changes: Vec<OwnershipChange>,
    predecessors: FormerOwners,
    /// The time of day when it began, and the time since the machine started.
    started: u64,
    began: BootTime,
}

impl Fleet {
    /// A member that has just begun. `run` is a random number; `started` is the time of day, in milliseconds since
    /// 1970: the numbers of its terms begin there, so that they are greater than those of former runs, which it
    /// need not know. A clock that is wrong makes no second owner, only another one.
    pub fn new(own: MemberName, run: u64, started: u64, now: BootTime) -> Self {
        Self {
            started,
            began: now,
            own,
            run,
            sequence: 0,
            sent: SentLately::default(),
            members: Members::default(),
            addresses: BTreeMap::new(),
            digest: 0,
            due: DueAddresses::default(),
            terms: OwnTerms::default(),
            listens_until: now.after(SILENT).after(HEARTBEAT),
            is_new: true,
            goes_on: false,
            last_tick: now,
            answers_until: now,
            clock_stood: false,
            last_frozen: None,
            handover: Handover::default(),
            asks_first: false,
            never_owned: BTreeSet::new(),
            to_ask: BTreeSet::new(),
            changes: Vec::new(),
            predecessors: FormerOwners::default(),
        }
    }

    /// The time of day, in milliseconds since 1970.
    fn day(&self, now: BootTime) -> u64 {
        let runs = u64::try_from(now.since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.started.saturating_add(runs)
    }

    /// These are the other members from now on.
    pub fn set_members(&mut self, others: impl IntoIterator<Item = MemberName>) {
        let own = self.own.clone();
        if self.members.set(others.into_iter().filter(|it| *it != own)) {
            self.note_due_of_all();
        }
    }

    /// These are the addresses from now on. Each of them has been dealt with: this gateway can serve it, or it knows
    /// that it can't.
    pub fn set_addresses(&mut self, now: BootTime, wanted: BTreeMap<IpAddr, Candidacy>) {
        let known = self.addresses.keys();
        let gone: Vec<_> = known
            .filter(|it| !wanted.contains_key(it))
            .copied()
            .collect();
        for address in gone {
            self.addresses.remove(&address);
            self.digest ^= digest(address);
            self.never_owned.remove(&address);
            self.give_up(address, now);
            self.note_due(address);
        }
        for (address, candidacy) in wanted {
            let is_new = !self.addresses.contains_key(&address);
            if is_new && self.owner(address, now).is_none() {
                self.never_owned.insert(address);
            }
            let contest = match self.addresses.entry(address) {
                Entry::Occupied(known) if known.get().is(&candidacy) => continue,
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    self.digest ^= digest(address);
                    place.insert(Contest::new(now))
                }
            };
            contest.set(address, now, candidacy);
            if contest.ability == Ability::Unable {
                self.give_up(address, now);
            }
            self.note_due(address);
        }
    }

    /// Whether it has not heard for long enough yet who else is there.
    pub fn is_listening(&self, now: BootTime) -> bool {
        now < self.listens_until
    }

    /// Until when it may answer for what it owns.
    pub fn answers_until(&self) -> BootTime {
        self.answers_until
    }

    /// The addresses that it owns, and the numbers of their terms.
    pub fn owned(&self) -> impl Iterator<Item = (IpAddr, u64)> {
        self.terms
            .owned()
            .map(|(address, term)| (address, term.number))
    }

    /// The number of the term in which it owns an address, if it does.
    pub fn term(&self, address: IpAddr) -> Option<u64> {
        self.terms.of(address).map(|term| term.number)
    }

    /// The member that had an address before this gateway took it, if one had.
    pub fn taken_from(&self, address: IpAddr) -> Option<&MemberName> {
        self.addresses.get(&address)?.taken_from.as_ref()
    }

    /// Who owns an address, as far as is known, and the number of the term.
    pub fn owner(&self, address: IpAddr, now: BootTime) -> Option<(&MemberName, u64)> {
        let theirs = self.members.terms(address);
        let theirs =
            theirs.filter(|(name, term)| term.goes_on() && self.members.is_alive(name, now));
        let own = self.terms.of(address).map(|term| (&self.own, term));
        let owner = theirs
            .chain(own)
            .max_by_key(|(name, term)| (term.number, rank(address, name)));
        owner.map(|(name, term)| (name, term.number))
    }

    /// Whether it hears that member, or another one does.
    pub fn is_alive(&self, member: &str, now: BootTime) -> bool {
        *member == *self.own || self.members.is_alive(member, now)
    }

    /// The runs of other members whose messages have counted.
    pub fn present_runs(&self) -> impl Iterator<Item = (&MemberName, u64)> {
        self.members.present_runs()
    }

    /// The other members, and whether this gateway hears each of them itself and is heard by it.
    pub fn in_touch(&self, now: BootTime) -> impl Iterator<Item = (&MemberName, bool)> {
        let names = self.members.names();
        names.map(move |name| (name, self.members.is_in_touch(name, now)))
    }

    /// Whether it has listened long enough to take part, and each member that lives hears it and is heard by it: then
    /// others can hand addresses over to it.
    pub fn has_joined(&self, now: BootTime) -> bool {
        let mut names = self.members.names();
        let is_listening = self.is_new || now < self.listens_until;
        !is_listening
            && names.all(|it| !self.members.is_alive(it, now) || self.members.is_in_touch(it, now))
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Vec<OwnershipChange> {
        std::mem::take(&mut self.changes)
    }

    /// Takes a message.
    ///
    /// # Errors
    ///
    /// It does not count.
    pub fn receive(&mut self, now: BootTime, message: &FleetMessage) -> Result<(), FleetRejection> {
        let own = OwnRun {
            name: &self.own,
            run: self.run,
            sent: &self.sent,
            day: self.day(now),
        };
        for address in self.members.receive(&own, now, message)? {
            self.hear_of(address, now);
        }
        if self.members.behind(message, self.day(now), now) > RIGHT {
            // Our clock stands: what we were allowed for a time is over by theirs.
            self.answers_until = BootTime::default();
            self.clock_stood = true;
        }
        Ok(())
    }

    /// Somebody says something new of an address.
    fn hear_of(&mut self, address: IpAddr, now: BootTime) {
        self.note_offer(address);
        self.note_due(address);
        let going_on = self
            .members
            .terms(address)
            .filter(|(_, term)| term.goes_on());
        let newest = going_on
            .map(|(name, term)| (term.number, rank(address, name)))
            .max();
        let own = self
            .terms
            .of(address)
            .map(|it| (it.number, rank(address, &self.own)));
        if newest > own && own.is_some() {
            self.give_up(address, now);
        }
        match newest {
            Some(_) => drop(self.never_owned.remove(&address)),
            None => {
                if let Some(contest) = self.addresses.get_mut(&address) {
                    contest.vacant_since = now;
                }
            }
        }
    }

    fn give_up(&mut self, address: IpAddr, now: BootTime) {
        let Some(term) = self.terms.of(address).map(|it| it.number) else {
            return;
        };
        self.terms.end(address);
        self.changes.push(OwnershipChange {
            address,
            is_owned: false,
            term,
        });
        if let Some(contest) = self.addresses.get_mut(&address) {
            contest.vacant_since = now;
            contest.older_since = None;
            contest.offered.clear();
        }
        self.note_due(address);
    }

    /// Has to be called each [`HEARTBEAT`], after the messages that came have been taken. Answers with the messages
    /// that are to be sent.
    pub fn tick(&mut self, now: BootTime) -> Vec<(MemberName, FleetMessage)> {
        let stood = std::mem::take(&mut self.clock_stood);
        if now.since(self.last_tick) > RIGHT || stood {
            self.members.was_deaf(self.last_tick, now);
            self.listens_until = self.listens_until.max(now.after(RIGHT));
            // Others hear it and take nothing, and it has no right to answer: it must let go.
            if self.last_frozen.is_some_and(|at| now < at.after(AGAIN)) {
                let owned: Vec<_> = self.terms.owned().map(|(address, _)| address).collect();
                owned.into_iter().for_each(|it| self.give_up(it, now));
            }
            self.last_frozen = Some(now);
            self.goes_on = false;
        }
        self.last_tick = now;
        self.members.note_tick(now);
        self.forget_predecessors();
        if self.is_new && self.members.are_all_known(now) {
            self.listens_until = now;
        }
        if now >= self.listens_until {
            (self.is_new, self.goes_on) = (false, false);
            self.members.compare(self.digest, now);
            self.yield_to_the_deaf(now);
            self.take_vacant(now);
            self.offer(now);
            self.answers_until = now.after(RIGHT);
        } else if self.goes_on {
            self.answers_until = now.after(RIGHT);
        }
        self.speak(now)
    }

    fn yield_to_the_deaf(&mut self, now: BootTime) {
        let mut lost = Vec::new();
        for address in &self.due.contested {
            let Some(contest) = self.addresses.get_mut(address) else {
                continue;
            };
            let mut theirs = self.members.terms(*address);
            let is_contested =
                theirs.any(|(name, term)| term.goes_on() && self.members.is_alive(name, now));
            if !is_contested {
                contest.older_since = None;
            } else if *contest.older_since.get_or_insert(now) <= now.before(DEAF) {
                lost.push(*address);
            }
        }
        for address in lost {
            self.give_up(address, now);
        }
    }

    fn begin_term(&mut self, address: IpAddr, now: BootTime) {
        let theirs = self.members.terms(address);
        let theirs = theirs.max_by_key(|(name, term)| (term.number, rank(address, name)));
        let own_last = self.terms.last_number(address);
        let last = theirs.map_or(0, |(_, term)| term.number).max(own_last);
        let taken_from = theirs.filter(|(_, term)| term.number >= own_last);
        let taken_from = taken_from.map(|(name, _)| name.clone());
        let term = Term {
            number: self.started.max(last.saturating_add(1)),
            state: TermState::Owned,
        };
        self.note_predecessor(address, term.number, now);
        if let Some(contest) = self.addresses.get_mut(&address) {
            contest.taken_from = taken_from;
        }
        self.changes.push(OwnershipChange {
            address,
            is_owned: true,
            term: term.number,
        });
        self.terms.set(address, term);
        self.never_owned.remove(&address);
        self.note_due(address);
    }

    /// To be called when what is said of an address has changed.
    fn note_due(&mut self, address: IpAddr) {
        let contest = self.addresses.get_mut(&address);
        let is_own = self.terms.of(address).is_some();
        let mut theirs = self.members.terms(address);
        let is_another = theirs.any(|(_, term)| term.goes_on());
        let due = DueFor {
            is_unowned: contest.is_some() && !is_own && !is_another,
            is_contested: is_own && is_another,
            is_handed_over: contest
                .as_ref()
                .is_some_and(|it| it.is_handed_over_by(&self.own)),
        };
        if let Some(contest) = contest.filter(|_| !due.is_contested) {
            contest.older_since = None;
        }
        self.due.set(address, due);
    }

    /// The same for all addresses.
    fn note_due_of_all(&mut self) {
        let all: Vec<_> = self.addresses.keys().copied().collect();
        for address in all {
            self.note_due(address);
        }
    }

    /// Whether there are addresses, and this gateway can serve none of them: one that has just started can in a moment,
    /// and others are not to take its share before.
    fn can_take_nothing(&self) -> bool {
        !self.addresses.is_empty() && !self.addresses.values().any(Contest::is_able)
    }

    /// The other members that are alive and at that stage.
    fn others_at(&self, stage: MemberStage, now: BootTime) -> BTreeSet<MemberName> {
        let names = self.members.names().filter(|name| {
            let known = self.members.get(name).map(|it| it.stage);
            known == Some(stage) && self.members.is_alive(name, now)
        });
        names.cloned().collect()
    }

    /// Whether that other member takes what nobody owns.
    pub fn is_ready(&self, name: &str, now: BootTime) -> bool {
        let stage = self.members.get(name).map(|it| it.stage);
        stage == Some(MemberStage::Ready) && self.members.is_alive(name, now)
    }

    /// What it is about to do.
    fn stage(&self, now: BootTime) -> MemberStage {
        match self.handover {
            Handover::Leaving => MemberStage::Leaving,
            _ if now < self.listens_until || self.can_take_nothing() => MemberStage::Listening,
            Handover::Draining => MemberStage::Draining,
            Handover::None => MemberStage::Ready,
        }
    }

    fn speak(&mut self, now: BootTime) -> Vec<(MemberName, FleetMessage)> {
        self.sent.note(now, self.sequence + 1);
        let hears = self.members.hears(now);
        let stage = self.stage(now);
        let mut messages = Vec::new();
        for name in self.members.names() {
            let knows = self.members.get(name).map_or(0, |it| it.knows);
            let changes = self.terms.changes_after(knows).into_iter().map(Some);
            let mut changes: Vec<Option<TermChanges>> = changes.collect();
            if changes.is_empty() {
                changes.push(None);
            }
            for terms in changes {
                self.sequence += 1;
                let message = FleetMessage {
                    from: self.own.clone(),
                    run: self.run,
                    sequence: self.sequence,
                    sent_at: self.day(now),
                    stage,
                    hears: hears.clone(),
                    addresses: self.digest,
                    version: self.terms.version,
                    terms,
                };
                messages.push((name.clone(), message));
            }
        }
        messages
    }
}
