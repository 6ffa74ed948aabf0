//! Which endpoints get traffic: all rules about readiness, traffic policy, topology, weight and the guard, in one
//! pure function.
//!
//! The rules are those of Kubernetes' `CategorizeEndpoints` (`pkg/proxy/topology.go`), and some of a gateway's own.
//! In this order:
//! 1. an endpoint that must never be dialled, or is in maintenance (weight 0), is left out first, even where it is
//!    the last one;
//! 2. `externalTrafficPolicy: Local` on a node of the cluster leaves that node's endpoints;
//! 3. those that are ready get the traffic, and of these not the ones that an operator drains, unless no other is
//!    ready;
//! 4. of these, topology hints leave the ones for this node (KEP-3015) or this zone (KEP-4444), provided every ready
//!    endpoint has hints and at least one is hinted for here; never together with rule 2, as in kube-proxy. Who is in
//!    no zone that is known, and on no node, goes by none. (Where nobody writes hints, [`crate::build`] makes them
//!    from `trafficDistribution`.)
//! 5. where none is ready, those that are serving and terminating get it (KEP-1669);
//! 6. a Service with a selector that is left with both families keeps its first one: its slices
//!    list each pod once per family, and a proxy reaches either from any VIP.

use std::cmp::Reverse;
use std::sync::Arc;

use fairway_config::drained::DrainedEndpoints;
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
    /// Why it is left out in any case: forwarding to node ports, and the node is excluded.
    pub barred: Option<&'a str>,
}

/// The input of the rules, apart from the endpoints.
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
    /// What an operator drains.
    pub drained: &'a DrainedEndpoints,
    /// Whether an address may be dialled.
    pub check: &'a dyn Fn(EndpointAddr) -> Result<(), Refusal>,
}

/// The result of the rules. It borrows from the candidates, because it is usually the same as before, and then
/// nothing has to be allocated.
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
    /// The result as an [`EndpointSet`].
    pub fn set(&self) -> EndpointSet {
        EndpointSet::new(self.kept.iter().map(admit).collect(), self.excluded.clone())
    }

    /// Whether the result equals this set.
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

/// Applies the rules to `candidates`, which may come in any order and with duplicates. Duplicates are merged as in
/// kube-proxy: a ready one counts before a serving one, and that before the others.
pub fn eligible<'a>(
    candidates: impl IntoIterator<Item = EndpointCandidate<'a>>,
    policy: &Policy<'_>,
) -> Eligible<'a> {
    let mut excluded = Vec::new();
    // Endpoints that are left out are removed from the list.
    let mut left = merge(candidates);
    retain(&mut left, &mut excluded, |candidate| {
        barred(candidate, policy)
    });

    let is_ready = |candidate: &&EndpointCandidate<'_>| candidate.ready || policy.publish_not_ready;
    if !policy.drained.is_empty() {
        let drained = |it: &EndpointCandidate<'_>| {
            let node = it.node.map(|node| &**node);
            policy
                .drained
                .since(it.addr, node)
                .filter(|_| is_ready(&it))
        };
        let is_other = |it: &EndpointCandidate<'_>| is_ready(&it) && drained(it).is_none();
        if left.iter().any(is_other) {
            retain(&mut left, &mut excluded, |it| {
                drained(it).map(Exclusion::Draining)
            });
        }
    }
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

/// Removes the candidates that there is a reason to exclude.
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
    // The first fields decide which duplicate counts. The others make the result independent of the order.
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

/// Why a candidate is left out, whatever the others are.
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

/// How topology hints are applied.
enum Hints<'a> {
    /// They are not: all endpoints stay.
    Ignored,
    /// Endpoints with a hint for this node stay.
    Node(&'a str),
    /// Endpoints with a hint for this zone stay.
    Zone(&'a str),
}

impl<'a> Hints<'a> {
    /// How the hints of the ready endpoints are applied.
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
