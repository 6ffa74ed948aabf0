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

/// The reports of all addresses, as they were made last.
#[derive(Debug, Default)]
pub(super) struct Standings(BTreeMap<IpAddr, Arc<AddressReport>>);

impl Standings {
    /// The addresses that were reported.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    /// The number of the controller's probe of an address that was answered.
    pub(super) fn answered(&self, address: IpAddr) -> Option<u64> {
        self.0.get(&address)?.probe
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
        let before = self.0.get(&address).map(Arc::as_ref);
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
        let is_same = before.is_some_and(|it| {
            // Without an owner the reason is all there is to say, and may change.
            let why = (state == AddressState::Unowned)
                .then(|| seen.inability.clone().unwrap_or_default());
            (it.state, it.term) == (state, term)
                && it.owner == owner
                && (&it.conflict, &it.successor) == (&seen.conflict, &seen.successor)
                && it.probe == seen.probe
                && why.is_none_or(|why| why.is_empty() || *why == *it.why)
        });
        if is_same {
            return None;
        }
        let stands = before.filter(|it| (it.state, it.term) == (state, term));
        let why = match stands.filter(|_| state == AddressState::Owned) {
            Some(before) => before.why.clone(),
            None => why(before, &seen, state, former).into(),
        };
        let interfaces = match state {
            AddressState::Owned => &seen.owned,
            AddressState::Elsewhere
            | AddressState::Unowned
            | AddressState::Conflict
            | AddressState::Free => &seen.interfaces,
        };
        let report = Arc::new(AddressReport {
            state,
            owner,
            since: stands.map_or(now, |it| it.since),
            term,
            why,
            interfaces: interfaces.iter().cloned().collect(),
            conflict: seen.conflict,
            successor: seen.successor,
            probe: seen.probe,
        });
        self.0.insert(address, report.clone());
        Some(report)
    }

    /// The address is announced no more.
    pub(super) fn remove(&mut self, address: IpAddr) {
        self.0.remove(&address);
    }
}

/// Why it is so; the end of a sentence. Empty: nothing is known of what was before.
fn why(
    before: Option<&AddressReport>,
    seen: &SeenAddress,
    state: AddressState,
    how_is: impl Fn(&str) -> MemberHealth,
) -> String {
    let former = before.and_then(|it| it.owner.as_deref());
    let lost = |former: &str| match how_is(former) {
        MemberHealth::Alive => format!("{former} let it go"),
        MemberHealth::Draining => format!("{former} drains"),
        MemberHealth::Silent => format!("{former} was not heard of for 500 ms"),
    };
    match state {
        // Whom it was taken from may never have been reported: reports are made once a second.
        AddressState::Owned => match seen.taken_from.as_deref().or(former) {
            Some(former) => {
                let connections = seen.predecessor.as_ref().filter(|(it, _)| **it == *former);
                match connections.map(|(_, state)| state) {
                    Some(PassingState::Passed) => {
                        format!("{former} let it go; connections that it has go on there")
                    }
                    Some(PassingState::Refused(why)) => {
                        format!("{former} let it go; connections that it has end, because {why}")
                    }
                    None => lost(former),
                }
            }
            None if seen.has_members => "no other gateway owned it".to_owned(),
            None => "there is no other gateway on that network".to_owned(),
        },
        AddressState::Elsewhere => {
            let owner = seen.owner.as_ref().map(|(owner, _)| &**owner);
            match (before.map(|it| it.state), former) {
                (Some(AddressState::Owned), _) => match (&seen.inability, &seen.draining) {
                    (Some(inability), _) => format!("{inability} on this gateway"),
                    (None, Some(_)) => "this gateway drains".to_owned(),
                    (None, None) => format!("{} took it over", owner.unwrap_or_default()),
                },
                (_, Some(former)) if Some(former) != owner => lost(former),
                _ => String::new(),
            }
        }
        AddressState::Unowned => match (&seen.inability, former) {
            (Some(inability), _) => inability.clone(),
            (None, Some(former)) => lost(former),
            (None, None) => "no gateway has taken it yet".to_owned(),
        },
        AddressState::Conflict => "another host answers for it".to_owned(),
        AddressState::Free => "nobody answers for it".to_owned(),
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
            (4, seen(None, None, None), ""),
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
                seen(None, Some(("edge-3", 12)), None),
                "elsewhere edge-3 since 12: edge-2 let it go",
            ),
            (
                13,
                seen(None, None, None),
                "unowned - since 13: edge-3 was not heard of for 500 ms",
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
        assert_eq!(&*report.why, "there is no other gateway on that network");
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
        of_other.set(
            address,
            seen(None, Some(("edge-1", 1)), None),
            Timestamp(1),
            alive,
        );
        let drains = |_: &str| MemberHealth::Draining;
        let report = of_other.set(address, seen(Some(2), None, None), Timestamp(3), drains);
        assert_eq!(&*report.unwrap().why, "edge-1 drains");
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
