//! The external addresses of a Service that gateways announce on layer 2: who owns each, and what that means for
//! the conditions of the Service.
//!
//! Clients of such an address reach its owner and no other gateway. So the Service is served where each of its
//! addresses has one owner, and that one serves it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_config::names::ClusterName;

use crate::address_verdict::AddressVerdict;
use crate::allocations::Allocations;
use crate::count_labels::AddressCount;
use crate::counts::AddressOwner;
use crate::gateways::GatewayTable;
use crate::index::IndexedService;
use crate::programmed::{ProgrammedCondition, Serving};
use crate::queue::ServiceSlot;

/// The reason of `Programmed` where an address has no owner.
pub(crate) const ADDRESS_NOT_ANNOUNCED: &str = "AddressNotAnnounced";
/// The reason where somebody else has it, too.
pub(crate) const ADDRESS_CONFLICT: &str = "AddressConflict";

/// An address that gateways announce on layer 2.
#[derive(Debug)]
pub(crate) struct Layer2Address<'a> {
    pub(crate) address: IpAddr,
    pub(crate) verdict: AddressVerdict<'a>,
    /// It has had no owner, or several, for longer than a gateway takes to report.
    pub(crate) lasts: bool,
}

/// Those of a Service, in their order.
pub(crate) fn addresses_of<'a>(
    allocations: &Allocations,
    gateways: &'a GatewayTable,
    entry: &IndexedService,
) -> Vec<Layer2Address<'a>> {
    let addresses = entry.granted.addresses.iter().copied();
    let addresses = addresses.filter(|address| allocations.is_announced(*address));
    addresses
        .map(|address| Layer2Address {
            address,
            verdict: gateways.verdict(address),
            lasts: gateways.lasts(address),
        })
        .collect()
}

/// Who owns each of them.
pub(crate) fn owners(
    allocations: &Allocations,
    gateways: &GatewayTable,
    entry: &IndexedService,
) -> Vec<AddressOwner> {
    let announced = addresses_of(allocations, gateways, entry).into_iter();
    let owners = announced.map(|it| AddressOwner {
        address: it.address,
        owner: it.verdict.owner().cloned(),
    });
    owners.collect()
}

/// All addresses that a Service has and gateways announce on layer 2, by their state. Looks at each. `is_missed`: an
/// owner of the address is all that this Service lacks.
pub(crate) fn counts(
    allocations: &Allocations,
    gateways: &GatewayTable,
    is_missed: impl Fn(ServiceSlot) -> bool,
) -> BTreeMap<AddressCount, usize> {
    let mut counts: BTreeMap<AddressCount, usize> = AddressCount::ALL.map(|it| (it, 0)).into();
    let mut pools = allocations.pools.iter();
    if !pools.any(|pool| pool.config.announce.layer2.is_some()) {
        return counts;
    }
    for (address, holders) in allocations.holders.iter() {
        if !allocations.is_announced(address) {
            continue;
        }
        let (verdict, lasts) = (gateways.verdict(address), gateways.lasts(address));
        let state = match verdict.owner() {
            _ if verdict.conflict_sentence(address, lasts).is_some() => AddressCount::Conflict,
            Some(_) => AddressCount::Owned,
            None if holders.iter().any(|holder| is_missed(holder.slot)) => AddressCount::Unowned,
            None => AddressCount::Idle,
        };
        *counts.entry(state).or_default() += 1;
    }
    counts
}

/// The condition `Programmed` of a Service that has so many addresses, and these of them announced on layer 2.
pub(crate) fn programmed(
    serving: &Serving<'_>,
    announced: &[Layer2Address<'_>],
    addresses: usize,
) -> ProgrammedCondition {
    let whole = serving.verdict();
    if announced.len() < addresses && !whole.status {
        return whole;
    }
    let mut of_owners = None;
    for it in announced {
        let of_owner = it.programmed(serving, &whole);
        if !of_owner.status {
            return of_owner;
        }
        of_owners = Some(of_owner);
    }
    of_owners
        .filter(|_| announced.len() == addresses)
        .unwrap_or(whole)
}

impl<'a> Layer2Address<'a> {
    /// The gateway whose listeners clients of the address reach, where it is one that is heard here.
    pub(crate) fn heard_owner(&self, serving: &Serving<'_>) -> Option<&'a ClusterName> {
        let owner = self.verdict.owner()?;
        serving
            .gateways
            .iter()
            .any(|(name, _)| *name == owner)
            .then_some(owner)
    }

    fn programmed(
        &self,
        serving: &Serving<'_>,
        whole: &ProgrammedCondition,
    ) -> ProgrammedCondition {
        let address = self.address;
        match &self.verdict {
            AddressVerdict::Owned { others, .. } if !others.is_empty() && self.lasts => {
                self.conflict(whole)
            }
            // Its owner is another process, of which this one hears only that it owns the address.
            AddressVerdict::Owned { .. } => match self.heard_owner(serving) {
                Some(owner) => serving.of(owner).verdict(),
                None => whole.clone(),
            },
            AddressVerdict::InUse { .. } => self.conflict(whole),
            // That no gateway serves the Service may be the reason why none owns the address.
            _ if !whole.status => whole.clone(),
            AddressVerdict::Vouched { owner, .. } => ProgrammedCondition::not(
                "GatewayBehind",
                format!(
                    "{} Whether {owner} serves the Service is not known",
                    self.verdict.sentence(address, self.lasts)
                ),
            ),
            AddressVerdict::Unowned { .. } if self.lasts || !serving.are_processes => {
                let sentence = self.verdict.sentence(address, self.lasts);
                ProgrammedCondition::not(ADDRESS_NOT_ANNOUNCED, sentence)
            }
            AddressVerdict::Unowned { .. } | AddressVerdict::Unheard => ProgrammedCondition::not(
                "GatewayBehind",
                format!("No gateway has said yet that it announces {address}"),
            ),
        }
    }

    fn conflict(&self, otherwise: &ProgrammedCondition) -> ProgrammedCondition {
        let sentence = self.verdict.conflict_sentence(self.address, self.lasts);
        sentence.map_or_else(
            || otherwise.clone(),
            |sentence| ProgrammedCondition::not(ADDRESS_CONFLICT, sentence),
        )
    }
}

/// What the condition `Announced` says: as MetalLB tells it in the Event `nodeAssigned`. Nothing where no address
/// has an owner.
pub(crate) fn announced_sentence(announced: &[Layer2Address<'_>]) -> Option<String> {
    let owned: Vec<_> = announced
        .iter()
        .filter_map(|it| Some((it.address, it.verdict.owner()?)))
        .collect();
    let (_, first) = owned.first()?;
    let from = match owned.iter().all(|(_, owner)| owner == first) {
        true => format!("from node \"{first}\""),
        false => {
            let each = owned.iter();
            let each = each.map(|(address, owner)| format!("{address} from node \"{owner}\""));
            each.collect::<Vec<_>>().join(" and ")
        }
    };
    Some(format!("announcing {from} with protocol \"layer2\""))
}

/// What the condition `AddressConflict` says; nothing where there is none.
pub(crate) fn conflict_sentence(announced: &[Layer2Address<'_>]) -> Option<String> {
    let sentences: Vec<String> = announced
        .iter()
        .filter_map(|it| it.verdict.conflict_sentence(it.address, it.lasts))
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}
