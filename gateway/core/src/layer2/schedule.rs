//! When addresses are announced: at once when they are taken, some times more within seconds, and then in a round
//! that comes to each address more often than once a minute.
//!
//! Switches forget where an address is sooner than its neighbours do, and a neighbour may have missed what it was
//! told. With thousands of addresses this must not become a storm of broadcasts: their rate is bounded. What is due
//! then waits in this order: no address gets its second announcement before each has its first one, and of those
//! that wait for the same one, the address that was taken last goes first.
//!
//! Who else has an address may never say so to all: it answers those who ask, and nobody hears it but them. So each
//! round, and once soon after the address was taken, asks for the address as well.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

use crate::fleet::BootTime;

/// How long after an address was taken it is announced.
pub const OFFSETS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// From this step on, it is asked who else has the address: by then a former owner has yielded.
const ASKED_FROM: usize = 4;

/// After that each address is announced once in this time. Half of the minute that was promised: at the highest
/// rate others may keep an address waiting for some seconds.
pub const ROUND: Duration = Duration::from_secs(30);

/// The time from one announcement to the next at the highest rate, 2,000 in a second.
const SPACING: Duration = Duration::from_micros(500);

/// So much may be sent at once after a time without announcements: 250 addresses in both forms.
const BURST: Duration = Duration::from_millis(250);

/// Where the round is later than this, what was missed is left out.
const LATE: Duration = Duration::from_secs(1);

/// In which message an address is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnnouncementForm {
    /// A gratuitous ARP request (an ARP announcement in RFC 5227).
    ArpRequest,
    /// An unsolicited neighbor advertisement.
    Advertisement,
    /// A gratuitous ARP reply: some neighbours take only one of the two forms.
    ArpReply,
}

/// What is due for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheduled {
    /// To announce it.
    Announcement(AnnouncementForm),
    /// To ask who else has it.
    Question,
}

/// What waits to be sent; the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    /// How often the address was announced since it was taken; the round comes last.
    step: usize,
    what: Scheduled,
    taken: Reverse<BootTime>,
    address: IpAddr,
}

/// An address that is announced.
#[derive(Clone, Copy, Debug)]
struct Announced {
    taken: BootTime,
    place: ScheduleStep,
}

/// Where an address stands.
#[derive(Clone, Copy, Debug)]
enum ScheduleStep {
    /// This step of [`OFFSETS`] is due then.
    Later(usize, BootTime),
    /// It is in the queue.
    Queued(Waiting),
    /// The round comes to it.
    InRound,
}

/// When which address is announced.
#[derive(Debug, Default)]
pub(super) struct AnnouncementSchedule {
    addresses: BTreeMap<IpAddr, Announced>,
    /// When a step of an address is due.
    later: BTreeSet<(BootTime, IpAddr)>,
    queue: BTreeSet<Waiting>,
    /// When the round goes on, and after which address.
    round_at: BootTime,
    round_after: Option<IpAddr>,
    /// Up to when the highest rate has been used.
    used_until: BootTime,
}

impl AnnouncementSchedule {
    /// The address was taken: it is announced at once.
    pub(super) fn begin(&mut self, now: BootTime, address: IpAddr) {
        self.end(address);
        if self.addresses.is_empty() {
            self.round_at = now.after(ROUND);
        }
        let announced = Announced {
            taken: now,
            place: ScheduleStep::InRound,
        };
        self.addresses.insert(address, announced);
        // With more addresses the round goes faster.
        let count = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        self.round_at = self.round_at.min(now.after(ROUND / count.max(1)));
        self.put(address, ScheduleStep::Later(0, now));
    }

    /// All addresses are announced at once, as if they had just been taken: the link is new to its neighbours.
    pub(super) fn begin_all(&mut self, now: BootTime) {
        let all: Vec<_> = self.addresses.keys().copied().collect();
        for address in all {
            self.begin(now, address);
        }
    }

    /// The address is announced no more.
    pub(super) fn end(&mut self, address: IpAddr) {
        self.put(address, ScheduleStep::InRound);
        self.addresses.remove(&address);
    }

    fn put(&mut self, address: IpAddr, place: ScheduleStep) {
        let Some(announced) = self.addresses.get_mut(&address) else {
            return;
        };
        match std::mem::replace(&mut announced.place, place) {
            ScheduleStep::Later(_, at) => drop(self.later.remove(&(at, address))),
            ScheduleStep::Queued(waiting) => drop(self.queue.remove(&waiting)),
            ScheduleStep::InRound => {}
        }
        match place {
            ScheduleStep::Later(_, at) => drop(self.later.insert((at, address))),
            ScheduleStep::Queued(waiting) => drop(self.queue.insert(waiting)),
            ScheduleStep::InRound => {}
        }
    }

