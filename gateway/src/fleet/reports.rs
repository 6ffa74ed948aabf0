//! What this gateway says of each address: who owns it, since when and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_config::exchange::{AddressConflict, AddressReport, AddressState, Successor};
use fairway_config::names::ClusterName;
use fairway_config::time::Timestamp;
use fairway_gateway_core::segments::InterfaceName;
use tokio::sync::Notify;

use crate::passing::PassingState;

/// An address as it is on all segments that it belongs to.
#[derive(Debug, Default)]
pub(super) struct SeenAddress {
    /// The interfaces on which this gateway owns it, and the greatest number of its terms there.
    pub(super) owned: BTreeSet<InterfaceName>,
    pub(super) term: u64,
    /// The interfaces that it belongs to.
    pub(super) interfaces: BTreeSet<InterfaceName>,
    /// Another gateway that owns it, with the number of its term.
    pub(super) owner: Option<(ClusterName, u64)>,
    /// The gateway that had it before this one took it.
    pub(super) taken_from: Option<ClusterName>,
    /// Why this gateway can't own it; the end of a sentence.
    pub(super) inability: Option<String>,
    /// Whether there are other gateways on one of these segments.
    pub(super) has_members: bool,
    /// The gateway that has handed it over and has connections of it, and whether their packets are passed there.
    pub(super) predecessor: Option<(ClusterName, PassingState)>,
    /// A host that is no gateway answers for it.
    pub(super) conflict: Option<AddressConflict>,
    /// Why this gateway drains.
    pub(super) draining: Option<Arc<str>>,
    /// Who takes it where this gateway owns it and drains.
    pub(super) successor: Option<Successor>,
    /// The number of the controller's probe that this answers.
    pub(super) probe: Option<u64>,
    /// The answer is that nobody has it.
    pub(super) is_free: bool,
}

/// How the gateway is that owned an address before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemberHealth {
    Alive,
    /// It is alive, and hands over what it owns.
    Draining,
    Silent,
}

/// What is said of all addresses.
#[derive(Debug, Default)]
pub(super) struct Standings(BTreeMap<IpAddr, KnownReport>);

/// What was said of an address last.
#[derive(Debug)]
struct KnownReport {
    report: Arc<AddressReport>,
    cause: Cause,
}

/// What has made an address stand as it does. It is over, so it stays true for the whole term; what goes on, and may
/// end, is looked at anew each time ([`why`]).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// Nothing is known of what was before.
    Unknown,
    /// A gateway had it that was like this then.
    Lost(ClusterName, MemberHealth),
    /// No other gateway had it. Whether there was one.
    Unclaimed { had_members: bool },
    /// This gateway had it: what kept it from going on then, if something did, and whether it drained.
    GivenUp {
        inability: Option<String>,
        was_draining: bool,
    },
}

impl Standings {
    /// The addresses that were reported.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    /// The number of the controller's probe of an address that was answered.
    pub(super) fn answered(&self, address: IpAddr) -> Option<u64> {
        self.0.get(&address)?.report.probe
    }

    /// Takes in how an address is seen now. `former` says how another gateway is. Returns the report, if it is
    /// another one than before.
    pub(super) fn set(
        &mut self,
        address: IpAddr,
        seen: SeenAddress,
        now: Timestamp,
        former: impl Fn(&str) -> MemberHealth,
    ) -> Option<Arc<AddressReport>> {
        let before = self.0.get(&address);
        let state = match (&seen.conflict, &seen.owner) {
            _ if !seen.owned.is_empty() => AddressState::Owned,
            (Some(_), None) => AddressState::Conflict,
            (_, Some(_)) => AddressState::Elsewhere,
            (None, None) if seen.is_free => AddressState::Free,
            (None, None) => AddressState::Unowned,
        };
        let (owner, term) = match (state, &seen.owner) {
            (AddressState::Owned, _) => (None, seen.term),
            (_, Some((owner, term))) => (Some(owner.clone()), *term),
            (_, None) => (None, 0),
        };
        let stands = before.filter(|it| (it.report.state, it.report.term) == (state, term));
        let cause = match stands {
            Some(stands) => stands.cause.clone(),
            None => cause(before.map(|it| &*it.report), &seen, state, former),
        };
        let interfaces = match state {
            AddressState::Owned => &seen.owned,
            AddressState::Elsewhere
            | AddressState::Unowned
            | AddressState::Conflict
            | AddressState::Free => &seen.interfaces,
        };
        let report = AddressReport {
            state,
            since: stands.map_or(now, |it| it.report.since),
            term,
            why: why(&cause, &seen, state).into(),
            owner,
            interfaces: interfaces.iter().cloned().collect(),
            conflict: seen.conflict,
            successor: seen.successor,
            probe: seen.probe,
        };
        if before.is_some_and(|it| *it.report == report) {
            return None;
        }
        let report = Arc::new(report);
        let standing = KnownReport {
            report: report.clone(),
            cause,
        };
        self.0.insert(address, standing);
        Some(report)
    }

