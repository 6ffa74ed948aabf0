//! A member goes on in another process: with the same run and terms, so that others notice nothing.
//!
//! The new process does not know the other members yet, so it listens first, as after a start, and takes nothing. But it
//! may answer for what it owns: others hear the same run go on, and take nothing of it. Where it comes too late others
//! may have taken its addresses, and it begins as any other.

use std::net::IpAddr;

use super::message::{MemberName, Term, TermState};
use super::terms::OwnTerms;
use super::timing::{BootTime, RIGHT};
use super::{Fleet, OwnershipChange};

/// What another process of the same member needs to go on. The first one must not tick any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetContinuation {
    /// The number of the run.
    pub run: u64,
    /// That of the last message.
    pub sequence: u64,
    /// The time of day when it began, in milliseconds since 1970.
    pub started: u64,
    /// The same as time since the machine started.
    pub began: BootTime,
    /// When it ticked last.
    pub last_tick: BootTime,
    /// The version of its terms.
    pub version: u64,
    /// The addresses that it owns, and the numbers of their terms.
    pub terms: Vec<(IpAddr, u64)>,
}

impl Fleet {
    /// What another process needs to go on as this member.
    pub fn continuation(&self) -> FleetContinuation {
        FleetContinuation {
            run: self.run,
            sequence: self.sequence,
            started: self.started,
            began: self.began,
            last_tick: self.last_tick,
            version: self.terms.version,
            terms: self.owned().collect(),
        }
    }

    /// A member that goes on; none: it is too late for that.
    pub fn go_on(own: MemberName, from: &FleetContinuation, now: BootTime) -> Option<Self> {
        if now.since(from.last_tick) > RIGHT {
            return None;
        }
        let mut fleet = Self::new(own, from.run, from.started, now);
        fleet.began = from.began;
        fleet.last_tick = from.last_tick;
        fleet.sequence = from.sequence;
        fleet.terms = OwnTerms::after(from.version);
        fleet.goes_on = true;
        fleet.ask_first();
        for (address, number) in &from.terms {
            let (address, term) = (*address, *number);
            let state = TermState::Owned;
            fleet.terms.set(
                address,
                Term {
                    number: term,
                    state,
                },
            );
            fleet.changes.push(OwnershipChange {
                address,
                is_owned: true,
                term,
            });
        }
        Some(fleet)
    }
}
