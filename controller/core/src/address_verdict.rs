//! Who owns an external address, by what gateways that live say of it.
//!
//! A gateway that says that it owns an address is believed. What it says of another gateway counts only where
//! that one can't be asked: a process with one gateway hears of no other one but by it, and a gateway that is cut off
//! from the API server goes on. The others hear it, and would take what it does not own any more.

use std::net::IpAddr;

use fairway_config::exchange::{AddressConflict, AddressReport, AddressState};
use fairway_config::names::ClusterName;

/// How many gateways a sentence names.
const NAMED: usize = 3;

/// Who owns an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressVerdict<'a> {
    /// No gateway that lives has said anything of it.
    Unheard,
    /// This gateway does.
    Owned {
        owner: &'a ClusterName,
        /// What it says, or what is said of it.
        report: &'a AddressReport,
        /// Those that say that they own it, too, by an older term.
        others: Vec<&'a ClusterName>,
    },
    /// This gateway does, as another one says that hears it; itself it is not heard here.
    Vouched {
        owner: &'a ClusterName,
        by: &'a ClusterName,
        /// What that one says.
        report: &'a AddressReport,
    },
    /// No gateway does; what one of them says.
    Unowned {
        gateway: &'a ClusterName,
        report: &'a AddressReport,
    },
    /// No gateway does, because a host that is no gateway uses it.
    InUse {
        gateway: &'a ClusterName,
        report: &'a AddressReport,
    },
}

/// The verdict on an address, from what gateways that live say of it, in the order of their names.
/// `of_themselves`: each is believed of itself alone, but for those that are not `heard`.
pub(crate) fn judge<'a>(
    said: impl Iterator<Item = (&'a ClusterName, &'a AddressReport)>,
    of_themselves: bool,
    heard: impl Fn(&ClusterName) -> bool,
) -> AddressVerdict<'a> {
    let said: Vec<_> = said.collect();
    let first = |state: AddressState| said.iter().find(|(_, it)| it.state == state);
    let mut owners: Vec<_> = said
        .iter()
        .filter(|(_, report)| report.state == AddressState::Owned)
        .collect();
    owners.sort_by_key(|(_, report)| std::cmp::Reverse(report.term));
    if let Some((owner, report)) = owners.first() {
        return AddressVerdict::Owned {
            owner,
            report,
            others: owners.iter().skip(1).map(|(name, _)| *name).collect(),
        };
    }
    let elsewhere = first(AddressState::Elsewhere);
    if let Some((_, report)) = elsewhere.filter(|_| !of_themselves)
        && let Some(owner) = &report.owner
    {
        return AddressVerdict::Owned {
            owner,
            report,
            others: Vec::new(),
        };
    }
    let unheard = said.iter().filter_map(|(by, report)| {
        let owner = report.owner.as_ref().filter(|owner| !heard(owner))?;
        (report.state == AddressState::Elsewhere).then_some((owner, by, report))
    });
    // Two gateways that do not hear each other may name two: the newer term counts.
    if let Some((owner, by, report)) = unheard.max_by_key(|(_, _, report)| report.term) {
        return AddressVerdict::Vouched { owner, by, report };
    }
    if let Some((gateway, report)) = first(AddressState::Conflict) {
        return AddressVerdict::InUse { gateway, report };
    }
    match first(AddressState::Unowned).or(elsewhere) {
        Some((gateway, report)) => AddressVerdict::Unowned { gateway, report },
        None => AddressVerdict::Unheard,
    }
}