    /// The address is announced no more. Returns whether something was said of it.
    pub(super) fn remove(&mut self, address: IpAddr) -> bool {
        self.0.remove(&address).is_some()
    }
}

/// What has happened to an address that stands another way than before.
fn cause(
    before: Option<&AddressReport>,
    seen: &SeenAddress,
    state: AddressState,
    how_is: impl Fn(&str) -> MemberHealth,
) -> Cause {
    let former = before.and_then(|it| it.owner.as_ref());
    let had_it = before.is_some_and(|it| it.state == AddressState::Owned);
    let owner = seen.owner.as_ref().map(|(owner, _)| owner);
    // Whom it was taken from may never have been reported: reports are made once a second.
    let former = match state {
        AddressState::Owned => seen.taken_from.as_ref().or(former),
        _ => former.filter(|it| Some(*it) != owner),
    };
    match former {
        Some(former) => Cause::Lost(former.clone(), how_is(former)),
        None if state == AddressState::Owned => Cause::Unclaimed {
            had_members: seen.has_members,
        },
        None if had_it => Cause::GivenUp {
            inability: seen.inability.clone(),
            was_draining: seen.draining.is_some(),
        },
        None => Cause::Unknown,
    }
}

/// Why it is so, as of now; the end of a sentence. Empty: nothing is known of what was before.
fn why(cause: &Cause, seen: &SeenAddress, state: AddressState) -> String {
    match (state, &seen.inability) {
        (AddressState::Conflict, _) => return "another host answers for it".to_owned(),
        (AddressState::Free, _) => return "nobody answers for it".to_owned(),
        (AddressState::Unowned, Some(inability)) => return inability.clone(),
        _ => {}
    }
    match cause {
        Cause::Lost(former, health) => {
            let predecessor = seen.predecessor.as_ref();
            match predecessor.filter(|(it, _)| it == former) {
                Some((_, PassingState::Passed)) => {
                    format!("{former} let it go; connections that it has go on there")
                }
                Some((_, PassingState::Refused(why))) => {
                    format!("{former} let it go; connections that it has end, because {why}")
                }
                None => match health {
                    MemberHealth::Alive => format!("{former} let it go"),
                    MemberHealth::Draining => format!("{former} drained"),
                    MemberHealth::Silent => format!("{former} was not heard of for 500 ms"),
                },
            }
        }
        Cause::Unclaimed { had_members: true } => "no other gateway owned it".to_owned(),
        Cause::Unclaimed { had_members: false } => {
            "there was no other gateway on that network".to_owned()
        }
        Cause::GivenUp {
            inability,
            was_draining,
        } => match (inability, &seen.owner) {
            (Some(it), _) if seen.inability.as_ref() == Some(it) => {
                format!("{it} on this gateway")
            }
            (None, _) if *was_draining && seen.draining.is_some() => {
                "this gateway drains".to_owned()
            }
            (_, Some((owner, _))) => format!("{owner} took it over"),
            (_, None) => "this gateway let it go".to_owned(),
        },
        Cause::Unknown if state == AddressState::Unowned => {
            "no gateway has taken it yet".to_owned()
        }
        Cause::Unknown => String::new(),
    }
}

/// Reports on their way to the control task, which sends them to the store. The latest one of each address.
#[derive(Debug, Default)]
pub(crate) struct AddressReportOutbox {
    waiting: Mutex<BTreeMap<IpAddr, Option<Arc<AddressReport>>>>,
    wake: Notify,
}

impl AddressReportOutbox {
    /// Puts reports in; none in place of one: the address is announced no more.
    pub(super) fn put(&self, reports: BTreeMap<IpAddr, Option<Arc<AddressReport>>>) {
        if !reports.is_empty() {
            self.lock().extend(reports);
            self.wake.notify_one();
        }
    }

    /// Waits until there are any.
    pub(crate) async fn told(&self) {
        self.wake.notified().await;
    }

