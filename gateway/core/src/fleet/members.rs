//! What a gateway knows of the other members of its fleet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::message::{
    FleetMessage, FleetRejection, LastHeard, MemberName, MemberStage, Term, TermChange,
    TermChanges, TermState,
};
use super::timing::{BootTime, RIGHT, SILENT};

/// A run that answers to a message which was sent within this time is a present one.
const PRESENT: Duration = Duration::from_secs(1);

/// So is one whose messages were sent within this time by the clocks of both, in milliseconds.
const CLOCKS: i64 = 30_000;

/// This process, as its messages name it.
pub(super) struct OwnRun<'a> {
    pub(super) name: &'a MemberName,
    pub(super) run: u64,
    pub(super) sent: &'a SentLately,
    /// The time of day, in milliseconds since 1970.
    pub(super) day: u64,
}

/// The other members.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<MemberName, KnownMember>);

/// How long the clocks of two members are taken to be as far apart as they were: they drift.
const DRIFT: Duration = Duration::from_secs(10);

/// How far the clock of a member is ahead of ours, by its messages that were least held up on the way, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct ClockLead {
    lead: i64,
    /// When it was seen.
    at: BootTime,
}

/// Another member.
#[derive(Debug, Default)]
pub(super) struct KnownMember {
    pub(super) run: u64,
    /// The greatest number of a message of that run, and which of those before it came: bit n is that of n before.
    sequence: u64,
    received: u128,
    /// Whether that run has been shown to be a present one, and no recording of it: nothing else counts.
    is_present: bool,
    /// When its last message came.
    heard: Option<BootTime>,
    /// When this process went on after it had been frozen: the other may have spoken until then. Others are not told
    /// of that.
    excused: Option<BootTime>,
    /// Which of its runs others have heard last, and when, by what they say.
    heard_by: BTreeMap<MemberName, (u64, BootTime)>,
    /// When it heard us last, by what it says.
    heard_us: Option<BootTime>,
    /// Up to which version its terms are known, and the newest that it has told of.
    known: u64,
    version: u64,
    /// With the version that changed them.
    terms: HashMap<IpAddr, (Term, u64)>,
    /// Those of these addresses that it offers to others.
    offered: BTreeSet<IpAddr>,
    /// How many of these terms go on.
    pub(super) owned: usize,
    /// A digest of the addresses that it knows.
    addresses: u64,
    /// Since when it knows the same addresses as this member, and we know all its terms.
    pub(super) agrees_since: Option<BootTime>,
    /// When its latest message was sent, by its clock: what an earlier run sent is older.
    sent_at: u64,
    /// When its first message since our last tick was sent, by its clock, and came, by ours.
    first_since_tick: Option<(u64, BootTime)>,
    /// How far its clock was ahead of ours until our last tick, and since then.
    lead: Option<ClockLead>,
    lead_since_tick: Option<i64>,
    /// How far it was ahead, in milliseconds, by the last message that answered one of ours.
    answered_lead: Option<i64>,
    pub(super) stage: MemberStage,
    /// Since when it is at that stage, as far as is known.
    pub(super) stage_since: BootTime,
    /// Up to which version it knows our terms.
    pub(super) knows: u64,
}