    /// Takes the next frame that is due, if the rate allows one.
    pub(super) fn next(&mut self, now: BootTime) -> Option<(IpAddr, Scheduled)> {
        self.queue_what_is_due(now);
        let first = *self.queue.first()?;
        if !self.may_send(now) {
            return None;
        }
        let Waiting {
            step,
            what,
            taken: Reverse(taken),
            address,
        } = first;
        let follows = match what {
            Scheduled::Announcement(AnnouncementForm::ArpRequest) => {
                Some(Scheduled::Announcement(AnnouncementForm::ArpReply))
            }
            Scheduled::Announcement(_) if step >= ASKED_FROM => Some(Scheduled::Question),
            Scheduled::Announcement(_) | Scheduled::Question => None,
        };
        let place = match follows {
            Some(what) => ScheduleStep::Queued(Waiting { what, ..first }),
            None => {
                // What was due meanwhile has been done by this one.
                let is_ahead =
                    |(n, offset): &(usize, &Duration)| *n > step && taken.after(**offset) > now;
                let next = OFFSETS.iter().enumerate().find(is_ahead);
                next.map_or(ScheduleStep::InRound, |(n, offset)| {
                    ScheduleStep::Later(n, taken.after(*offset))
                })
            }
        };
        self.put(address, place);
        Some((address, what))
    }

    /// Whether the rate allows one more frame now; it counts then.
    pub(super) fn may_send(&mut self, now: BootTime) -> bool {
        let is_allowed = self.used_until.since(now) < BURST;
        if is_allowed {
            self.used_until = self.used_until.max(now).after(SPACING);
        }
        is_allowed
    }

    fn queue_what_is_due(&mut self, now: BootTime) {
        while let Some(&(at, address)) = self.later.first()
            && at <= now
        {
            let Some(&Announced { taken, place }) = self.addresses.get(&address) else {
                self.later.remove(&(at, address));
                continue;
            };
            let step = match place {
                ScheduleStep::Later(step, _) => step,
                ScheduleStep::Queued(_) | ScheduleStep::InRound => OFFSETS.len(),
            };
            self.put(
                address,
                ScheduleStep::Queued(Waiting::new(step, taken, address)),
            );
        }
        self.go_round(now);
    }

    /// The round is spread evenly in time: one address after the other, with the same time in between.
    fn go_round(&mut self, now: BootTime) {
        let Ok(count @ 1..) = u32::try_from(self.addresses.len()) else {
            return;
        };
        let spacing = ROUND / count;
        // No right to announce for a while: what was missed is not sent at once.
        self.round_at = self.round_at.max(now.before(LATE));
        while self.round_at <= now {
            self.round_at = self.round_at.after(spacing.max(Duration::from_millis(1)));
            let from = self.round_after.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.addresses.range((from, Bound::Unbounded)).next();
            let Some((&address, announced)) = next.or_else(|| self.addresses.first_key_value())
            else {
                return;
            };
            self.round_after = Some(address);
            if let ScheduleStep::InRound = announced.place {
                let waiting = Waiting::new(OFFSETS.len(), announced.taken, address);
                self.put(address, ScheduleStep::Queued(waiting));
            }
        }
    }

    /// When [`Self::next`] has something, at the earliest.
    pub(super) fn due_at(&self) -> Option<BootTime> {
        if self.addresses.is_empty() {
            return None;
        }
        let later = self.later.first().map(|(at, _)| *at);
        let due = match self.queue.is_empty() {
            false => BootTime::default(),
            true => later.map_or(self.round_at, |at| at.min(self.round_at)),
        };
        Some(due.max(self.may_send_at()))
    }

    /// When [`Self::may_send`] allows a frame, at the earliest.
    pub(super) fn may_send_at(&self) -> BootTime {
        self.used_until.before(BURST).after(SPACING)
    }
}

impl Waiting {
    fn new(step: usize, taken: BootTime, address: IpAddr) -> Self {
        let form = match address {
            IpAddr::V4(_) => AnnouncementForm::ArpRequest,
            IpAddr::V6(_) => AnnouncementForm::Advertisement,
        };
        Self {
            step,
            what: Scheduled::Announcement(form),
            taken: Reverse(taken),
            address,
        }
    }
}