    /// Takes those that wait.
    pub(crate) fn take(&self) -> BTreeMap<IpAddr, Option<Arc<AddressReport>>> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Option<Arc<AddressReport>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// `owned` and `owner` are numbers of terms.
    fn seen(
        owned: Option<u64>,
        owner: Option<(&str, u64)>,
        inability: Option<&str>,
    ) -> SeenAddress {
        SeenAddress {
            owned: owned.map(|_| "eth0".into()).into_iter().collect(),
            term: owned.unwrap_or_default(),
            interfaces: ["eth0".into(), "eth1".into()].into(),
            owner: owner.map(|(name, term)| (name.into(), term)),
            inability: inability.map(str::to_owned),
            has_members: true,
            ..SeenAddress::default()
        }
    }

    #[test]
    fn a_report_says_who_owns_an_address_since_when_and_why() {
        let address = "203.0.113.1".parse().unwrap();
        let mut standings = Standings::default();
        let dead = ["edge-3"];
        for (at, now, wanted) in [
            (
                1,
                seen(None, None, Some("nothing listens")),
                "unowned - since 1: nothing listens",
            ),
            (2, seen(None, None, Some("nothing listens")), ""),
            (
                3,
                seen(None, None, Some("eth0 is down")),
                "unowned - since 1: eth0 is down",
            ),
            (
                4,
                seen(None, None, None),
                "unowned - since 1: no gateway has taken it yet",
            ),
            (
                5,
                seen(None, Some(("edge-3", 7)), None),
                "elsewhere edge-3 since 5: ",
            ),
            (6, seen(None, Some(("edge-3", 7)), Some("eth0 is down")), ""),
            (
                7,
                seen(Some(8), None, None),
                "owned - since 7: edge-3 was not heard of for 500 ms",
            ),
            (8, seen(Some(8), None, None), ""),
            (
                9,
                seen(None, Some(("edge-2", 9)), None),
                "elsewhere edge-2 since 9: edge-2 took it over",
            ),
            (
                10,
                seen(Some(10), None, None),
                "owned - since 10: edge-2 let it go",
            ),
            (
                11,
                seen(None, Some(("edge-2", 11)), Some("nothing listens")),
                "elsewhere edge-2 since 11: nothing listens on this gateway",
            ),
            (
                12,
                seen(None, Some(("edge-2", 11)), None),
                "elsewhere edge-2 since 11: edge-2 took it over",
            ),
            (
                13,
                seen(None, Some(("edge-3", 12)), None),
                "elsewhere edge-3 since 13: edge-2 let it go",
            ),
            (
                14,
                seen(None, None, None),
                "unowned - since 14: edge-3 was not heard of for 500 ms",
            ),
        ] {
            let former = |name: &str| match dead.contains(&name) {
                true => MemberHealth::Silent,
                false => MemberHealth::Alive,
            };
            let report = standings.set(address, now, Timestamp(at), former);
            let shown = report.map_or_else(String::new, |it| {
                let owner = it.owner.as_deref().unwrap_or("-");
                format!("{} {owner} since {}: {}", it.state, it.since.0, it.why)
            });
            assert_eq!(shown, wanted, "{at}");
        }
        for (at, state, wanted) in [
            (
                14,
                PassingState::Passed,
                "connections that it has go on there",
            ),
            (
                15,
                PassingState::Refused("it may not".into()),
                "connections that it has end, because it may not",
            ),
        ] {
            let theirs = seen(None, Some(("edge-2", at)), None);
            standings.set(address, theirs, Timestamp(at.cast_signed()), |_| {
                MemberHealth::Alive
            });
            let ours = SeenAddress {
                predecessor: Some(("edge-2".into(), state)),
                ..seen(Some(at + 100), None, None)
            };
            let report = standings.set(address, ours, Timestamp(20), |_| MemberHealth::Alive);
            let wanted = format!("edge-2 let it go; {wanted}");
            assert_eq!(*report.unwrap().why, wanted);
        }
        assert_eq!(standings.addresses().collect::<Vec<_>>(), [address]);
        standings.remove(address);
        // That edge-2 had it was never reported.
        for (term, predecessor, wanted) in [
            (1, None, ""),
            (
                2,
                Some(PassingState::Passed),
                "; connections that it has go on there",
            ),
        ] {
            let ours = SeenAddress {
                taken_from: Some("edge-2".into()),
                predecessor: predecessor.map(|state| ("edge-2".into(), state)),
                ..seen(Some(term), None, None)
            };
            let report = standings.set(address, ours, Timestamp(20), |_| MemberHealth::Alive);
            assert_eq!(*report.unwrap().why, format!("edge-2 let it go{wanted}"));
        }
        standings.remove(address);
        let alone = SeenAddress {
            has_members: false,
            ..seen(Some(1), None, None)
        };
        let report = standings
            .set(address, alone, Timestamp(20), |_| MemberHealth::Silent)
            .unwrap();
        assert_eq!(&*report.why, "there was no other gateway on that network");
        assert_eq!(report.interfaces, ["eth0".into()]);
    }

