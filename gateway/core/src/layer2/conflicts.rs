//! Who else answers for addresses of ours.
//!
//! When an address passes from one gateway to another, the new owner announces it before the old one has heard of
//! the new term, or the old one has just lost its right. That is no conflict, and a defence would turn clients back
//! to the wrong gateway. So a defence waits for as long as such a term can go on, and a conflict is stated when the
//! other one is still there a second later. Whoever loses the address forgets what it has seen.
//!
//! Few hosts say to all that they have an address. So who else has one of ours is asked from time to time, as the
//! schedule of announcements says.
//!
//! A frame can be forged once. To state a conflict, the other one is asked whether it is still there: like a new
//! address, ours is probed for, and who answers is seen again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::frame::HardwareAddress;
use crate::fleet::{BootTime, RIGHT};

/// A defence waits so long: an owner that was passed by has no right to answer by then.
const PATIENCE: Duration = RIGHT;

/// One that is still seen after this time is a conflict.
const STATED: Duration = Duration::from_secs(1);

/// At most one defence in this time (`DEFEND_INTERVAL` of RFC 5227, 1.1), and one question whether the other one is
/// still there.
const INTERVAL: Duration = Duration::from_secs(10);

/// It is over when the other one has not been seen for so long, in which it was asked twice.
const OVER: Duration = Duration::from_secs(25);

/// Another one answers for an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenConflict {
    /// The hardware address that was seen first, as long as it is seen. Another one that is seen meanwhile is not
    /// told: whoever forges a new one in each frame would make news of each.
    pub hardware_address: HardwareAddress,
    /// When it was seen first.
    pub since: BootTime,
}

/// What is to be done about a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConflictStep {
    /// To announce the address once.
    Defend,
    /// To ask who else has it.
    Ask,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    hardware: HardwareAddress,
    /// When that one was seen last.
    hardware_at: BootTime,
    first: BootTime,
    last: BootTime,
    defence: Defence,
    ask_at: BootTime,
}

impl Suspect {
    /// When something is to be done, or it is over.
    fn due_at(&self) -> BootTime {
        let step = match self.defence {
            Defence::Due(at) => at.min(self.ask_at),
            Defence::Done(_) => self.ask_at,
        };
        step.min(self.last.after(OVER))
    }
}

#[derive(Clone, Copy, Debug)]
enum Defence {
    Due(BootTime),
    Done(BootTime),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    suspects: BTreeMap<IpAddr, Suspect>,
    /// Nothing is due before: else each frame that anybody sends would have all of them looked at.
    looks_at: BootTime,
}

impl Conflicts {
    /// A frame of another one says that it has the address.
    pub(super) fn hear(&mut self, now: BootTime, address: IpAddr, hardware: HardwareAddress) {
        let suspect = self.suspects.entry(address).or_insert(Suspect {
            hardware,
            hardware_at: now,
            first: now,
            last: now,
            defence: Defence::Due(now.after(PATIENCE)),
            ask_at: now.after(STATED),
        });
        if suspect.hardware == hardware || now.since(suspect.hardware_at) >= OVER {
            (suspect.hardware, suspect.hardware_at) = (hardware, now);
        }
        suspect.last = now;
        if let Defence::Done(at) = suspect.defence
            && now.since(at) >= INTERVAL
        {
            suspect.defence = Defence::Due(now.after(PATIENCE));
        }
        self.looks_at = self.looks_at.min(suspect.due_at());
    }

    /// The address is ours no more, or begins a new term.
    pub(super) fn forget(&mut self, address: IpAddr) {
        self.suspects.remove(&address);
    }

    /// What is to be done now. It counts as done.
    pub(super) fn take_due(&mut self, now: BootTime) -> Option<(IpAddr, ConflictStep)> {
        if now < self.looks_at {
            return None;
        }
        self.suspects.retain(|_, it| now.since(it.last) < OVER);
        let step = self.suspects.iter_mut().find_map(|(address, it)| {
            if let Defence::Due(at) = it.defence
                && at <= now
            {
                it.defence = Defence::Done(now);
                return Some((*address, ConflictStep::Defend));
            }
            if it.ask_at <= now {
                it.ask_at = now.after(INTERVAL);
                return Some((*address, ConflictStep::Ask));
            }
            None
        });
        if step.is_none() {
            self.looks_at = self.first_due().unwrap_or_default();
        }
        step
    }

    /// When [`Self::take_due`] has something to do.
    pub(super) fn due_at(&self) -> Option<BootTime> {
        (!self.suspects.is_empty()).then_some(self.looks_at)
    }

    fn first_due(&self) -> Option<BootTime> {
        self.suspects.values().map(Suspect::due_at).min()
    }

    /// Those that are stated.
    pub(super) fn stated(&self) -> impl Iterator<Item = (IpAddr, SeenConflict)> {
        let stated = self.suspects.iter();
        let stated = stated.filter(|(_, it)| it.last.since(it.first) >= STATED);
        stated.map(|(address, it)| {
            let seen = SeenConflict {
                hardware_address: it.hardware,
                since: it.first,
            };
            (*address, seen)
        })
    }
}