impl Members {
    /// These are the members from now on. Returns whether one is gone that was there.
    pub(super) fn set(&mut self, names: impl IntoIterator<Item = MemberName>) -> bool {
        let mut former = std::mem::take(&mut self.0);
        let kept = |name: MemberName| {
            let member = former.remove(&name).unwrap_or_default();
            (name, member)
        };
        self.0 = names.into_iter().map(kept).collect();
        !former.is_empty()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &MemberName> {
        self.0.keys()
    }

    pub(super) fn get(&self, name: &str) -> Option<&KnownMember> {
        self.0.get(name)
    }

    /// Takes a message. Answers with the addresses of which it says something new.
    pub(super) fn receive(
        &mut self,
        own: &OwnRun<'_>,
        now: BootTime,
        message: &FleetMessage,
    ) -> Result<Vec<IpAddr>, FleetRejection> {
        let from = &message.from;
        let is_vouched_for = self.is_vouched_for(from, message.run, now);
        let member = self.0.get_mut(from).ok_or(FleetRejection::Unknown)?;
        let mut changed = Vec::new();
        let echo = message.hears.get(own.name).filter(|it| it.run == own.run);
        let answers_us = echo.is_some_and(|it| own.sent.was_lately(it.sequence));
        let lead = lead(message, own.day);
        let is_fresh = answers_us || is_vouched_for || lead.unsigned_abs() <= CLOCKS.unsigned_abs();
        if member.run == message.run {
            if !member.is_new(message.sequence) {
                return Err(FleetRejection::Replayed);
            }
        } else if !member.is_present
            || answers_us
            || is_vouched_for
            || (is_fresh && message.sent_at > member.sent_at)
        {
            // It has started anew, and owns nothing.
            changed.extend(member.terms.drain().map(|(address, _)| address));
            *member = KnownMember {
                run: message.run,
                sequence: message.sequence,
                received: 1,
                stage_since: now,
                heard_by: std::mem::take(&mut member.heard_by),
                ..KnownMember::default()
            };
        } else {
            return Err(FleetRejection::Replayed);
        }
        member.is_present |= is_fresh;
        if !member.is_present {
            return Err(FleetRejection::NotYetPresent);
        }
        if answers_us {
            member.answered_lead = Some(lead);
        }
        member.sent_at = member.sent_at.max(message.sent_at);
        member.version = member.version.max(message.version);
        // One that was overtaken on the way says what was.
        if message.sequence == member.sequence {
            member.addresses = message.addresses;
        }
        if member.stage != message.stage {
            (member.stage, member.stage_since) = (message.stage, now);
        }
        member.knows = member.knows.max(echo.map_or(0, |it| it.known));
        if let Some(terms) = &message.terms {
            changed.extend(member.apply(terms));
        }
        // Who was frozen finds what was said meanwhile, and a recording can be played slowly: that says what was owned,
        // and not who lives.
        let is_late = |before: i64| lead < before.saturating_sub(CLOCKS);
        if !is_fresh && member.answered_lead.is_none_or(is_late) {
            return Ok(changed);
        }
        member.heard = Some(now);
        member
            .first_since_tick
            .get_or_insert((message.sent_at, now));
        member.lead_since_tick = member.lead_since_tick.max(Some(lead));
        let heard_us = echo.and_then(|it| Some(now.before(it.age?)));
        member.heard_us = member.heard_us.max(heard_us);
        for (name, heard) in &message.hears {
            let Some((other, age)) = self.0.get_mut(name).zip(heard.age) else {
                continue;
            };
            other
                .heard_by
                .insert(from.clone(), (heard.run, now.before(age)));
        }
        Ok(changed)
    }

    /// This process has had a tick.
    pub(super) fn note_tick(&mut self, now: BootTime) {
        for member in self.0.values_mut() {
            member.first_since_tick = None;
            let Some(lead) = member.lead_since_tick.take() else {
                continue;
            };
            let is_kept = |it: &ClockLead| it.lead > lead && now < it.at.after(DRIFT);
            if !member.lead.as_ref().is_some_and(is_kept) {
                member.lead = Some(ClockLead { lead, at: now });
            }
        }
    }

    /// How far our clock has fallen behind that of the sender since our last tick. Messages that were held up on the way
    /// and come in a row say nothing of that: none of them is ahead of what its sender's clock was before.
    pub(super) fn behind(&self, message: &FleetMessage, day: u64, now: BootTime) -> Duration {
        let Some(member) = self.0.get(&message.from) else {
            return Duration::ZERO;
        };
        if let Some(before) = member.lead {
            let more = lead(message, day).saturating_sub(before.lead);
            return Duration::from_millis(more.try_into().unwrap_or(0));
        }
        let first = member.first_since_tick;
        first.map_or(Duration::ZERO, |(sent_at, came)| {
            let theirs = Duration::from_millis(message.sent_at.saturating_sub(sent_at));
            theirs.saturating_sub(now.since(came))
        })
    }

    /// Whether another member that is alive has heard this run of it.
    fn is_vouched_for(&self, name: &str, run: u64, now: BootTime) -> bool {
        let mut others = self.0.get(name).into_iter().flat_map(|it| &it.heard_by);
        others.any(|(other, (theirs, at))| {
            *theirs == run && now < at.after(SILENT) && self.is_alive(other, now)
        })
    }

    /// When it was heard last, by us or by others.
    fn last_heard(&self, name: &str) -> Option<BootTime> {
        let member = self.0.get(name).filter(|it| it.is_present)?;
        let by_others = member
            .heard_by
            .values()
            .filter(|(run, _)| *run == member.run);
        let by_others = by_others.map(|(_, at)| *at);
        by_others.chain(member.heard).chain(member.excused).max()
    }

    /// From when on it counts as gone, where nobody hears of it before.
    pub(super) fn silent_from(&self, name: &str) -> Option<BootTime> {
        self.last_heard(name).map(|at| at.after(SILENT))
    }

    pub(super) fn is_alive(&self, name: &str, now: BootTime) -> bool {
        self.silent_from(name).is_some_and(|at| now < at)
    }

    /// Whether it hears us and we hear it, without others. Otherwise one of the two would not learn that an offer has
    /// been made or taken, and an address would have two owners.
    pub(super) fn is_in_touch(&self, name: &str, now: BootTime) -> bool {
        let is_lately = |at: Option<BootTime>| at.is_some_and(|at| now < at.after(RIGHT));
        let member = self.0.get(name);
        member.is_some_and(|it| is_lately(it.heard) && is_lately(it.heard_us))
    }

    /// Whether all of them are alive, and all their terms are known.
    pub(super) fn are_all_known(&self, now: BootTime) -> bool {
        let mut all = self.0.iter();
        all.all(|(name, it)| self.is_alive(name, now) && it.known == it.version)
    }

    /// This process was frozen since then: those that were alive may have spoken meanwhile.
    pub(super) fn was_deaf(&mut self, since: BootTime, now: BootTime) {
        let names: Vec<MemberName> = self.0.keys().cloned().collect();
        for name in names {
            if self.is_alive(&name, since)
                && let Some(member) = self.0.get_mut(&name)
            {
                member.excused = Some(now);
            }
        }
    }

    /// Looks which of them know the same addresses as this member. What one knows that we do not hear ourselves we
    /// can't learn: it is not waited for.
    pub(super) fn compare(&mut self, digest: u64, now: BootTime) {
        for member in self.0.values_mut() {
            let is_heard = member.heard.is_some_and(|at| now < at.after(RIGHT));
            let is_same = member.addresses == digest && member.known == member.version;
            let agrees = is_same || !is_heard;
            let since = member.agrees_since.unwrap_or(now);
            member.agrees_since = agrees.then_some(since);
        }
    }

    /// What members say of an address.
    pub(super) fn terms(&self, address: IpAddr) -> impl Iterator<Item = (&MemberName, &Term)> {
        let members = self.0.iter();
        members.filter_map(move |(name, it)| Some((name, &it.terms.get(&address)?.0)))
    }

    /// The addresses that others offer to that member, and who does.
    pub(super) fn offers_to(&self, own: &str) -> impl Iterator<Item = (&MemberName, IpAddr)> {
        let members = self.0.iter();
        let offered = members.flat_map(|(name, it)| {
            let offered = it.offered.iter();
            offered.map(move |address| (name, *address, it.terms.get(address)))
        });
        offered.filter_map(move |(name, address, term)| match &term?.0.state {
            TermState::Offered(to) if **to == *own => Some((name, address)),
            _ => None,
        })
    }

    /// The addresses that a member owns, as far as is known.
    pub(super) fn owned_by(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        let terms = self.0.get(name).into_iter().flat_map(|it| &it.terms);
        let going_on = terms.filter(|(_, (term, _))| term.goes_on());
        going_on.map(|(address, _)| *address)
    }

    /// The runs that have been shown to be present ones.
    pub(super) fn present_runs(&self) -> impl Iterator<Item = (&MemberName, u64)> {
        let present = self.0.iter().filter(|(_, it)| it.is_present);
        present.map(|(name, it)| (name, it.run))
    }

    /// What we tell others of them.
    pub(super) fn hears(&self, now: BootTime) -> BTreeMap<MemberName, LastHeard> {
        let heard = self.0.iter().filter(|(_, it)| it.sequence > 0);
        let heard = heard.map(|(name, it)| {
            let last = LastHeard {
                run: it.run,
                sequence: it.sequence,
                age: it.heard.filter(|_| it.is_present).map(|at| now.since(at)),
                known: it.known,
            };
            (name.clone(), last)
        });
        heard.collect()
    }
}

/// How far the sender's clock was ahead of ours, which stands at `day`, when it sent a message; less the time that this
/// was on its way.
fn lead(message: &FleetMessage, day: u64) -> i64 {
    message.sent_at.wrapping_sub(day).cast_signed()
}

impl KnownMember {
    /// Whether a message of this number is new; then it is taken as received. As in RFC 4303, section 3.4.3:
    /// messages may overtake each other a little.
    fn is_new(&mut self, sequence: u64) -> bool {
        if sequence > self.sequence {
            let by = sequence - self.sequence;
            self.received = self
                .received
                .checked_shl(by.try_into().unwrap_or(u32::MAX))
                .unwrap_or(0)
                | 1;
            self.sequence = sequence;
            return true;
        }
        let bit = 1u128.checked_shl((self.sequence - sequence).try_into().unwrap_or(u32::MAX));
        let Some(bit) = bit.filter(|bit| self.received & bit == 0) else {
            return false;
        };
        self.received |= bit;
        true
    }

