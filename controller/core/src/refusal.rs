//! Why a Service has no address: the one source of these sentences, for conditions and `explain`.

use std::net::IpAddr;

use fairway_config::names::ClusterName;
use fairway_config::net::IpFamily;

use crate::holders::Clash;

/// Why a pool gives a Service no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PoolRefusal {
    /// The Service asks for another pool.
    NotRequested(ClusterName),
    /// Something in the pool can't be read or is not supported, so it gives out nothing.
    NotUsable(String),
    /// `serviceSelector` does not select it.
    Service,
    /// `namespaceSelector` does not select its namespace.
    Namespace,
    /// `autoAssign: false`, and the Service does not ask for the pool.
    NotAutomatic,
    /// It has no address of the family.
    NoFamily(IpFamily),
    /// The namespace has used up its quota.
    Quota(u32),
    /// All its addresses are held.
    Full(IpFamily, u128),
}

/// A pool that was tried and gives no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trial {
    pub(crate) pool: ClusterName,
    pub(crate) priority: i32,
    pub(crate) refusal: PoolRefusal,
}

/// Why an address is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressRefusal {
    /// What the Service asks for can't be read.
    RequestUnreadable(String),
    /// There is no AddressPool at all.
    NoPools,
    /// The pool that is asked for does not exist.
    NoSuchPool(ClusterName),
    /// No pool gives an address of this family.
    EveryPool(IpFamily, Vec<Trial>),
    /// The requested address is in no pool.
    InNoPool(IpAddr),
    /// The requested address is not in the requested pool.
    NotInPool(IpAddr, ClusterName),
    /// No pool that has the requested address gives it.
    NotGiven(IpAddr, Vec<Trial>),
    /// The requested address is a node's own.
    NodeAddress(IpAddr, ClusterName),
    /// The holder of the requested address does not share it.
    Clash(IpAddr, Clash),
    /// The requested address is of a family that `ipFamilies` leaves out.
    FamilyNotWanted(IpAddr),
    /// Only one family is available, and `RequireDualStack` needs both.
    OnlyOneFamily(IpFamily),
}

impl PoolRefusal {
    /// The CamelCase word for conditions.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotRequested(_) => "OtherPoolRequested",
            Self::NotUsable(_) => "PoolNotUsable",
            Self::Service | Self::Namespace => "NotSelected",
            Self::NotAutomatic => "NotAutoAssigned",
            Self::NoFamily(_) => "NoAddressOfFamily",
            Self::Quota(_) => "QuotaExceeded",
            Self::Full(..) => "PoolExhausted",
        }
    }

    /// Which of several refusals gives the reason: the one closest to success.
    fn closeness(&self) -> u8 {
        match self {
            Self::NotRequested(_) => 0,
            Self::Service | Self::Namespace => 1,
            Self::NoFamily(_) => 2,
            Self::NotAutomatic => 3,
            Self::NotUsable(_) => 4,
            Self::Quota(_) => 5,
            Self::Full(..) => 6,
        }
    }

    pub(crate) fn why(&self) -> String {
        match self {
            Self::NotUsable(why) => format!("it gives out nothing: {why}"),
            Self::NotRequested(pool) => format!("the Service asks for pool '{pool}'"),
            Self::Service => "its serviceSelector does not select the Service".into(),
            Self::Namespace => "its namespaceSelector does not select the namespace".into(),
            Self::NotAutomatic => {
                "it has autoAssign: false: ask for it with the annotation fairway.dev/pool".into()
            }
            Self::NoFamily(family) => format!("it has no {family} addresses"),
            Self::Quota(quota) => format!("the namespace already holds its quota of {quota}"),
            Self::Full(family, 0) => format!(
                "it has no {family} address to give: avoidEnds leaves them alone, or they are nodes', or other hosts use them"
            ),
            Self::Full(family, 1) => format!("its one {family} address is held"),
            Self::Full(family, total) => format!("all {total} {family} addresses are held"),
        }
    }
}

impl Trial {
    /// A sentence.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "Pool '{}' (priority {}) was tried: {}.",
            self.pool,
            self.priority,
            self.refusal.why()
        )
    }
}

/// How many pools a condition names; `explain` names all.
const POOLS_IN_CONDITION: usize = 8;