impl<'a> AddressVerdict<'a> {
    /// The gateway that owns it.
    pub(crate) fn owner(&self) -> Option<&'a ClusterName> {
        match self {
            Self::Owned { owner, .. } | Self::Vouched { owner, .. } => Some(owner),
            Self::Unheard | Self::Unowned { .. } | Self::InUse { .. } => None,
        }
    }

    /// What is said of it.
    pub(crate) fn report(&self) -> Option<&'a AddressReport> {
        match self {
            Self::Unheard => None,
            Self::Owned { report, .. }
            | Self::Vouched { report, .. }
            | Self::Unowned { report, .. }
            | Self::InUse { report, .. } => Some(report),
        }
    }

    /// The host that is no gateway and answers for it.
    pub(crate) fn conflict(&self) -> Option<&'a AddressConflict> {
        self.report()?.conflict.as_ref()
    }

    /// Whether it is as it should be: it has one owner. Else it may be so in a moment.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            Self::Owned { others, .. } => others.is_empty(),
            Self::Vouched { .. } => true,
            Self::Unheard | Self::Unowned { .. } | Self::InUse { .. } => false,
        }
    }

    /// Why the address has not one owner and nobody else who answers for it; the end of a sentence. `lasts`: it
    /// has been so for longer than a gateway takes to report. Nothing: all is well.
    pub(crate) fn conflict_sentence(&self, address: IpAddr, lasts: bool) -> Option<String> {
        if let Self::Owned { owner, others, .. } = self
            && !others.is_empty()
            && lasts
        {
            return Some(owned_twice(address, owner, others));
        }
        let in_use = matches!(self, Self::InUse { .. });
        match self.conflict() {
            Some(conflict) if in_use => Some(format!(
                "{address} is not announced, because another host uses it: the one with the hardware address {}",
                conflict.hardware_address
            )),
            Some(conflict) => Some(format!(
                "Another host answers for {address}: the one with the hardware address {}",
                conflict.hardware_address
            )),
            None if in_use => Some(format!(
                "{address} is not announced, because another host uses it"
            )),
            None => None,
        }
    }

    /// What people are told.
    pub(crate) fn sentence(&self, address: IpAddr, lasts: bool) -> String {
        match self {
            Self::Unheard => format!("No gateway has said yet who owns {address}."),
            Self::Owned { owner, others, .. } if !others.is_empty() && lasts => {
                format!("{}.", owned_twice(address, owner, others))
            }
            Self::Owned { owner, report, .. } => report.sentence(address, owner),
            Self::Vouched { owner, by, .. } => format!(
                "{address} is owned by {owner}, as {by} says, which hears it. The controller does not hear {owner}."
            ),
            Self::Unowned { gateway, report } => match (report.state, &report.owner) {
                (AddressState::Elsewhere, Some(owner)) => format!(
                    "{address} is owned by no gateway that lives: {gateway} says that {owner} owns it, which {owner} does not say."
                ),
                _ => report.sentence(address, gateway),
            },
            Self::InUse { gateway, report } => report.sentence(address, gateway),
        }
    }
}

