//! Which endpoints get traffic: every readiness, traffic-policy, topology, weight and guard rule,
//! in one pure function.
//!
//! The rules are those of Kubernetes' `CategorizeEndpoints` (`pkg/proxy/topology.go`), with what a
//! gateway has on top of them. In this order:
//! 1. what must never be dialled, or is in maintenance (weight 0), is out before all else, even
//!    where it is the last one;
//! 2. `externalTrafficPolicy: Local` on a node of the cluster leaves that node's endpoints;
//! 3. those that are ready get the traffic;
//! 4. of these, topology hints leave the ones for this node (KEP-3015) or this zone (KEP-4444),
//!    provided every ready endpoint has hints and at least one is hinted for here; never together
//!    with rule 2, as in kube-proxy;
//! 5. where none is ready, those that are serving and terminating get it (KEP-1669);
//! 6. a Service with a selector that is left with both families keeps its first one: its slices
//!    list each pod once per family, and a proxy reaches either from any VIP.

use std::cmp::Reverse;
use std::sync::Arc;

use fairway_config::names::ClusterName;
use fairway_config::net::{EndpointAddr, IpFamily};

use crate::guard::Refusal;
use crate::route::{Endpoint, EndpointSet, Excluded, Exclusion};

/// An endpoint before the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointCandidate<'a> {
    /// Where it would be dialled.
    pub addr: EndpointAddr,
    /// Gets traffic in the usual way.
    pub ready: bool,
    /// Answers, ready or not.
    pub serving: bool,
    /// Is on its way out.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<&'a ClusterName>,
    /// The zones it is hinted for.
    pub for_zones: &'a [Arc<str>],
    /// The nodes it is hinted for.
    pub for_nodes: &'a [ClusterName],
    /// Its share; 0 is maintenance.
    pub weight: u16,
    /// Its name for people.
    pub target: Option<&'a Arc<str>>,
    /// It is out, whatever else holds of it: forwarding to node ports, and the node is left out;
    /// the words say why.
    pub barred: Option<&'a str>,
}

/// What the rules go by, apart from the endpoints.
pub struct Policy<'a> {
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Only endpoints of this node: `externalTrafficPolicy: Local` on a node of the cluster.
    pub only_node: Option<&'a str>,
    /// The node that hints are compared with.
    pub node: Option<&'a str>,
    /// The zone that hints are compared with.
    pub zone: Option<&'a str>,
    /// The family to keep where both are left; none: both.
    pub family: Option<IpFamily>,
    /// Whether an address may be dialled.
    pub check: &'a dyn Fn(EndpointAddr) -> Result<(), Refusal>,
}

/// What the rules come to, before it is known whether it is what was there: that is usual, and then
/// nothing has to be made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Eligible<'a> {
    /// Those that get traffic, ordered by address.
    pub kept: Vec<EndpointCandidate<'a>>,
    /// Those that don't, and why, ordered by address.
    pub excluded: Vec<Excluded>,
    /// None is ready: those that get traffic are serving and terminating.
    pub fallback: bool,
}

impl Eligible<'_> {
    /// Both as a value of their own.
    pub fn set(&self) -> EndpointSet {
        EndpointSet::new(self.kept.iter().map(admit).collect(), self.excluded.clone())
    }

    /// Whether that value would be this one.
    pub fn is(&self, set: &EndpointSet) -> bool {
        let same = |(kept, endpoint): (&EndpointCandidate<'_>, &Endpoint)| {
            kept.addr == endpoint.addr
                && kept.weight == endpoint.weight
                && kept.node == endpoint.node.as_ref()
                && kept.target == endpoint.target.as_ref()
        };
        self.kept.len() == set.eligible.len()
            && self.kept.iter().zip(&set.eligible).all(same)
            && self.excluded == set.excluded
    }
}

/// Applies the rules to `candidates`, in any order and with duplicates, which are merged as
/// kube-proxy does: the ready one wins over the serving one over the rest.
pub fn eligible<'a>(
    candidates: impl IntoIterator<Item = EndpointCandidate<'a>>,
    policy: &Policy<'_>,
) -> Eligible<'a> {
    let mut excluded = Vec::new();
    // The list is worked on where it is: what is out leaves it.
    let mut left = merge(candidates);
    retain(&mut left, &mut excluded, |candidate| {
        barred(candidate, policy)
    });

    let is_ready = |candidate: &&EndpointCandidate<'_>| candidate.ready || policy.publish_not_ready;
    let fallback = !left.iter().any(|candidate| is_ready(&candidate));
    let hints = Hints::of(left.iter().filter(is_ready), policy);
    retain(&mut left, &mut excluded, |candidate| {
        let serves = candidate.serving && candidate.terminating;
        if fallback {
            (!serves).then_some(Exclusion::NotReady)
        } else if !is_ready(&candidate) {
            Some(if serves {
                Exclusion::Terminating
            } else {
                Exclusion::NotReady
            })
        } else {
            (!hints.admit(candidate)).then_some(Exclusion::Hinted)
        }
    });

    if let Some(family) = policy.family
        && left.iter().any(|candidate| family_of(candidate) == family)
    {
        retain(&mut left, &mut excluded, |candidate| {
            (family_of(candidate) != family).then_some(Exclusion::OtherFamily)
        });
    }

    excluded.sort_by_key(|excluded| excluded.addr);
    let fallback = fallback && !left.is_empty();
    Eligible {
        kept: left,
        excluded,
        fallback,
    }
}