    #[test]
    fn who_drains_says_so_and_who_takes_an_address_of_it_says_why() {
        let address = "203.0.113.1".parse().unwrap();
        let (mut of_one, mut of_other) = (Standings::default(), Standings::default());
        let alive = |_: &str| MemberHealth::Alive;
        let mut owned = seen(Some(1), None, None);
        owned.successor = Some(Successor::Nobody("no other gateway is heard of".into()));
        let before = of_one.set(address, owned, Timestamp(1), alive).unwrap();
        let mut owned = seen(Some(1), None, None);
        owned.successor = Some(Successor::Gateway("edge-2".into()));
        let report = of_one.set(address, owned, Timestamp(2), alive).unwrap();
        assert_eq!((report.since, &report.why), (before.since, &before.why));
        assert_eq!(report.successor, Some(Successor::Gateway("edge-2".into())));
        let mut moved = seen(None, Some(("edge-2", 2)), None);
        moved.draining = Some("of its Node: it is cordoned".into());
        let report = of_one.set(address, moved, Timestamp(3), alive).unwrap();
        assert_eq!(&*report.why, "this gateway drains");
        assert_eq!(report.successor, None);
        // It does so no more.
        let moved = seen(None, Some(("edge-2", 2)), None);
        let report = of_one.set(address, moved, Timestamp(4), alive).unwrap();
        assert_eq!(
            (&*report.why, report.since),
            ("edge-2 took it over", Timestamp(3))
        );
        of_other.set(
            address,
            seen(None, Some(("edge-1", 1)), None),
            Timestamp(1),
            alive,
        );
        let drains = |_: &str| MemberHealth::Draining;
        let report = of_other.set(address, seen(Some(2), None, None), Timestamp(3), drains);
        assert_eq!(&*report.unwrap().why, "edge-1 drained");
    }

    #[test]
    fn that_connections_go_on_elsewhere_is_said_only_while_they_do() {
        let address = "203.0.113.1".parse().unwrap();
        let mut standings = Standings::default();
        let alive = |_: &str| MemberHealth::Alive;
        let passed = || Some(("edge-2".into(), PassingState::Passed));
        let refused = || Some(("edge-2".into(), PassingState::Refused("it may not".into())));
        for (at, predecessor, wanted) in [
            (1, None, "edge-2 let it go"),
            (
                2,
                passed(),
                "edge-2 let it go; connections that it has go on there",
            ),
            (3, passed(), ""),
            (
                4,
                refused(),
                "edge-2 let it go; connections that it has end, because it may not",
            ),
            // The time to drain is over.
            (5, None, "edge-2 let it go"),
        ] {
            let ours = SeenAddress {
                taken_from: Some("edge-2".into()),
                predecessor,
                ..seen(Some(1), None, None)
            };
            let report = standings.set(address, ours, Timestamp(at), alive);
            let since = report.as_ref().map(|it| it.since);
            assert!(since.is_none_or(|it| it == Timestamp(1)), "{at}");
            let why = report.map_or_else(String::new, |it| it.why.to_string());
            assert_eq!(why, wanted, "{at}");
        }
    }

    #[test]
    fn the_interfaces_are_those_of_now() {
        let address = "203.0.113.1".parse().unwrap();
        let mut standings = Standings::default();
        let alive = |_: &str| MemberHealth::Alive;
        standings.set(address, seen(Some(1), None, None), Timestamp(1), alive);
        let mut both = seen(Some(1), None, None);
        both.owned.insert("eth1".into());
        let report = standings.set(address, both, Timestamp(2), alive).unwrap();
        assert_eq!(report.interfaces, ["eth0".into(), "eth1".into()]);
    }

    #[test]
    fn another_host_that_answers_is_a_conflict_while_no_gateway_owns_the_address() {
        let address = "203.0.113.1".parse().unwrap();
        let conflict = AddressConflict {
            hardware_address: "02:00:00:00:00:01".into(),
            since: Timestamp(3),
        };
        for (owned, owner, wanted) in [
            (None, None, AddressState::Conflict),
            (Some(1), None, AddressState::Owned),
            (None, Some(("edge-2", 1)), AddressState::Elsewhere),
        ] {
            let seen = SeenAddress {
                conflict: Some(conflict.clone()),
                ..seen(owned, owner, None)
            };
            let report = Standings::default()
                .set(address, seen, Timestamp(5), |_| MemberHealth::Alive)
                .unwrap();
            assert_eq!(report.state, wanted);
            assert_eq!(report.conflict.as_ref(), Some(&conflict));
        }
    }
}