/// The end of a sentence.
fn owned_twice(address: IpAddr, owner: &ClusterName, others: &[&ClusterName]) -> String {
    let all = std::iter::once(owner).chain(others.iter().copied());
    let mut names: Vec<String> = all.take(NAMED).map(ToString::to_string).collect();
    let more = (others.len() + 1).saturating_sub(NAMED);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    format!(
        "{address} is owned by {} at once: they do not hear each other",
        names.join(" and ")
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::time::Timestamp;

    use super::*;

    /// What one gateway says: its state, the owner that it names, and the number of the term.
    type StateSaid = (AddressState, Option<&'static str>, u64);

    fn report(&(state, owner, term): &StateSaid) -> AddressReport {
        AddressReport {
            state,
            owner: owner.map(Into::into),
            since: Timestamp(0),
            term,
            why: "".into(),
            interfaces: Vec::new(),
            conflict: (state == AddressState::Conflict).then(|| AddressConflict {
                hardware_address: "52:54:00:00:00:01".into(),
                since: Timestamp(0),
            }),
            successor: None,
            probe: None,
        }
    }

    /// The verdict as words: each kind, and the gateways that it names.
    fn shown(said: &[StateSaid], of_themselves: bool) -> String {
        let names: Vec<ClusterName> = (1..=said.len()).map(|n| format!("g{n}").into()).collect();
        let reports: Vec<AddressReport> = said.iter().map(report).collect();
        let heard = |name: &ClusterName| names.contains(name);
        match judge(names.iter().zip(&reports), of_themselves, heard) {
            AddressVerdict::Unheard => "unheard".to_owned(),
            AddressVerdict::Owned { owner, others, .. } => {
                let names = std::iter::once(owner).chain(others);
                let names: Vec<String> = names.map(ToString::to_string).collect();
                format!("owned by {}", names.join(" "))
            }
            AddressVerdict::Vouched { owner, by, .. } => format!("owned by {owner}, says {by}"),
            AddressVerdict::Unowned { gateway, .. } => format!("unowned, says {gateway}"),
            AddressVerdict::InUse { gateway, .. } => format!("in use, says {gateway}"),
        }
    }

    #[test]
    fn who_owns_an_address_follows_from_what_each_gateway_says_of_itself() {
        use AddressState::{Conflict, Elsewhere, Owned, Unowned};
        let of_g2 = Some("g2");
        for (said, wanted) in [
            (&[][..], "unheard"),
            (&[(Owned, None, 5)], "owned by g1"),
            (&[(Unowned, None, 0)], "unowned, says g1"),
            (&[(Conflict, None, 0)], "in use, says g1"),
            // What is said of another one that is heard is no evidence.
            (
                &[(Elsewhere, of_g2, 5), (Elsewhere, None, 0)],
                "unowned, says g1",
            ),
            // It is of one that is not heard.
            (&[(Elsewhere, of_g2, 5)], "owned by g2, says g1"),
            (
                &[(Elsewhere, Some("g3"), 5), (Unowned, None, 0)],
                "owned by g3, says g1",
            ),
            (
                &[(Elsewhere, Some("g3"), 5), (Elsewhere, Some("g4"), 6)],
                "owned by g4, says g2",
            ),
            (
                &[(Elsewhere, Some("g3"), 5), (Owned, None, 4)],
                "owned by g2",
            ),
            (
                &[(Elsewhere, of_g2, 5), (Unowned, None, 0)],
                "unowned, says g2",
            ),
            (&[(Elsewhere, of_g2, 5), (Owned, None, 5)], "owned by g2"),
            (&[(Unowned, None, 0), (Owned, None, 5)], "owned by g2"),
            (&[(Conflict, None, 0), (Owned, None, 5)], "owned by g2"),
            (
                &[(Unowned, None, 0), (Conflict, None, 0)],
                "in use, says g2",
            ),
            (
                &[(Elsewhere, of_g2, 5), (Conflict, None, 0)],
                "in use, says g2",
            ),
            // Of two the one of the newer term.
            (&[(Owned, None, 5), (Owned, None, 6)], "owned by g2 g1"),
            (&[(Owned, None, 6), (Owned, None, 5)], "owned by g1 g2"),
            (&[(Owned, None, 5), (Owned, None, 5)], "owned by g1 g2"),
        ] {
            assert_eq!(shown(said, true), wanted, "{said:?}");
        }
    }

    #[test]
    fn in_one_process_its_gateway_is_believed_of_others() {
        use AddressState::{Conflict, Elsewhere, Owned, Unowned};
        for (said, wanted) in [
            ((Owned, None, 5), "owned by g1"),
            ((Elsewhere, Some("edge-2"), 5), "owned by edge-2"),
            ((Elsewhere, None, 0), "unowned, says g1"),
            ((Unowned, None, 0), "unowned, says g1"),
            ((Conflict, None, 0), "in use, says g1"),
        ] {
            assert_eq!(shown(&[said], false), wanted, "{said:?}");
        }
    }

    #[test]
    fn two_owners_are_a_conflict_when_it_lasts_and_another_host_is_one_at_once() {
        let address = "203.0.113.1".parse().unwrap();
        let names: [ClusterName; 2] = ["g1".into(), "g2".into()];
        let owned = report(&(AddressState::Owned, None, 5));
        let twice = judge(names.iter().zip([&owned, &owned]), true, |_| true);
        assert_eq!(twice.conflict_sentence(address, false), None);
        assert_eq!(
            twice.conflict_sentence(address, true).unwrap(),
            "203.0.113.1 is owned by g1 and g2 at once: they do not hear each other"
        );
        let contested = AddressReport {
            conflict: report(&(AddressState::Conflict, None, 0)).conflict,
            ..owned.clone()
        };
        let contested = judge(names.iter().zip([&contested]), true, |_| true);
        assert_eq!(
            contested.conflict_sentence(address, false).unwrap(),
            "Another host answers for 203.0.113.1: the one with the hardware address 52:54:00:00:00:01"
        );
        assert_eq!(
            judge(names.iter().zip([&owned]), true, |_| true).conflict_sentence(address, true),
            None
        );
    }
}