impl AddressRefusal {
    /// The CamelCase word for conditions.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::RequestUnreadable(_) => "RequestUnreadable",
            Self::NoPools => "NoPools",
            Self::NoSuchPool(_) => "NoSuchPool",
            Self::EveryPool(_, trials) | Self::NotGiven(_, trials) => trials
                .iter()
                .max_by_key(|trial| trial.refusal.closeness())
                .map_or("NoPools", |trial| trial.refusal.reason()),
            Self::InNoPool(_) => "AddressInNoPool",
            Self::NotInPool(..) => "AddressNotInPool",
            Self::NodeAddress(..) => "NodeAddress",
            Self::Clash(_, clash) => clash.reason(),
            Self::FamilyNotWanted(_) => "FamilyNotWanted",
            Self::OnlyOneFamily(_) => "DualStackUnavailable",
        }
    }

    /// Every sentence about it.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let one = |sentence: String| vec![sentence];
        match self {
            Self::RequestUnreadable(why) => one(format!(
                "No address is given until what is asked for can be read: {why}."
            )),
            Self::NoPools => one("There is no AddressPool: create one.".into()),
            Self::NoSuchPool(pool) => one(format!(
                "The Service asks for pool '{pool}', and there is no such AddressPool."
            )),
            Self::EveryPool(family, trials) => {
                let mut all = one(format!("No pool gives an {family} address."));
                all.extend(trials.iter().map(Trial::sentence));
                all
            }
            Self::InNoPool(address) => one(format!(
                "{address} is asked for, and is in no AddressPool: ask for one that is."
            )),
            Self::NotInPool(address, pool) => one(format!(
                "{address} is asked for together with pool '{pool}', which does not contain it."
            )),
            Self::NotGiven(address, trials) => {
                let mut all = one(format!("{address} is asked for and can't be given."));
                all.extend(trials.iter().map(Trial::sentence));
                all
            }
            Self::NodeAddress(address, node) => one(format!(
                "{address} is asked for, and is an address of node '{node}': what is sent to the node would go to the Service. Ask for another one."
            )),
            Self::Clash(address, clash) => one(format!("{address} is asked for: {}.", clash.why())),
            Self::FamilyNotWanted(address) => one(format!(
                "{address} is asked for, but ipFamilies leaves {} out.",
                IpFamily::of(*address)
            )),
            Self::OnlyOneFamily(family) => one(format!(
                "An {family} address could be had, but ipFamilyPolicy: RequireDualStack takes both families or none."
            )),
        }
    }

    /// As many sentences as fit into a condition.
    pub(crate) fn summary(&self) -> String {
        let mut sentences = self.sentences();
        let more = sentences.len().saturating_sub(POOLS_IN_CONDITION + 1);
        if more > 0 {
            sentences.truncate(POOLS_IN_CONDITION + 1);
            sentences.push(format!("{more} more pools were tried."));
        }
        sentences.join(" ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use fairway_config::names::ServiceName;
    use fairway_config::sharing::SharingClash;

    use super::*;

    /// Every one that there is, in every form.
    fn all() -> Vec<AddressRefusal> {
        let ip: IpAddr = [192, 0, 2, 1].into();
        let pools = [
            PoolRefusal::NotRequested("other".into()),
            PoolRefusal::NotUsable("spec.addresses: is empty".into()),
            PoolRefusal::Service,
            PoolRefusal::Namespace,
            PoolRefusal::NotAutomatic,
            PoolRefusal::NoFamily(IpFamily::IPv6),
            PoolRefusal::Quota(3),
            PoolRefusal::Full(IpFamily::IPv4, 0),
            PoolRefusal::Full(IpFamily::IPv4, 1),
            PoolRefusal::Full(IpFamily::IPv4, 9),
        ];
        let trials = |refusals: &[PoolRefusal]| {
            let trial = |refusal: &PoolRefusal| Trial {
                pool: "edge".into(),
                priority: 0,
                refusal: refusal.clone(),
            };
            refusals.iter().map(trial).collect::<Vec<_>>()
        };
        let holder = || ServiceName::new("web", "shop");
        let key = fairway_config::service::PortKey {
            protocol: fairway_config::net::Protocol::Tcp,
            port: 80,
        };
        let mut all = vec![
            AddressRefusal::RequestUnreadable("it is no address".to_owned()),
            AddressRefusal::NoPools,
            AddressRefusal::NoSuchPool("edge".into()),
            AddressRefusal::InNoPool(ip),
            AddressRefusal::NotInPool(ip, "edge".into()),
            AddressRefusal::NodeAddress(ip, "node".into()),
            AddressRefusal::Clash(ip, Clash::Leaving(holder())),
            AddressRefusal::Clash(ip, Clash::Sharing(holder(), SharingClash::Port(key))),
            AddressRefusal::FamilyNotWanted(ip),
            AddressRefusal::OnlyOneFamily(IpFamily::IPv4),
            AddressRefusal::EveryPool(IpFamily::IPv4, trials(&pools)),
        ];
        for refusal in &pools {
            let one = trials(std::slice::from_ref(refusal));
            all.push(AddressRefusal::EveryPool(IpFamily::IPv4, one.clone()));
            all.push(AddressRefusal::NotGiven(ip, one));
        }
        all
    }

    #[test]
    fn no_sentence_about_a_missing_address_says_that_there_is_one() {
        for refusal in all() {
            let (summary, reason) = (refusal.summary(), refusal.reason());
            for claim in [
                "is assigned",
                "are assigned",
                "is given to",
                "has its address",
            ] {
                assert!(!summary.contains(claim), "{refusal:?}: {summary}");
            }
            assert!(summary.ends_with('.') && !summary.is_empty(), "{summary}");
            assert!(!["", "Assigned"].contains(&reason), "{refusal:?}: {reason}");
            for sentence in refusal.sentences() {
                assert!(sentence.ends_with('.'), "{sentence}");
                assert!(
                    sentence.starts_with(|c: char| c.is_uppercase() || c.is_numeric()),
                    "{sentence}"
                );
            }
        }
    }
}