/// Takes out those that there is a reason to exclude.
fn retain(
    left: &mut Vec<EndpointCandidate<'_>>,
    excluded: &mut Vec<Excluded>,
    why: impl Fn(&EndpointCandidate<'_>) -> Option<Exclusion>,
) {
    left.retain(|candidate| {
        let why = why(candidate);
        let stays = why.is_none();
        excluded.extend(why.map(|why| exclude(candidate, why)));
        stays
    });
}

/// One candidate for each address, ordered by it.
fn merge<'a>(
    candidates: impl IntoIterator<Item = EndpointCandidate<'a>>,
) -> Vec<EndpointCandidate<'a>> {
    let mut all: Vec<_> = candidates.into_iter().collect();
    // What decides comes first, the rest makes the outcome free of order.
    all.sort_unstable_by(|a, b| {
        let key = |c: &EndpointCandidate<'a>| {
            (
                c.addr,
                c.barred.is_some(),
                Reverse((c.ready, c.serving, !c.terminating)),
                Reverse(c.weight),
            )
        };
        key(a).cmp(&key(b)).then_with(|| {
            let rest =
                |c: &EndpointCandidate<'a>| (c.node, c.target, c.for_zones, c.for_nodes, c.barred);
            rest(a).cmp(&rest(b))
        })
    });
    all.dedup_by_key(|candidate| candidate.addr);
    all
}

/// Why a candidate is out whatever the others are.
fn barred(candidate: &EndpointCandidate<'_>, policy: &Policy<'_>) -> Option<Exclusion> {
    if let Err(refusal) = (policy.check)(candidate.addr) {
        return Some(Exclusion::Refused(refusal.to_string()));
    }
    if let Some(why) = candidate.barred {
        return Some(Exclusion::NodeExcluded(why.to_owned()));
    }
    if candidate.weight == 0 {
        return Some(Exclusion::WeightZero);
    }
    let elsewhere = policy
        .only_node
        .is_some_and(|here| candidate.node.is_none_or(|node| &**node != here));
    elsewhere.then_some(Exclusion::NotLocal)
}

/// What topology hints leave.
enum Hints<'a> {
    /// Everything.
    Ignored,
    /// What is hinted for this node.
    Node(&'a str),
    /// What is hinted for this zone.
    Zone(&'a str),
}

impl<'a> Hints<'a> {
    /// How the hints of the ready endpoints are to be taken.
    fn of<'r, 'c: 'r>(
        ready: impl Iterator<Item = &'r EndpointCandidate<'c>> + Clone,
        policy: &Policy<'a>,
    ) -> Self {
        if policy.only_node.is_some() {
            return Self::Ignored;
        }
        let usable = |hints: fn(&EndpointCandidate<'c>) -> &'c [Arc<str>], here: &str| {
            ready.clone().all(|candidate| !hints(candidate).is_empty())
                && ready.clone().any(|candidate| names(hints(candidate), here))
        };
        match (policy.node, policy.zone) {
            (Some(node), _) if usable(|candidate| candidate.for_nodes, node) => Self::Node(node),
            (_, Some(zone)) if usable(|candidate| candidate.for_zones, zone) => Self::Zone(zone),
            _ => Self::Ignored,
        }
    }

    fn admit(&self, candidate: &EndpointCandidate<'_>) -> bool {
        match self {
            Self::Ignored => true,
            Self::Node(node) => names(candidate.for_nodes, node),
            Self::Zone(zone) => names(candidate.for_zones, zone),
        }
    }
}

fn names(hints: &[Arc<str>], here: &str) -> bool {
    hints.iter().any(|hint| &**hint == here)
}

fn family_of(candidate: &EndpointCandidate<'_>) -> IpFamily {
    IpFamily::of(candidate.addr.0.ip())
}

fn admit(candidate: &EndpointCandidate<'_>) -> Endpoint {
    Endpoint {
        addr: candidate.addr,
        weight: candidate.weight,
        node: candidate.node.cloned(),
        target: candidate.target.cloned(),
    }
}

fn exclude(candidate: &EndpointCandidate<'_>, why: Exclusion) -> Excluded {
    Excluded {
        addr: candidate.addr,
        node: candidate.node.cloned(),
        why,
    }
}

#[cfg(test)]
mod tests;
