use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::{Ability, Candidacy, HEARTBEAT, SILENT};
use super::*;

const DRAIN: Duration = Duration::from_secs(30);
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

fn name(n: usize) -> MemberName {
    format!("edge-{n}").into()
}

fn candidacy(count: usize, is_able: bool) -> Candidacy {
    Candidacy {
        candidates: Arc::new((0..count).map(name).collect()),
        ability: match is_able {
            true => Ability::Able,
            false => Ability::Unable,
        },
        ..Candidacy::default()
    }
}

/// Members that hear each other, of which the first one owns the address.
struct Members {
    now: BootTime,
    fleets: Vec<Fleet>,
    /// Those that say nothing.
    mute: BTreeSet<usize>,
}

impl Members {
    fn new(count: usize) -> Self {
        let mut members = Self {
            now: BootTime(Duration::from_secs(1_000)),
            fleets: Vec::new(),
            mute: BTreeSet::new(),
        };
        for n in 0..count {
            let fleet = members.fleet(n, count);
            members.fleets.push(fleet);
        }
        // The others wait for who is able.
        for n in 1..count {
            members.set_able(n, false);
        }
        members.run(20);
        for n in 1..count {
            members.set_able(n, true);
        }
        members.run(1);
        assert_eq!(members.owners(), [0]);
        members
    }

    fn fleet(&self, n: usize, count: usize) -> Fleet {
        let run = self.now.0.as_millis() as u64 * 10 + n as u64;
        let started = 1_800_000_000_000 + self.now.0.as_millis() as u64;
        let mut fleet = Fleet::new(name(n), run, started, self.now);
        fleet.set_members((0..count).map(name));
        let candidacy = candidacy(count, true);
        fleet.set_addresses(self.now, BTreeMap::from([(ADDRESS, candidacy)]));
        fleet
    }

    fn set_able(&mut self, n: usize, is_able: bool) {
        let candidacy = candidacy(self.fleets.len(), is_able);
        self.fleets[n].set_addresses(self.now, BTreeMap::from([(ADDRESS, candidacy)]));
    }

    /// So many heartbeats.
    fn run(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now = self.now.after(HEARTBEAT);
            for n in 0..self.fleets.len() {
                if self.mute.contains(&n) {
                    continue;
                }
                for (to, message) in self.fleets[n].tick(self.now) {
                    let to: usize = to.trim_start_matches("edge-").parse().unwrap();
                    if !self.mute.contains(&to) {
                        let _ = self.fleets[to].receive(self.now, &message);
                    }
                }
            }
        }
    }

    fn owners(&self) -> Vec<usize> {
        let all = self.fleets.iter().enumerate();
        let owners = all.filter(|(n, it)| !self.mute.contains(n) && it.owned().next().is_some());
        owners.map(|(n, _)| n).collect()
    }

    /// The predecessor of each.
    fn predecessors(&self) -> Vec<Option<usize>> {
        let of = |fleet: &Fleet| {
            let all = fleet.predecessors(self.now, DRAIN);
            let name = all.get(&ADDRESS)?;
            name.trim_start_matches("edge-").parse().ok()
        };
        self.fleets.iter().map(of).collect()
    }

    /// The owner is told to stop, and this one is the only one that takes.
    fn hand_over(&mut self, from: usize, to: usize) {
        for n in (0..self.fleets.len()).filter(|n| ![from, to].contains(n)) {
            self.set_able(n, false);
        }
        self.fleets[from].leave();
        self.run(12);
        assert_eq!(self.owners(), [to]);
    }
}

#[test]
fn who_takes_an_offered_address_passes_to_who_offered_it() {
    let mut members = Members::new(2);
    assert_eq!(members.predecessors(), [None, None]);
    members.hand_over(0, 1);
    assert_eq!(members.predecessors(), [None, Some(0)]);
    assert_eq!(members.fleets[1].taken_from(ADDRESS), Some(&name(0)));
    assert!(members.fleets[1].take_offer_news());
    assert!(!members.fleets[1].take_offer_news());
    // Until the time to drain is over.
    let ticks = DRAIN.as_millis() / HEARTBEAT.as_millis();
    members.run(ticks as u32 - 14);
    assert_eq!(members.predecessors(), [None, Some(0)]);
    members.run(14);
    assert_eq!(members.predecessors(), [None, None]);
}