    fn apply(&mut self, changes: &TermChanges) -> Vec<IpAddr> {
        let mut changed = Vec::new();
        if changes.after == 0 {
            // What it has forgotten is over.
            let told: HashSet<IpAddr> = changes.changed.iter().map(|it| it.address).collect();
            self.terms.retain(|address, (_, version)| {
                let is_kept = *version > changes.upto || told.contains(address);
                changed.extend((!is_kept).then_some(*address));
                is_kept
            });
            self.offered
                .retain(|address| self.terms.contains_key(address));
            let going_on = self.terms.values().filter(|(term, _)| term.goes_on());
            self.owned = going_on.count();
        }
        for TermChange {
            version,
            address,
            term,
        } in &changes.changed
        {
            if self
                .terms
                .get(address)
                .is_none_or(|(_, known)| known < version)
            {
                changed.push(*address);
                match term.state {
                    TermState::Offered(_) => self.offered.insert(*address),
                    TermState::Owned | TermState::Over => self.offered.remove(address),
                };
                let former = self.terms.insert(*address, (term.clone(), *version));
                let did_go_on = former.is_some_and(|(term, _)| term.goes_on());
                self.owned = self.owned + usize::from(term.goes_on()) - usize::from(did_go_on);
            }
        }
        if changes.after <= self.known {
            self.known = self.known.max(changes.upto);
        }
        changed
    }
}

/// When messages were sent, and their numbers.
#[derive(Debug, Default)]
pub(super) struct SentLately(VecDeque<(BootTime, u64)>);

impl SentLately {
    /// The next messages are sent now, from this number on.
    pub(super) fn note(&mut self, now: BootTime, first: u64) {
        self.0.push_back((now, first));
        while self
            .0
            .front()
            .is_some_and(|(at, _)| at.after(PRESENT) < now)
        {
            self.0.pop_front();
        }
    }

    fn was_lately(&self, sequence: u64) -> bool {
        self.0.front().is_some_and(|(_, first)| sequence >= *first)
    }
}