#[test]
fn whom_an_address_was_taken_from_is_known_however_it_was_lost() {
    let mut members = Members::new(2);
    assert_eq!(members.fleets[0].taken_from(ADDRESS), None);
    // The owner dies.
    members.mute.insert(0);
    members.run(20);
    assert_eq!(members.owners(), [1]);
    assert_eq!(members.fleets[1].taken_from(ADDRESS), Some(&name(0)));
    // It lets go of it, and takes it again: no other one had it meanwhile.
    members.set_able(1, false);
    members.run(1);
    members.set_able(1, true);
    members.run(20);
    assert_eq!(members.owners(), [1]);
    assert_eq!(members.fleets[1].taken_from(ADDRESS), None);
}

#[test]
fn an_offer_can_be_held_until_packets_can_be_passed() {
    let mut members = Members::new(2);
    members.fleets[1].hold_offers(BTreeSet::from([ADDRESS]));
    members.fleets[0].leave();
    for _ in 0..20 {
        members.run(1);
        assert_eq!(members.owners(), [0]);
    }
    assert_eq!(members.predecessors(), [None, Some(0)]);
    members.fleets[1].hold_offers(BTreeSet::new());
    members.run(2);
    assert_eq!(members.owners(), [1]);
    assert_eq!(members.predecessors(), [None, Some(0)]);
}

#[test]
fn after_an_unplanned_takeover_there_is_nobody_to_pass_to() {
    let mut members = Members::new(2);
    members.mute.insert(0);
    members.run(12);
    assert_eq!(members.owners(), [1]);
    assert_eq!(members.predecessors()[1], None);
}

#[test]
fn nothing_is_passed_to_a_member_that_is_not_heard() {
    let mut members = Members::new(2);
    members.hand_over(0, 1);
    members.mute.insert(0);
    members.run(4);
    assert_eq!(members.predecessors()[1], Some(0));
    members.run((SILENT.as_millis() / HEARTBEAT.as_millis()) as u32 - 3);
    assert_eq!(members.predecessors()[1], None);
    // It was silent and has its connections still.
    members.mute.clear();
    members.run(5);
    assert_eq!(members.predecessors()[1], Some(0));
}

#[test]
fn nothing_is_passed_to_a_member_that_has_started_anew() {
    let mut members = Members::new(2);
    members.hand_over(0, 1);
    members.fleets[0] = members.fleet(0, 2);
    members.run(3);
    assert_eq!(members.predecessors(), [None, None]);
    members.run(12);
    assert_eq!(members.owners(), [1]);
    assert_eq!(members.predecessors(), [None, None]);
}

#[test]
fn a_member_that_has_handed_on_passes_to_who_was_before_it() {
    let mut members = Members::new(3);
    members.hand_over(0, 1);
    members.set_able(2, true);
    members.hand_over(1, 2);
    assert_eq!(members.predecessors(), [None, Some(0), Some(1)]);
    // What is announced no more is passed no more.
    let now = members.now;
    members.fleets[1].set_addresses(now, BTreeMap::new());
    members.run(1);
    assert_eq!(members.predecessors(), [None, None, Some(1)]);
}

#[test]
fn two_members_never_pass_to_each_other() {
    let mut members = Members::new(2);
    members.fleets[0].set_draining(true);
    members.run(12);
    assert_eq!(members.owners(), [1]);
    assert_eq!(members.predecessors(), [None, Some(0)]);
    members.fleets[0].set_draining(false);
    members.run(12);
    assert_eq!(members.owners(), [1]);
    members.fleets[1].set_draining(true);
    members.run(12);
    assert_eq!(members.owners(), [0]);
    assert_eq!(members.predecessors(), [Some(1), None]);
}
