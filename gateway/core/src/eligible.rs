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
use crate::route::{Endpoint, EndpointSet, Excluded, Why};

/// An endpoint before the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
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
    /// It is out, whatever else holds of it: forwarding to node ports, and the node is left out.
    pub barred: Option<Why>,
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

/// What the rules come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Eligible {
    /// Those that get traffic, and why the others don't.
    pub set: EndpointSet,
    /// None is ready: those that get traffic are serving and terminating.
    pub fallback: bool,
}

/// Applies the rules to `candidates`, in any order and with duplicates, which are merged as
/// kube-proxy does: the ready one wins over the serving one over the rest.
pub fn eligible<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    policy: &Policy<'_>,
) -> Eligible {
    let mut excluded = Vec::new();
    let mut left = Vec::new();
    for candidate in merge(candidates) {
        match barred(&candidate, policy) {
            Some(why) => excluded.push(exclude(&candidate, why)),
            None => left.push(candidate),
        }
    }

    let is_ready = |candidate: &Candidate<'_>| candidate.ready || policy.publish_not_ready;
    let fallback = !left.iter().any(is_ready);
    let hints = Hints::of(left.iter().filter(|candidate| is_ready(candidate)), policy);
    let mut kept = Vec::with_capacity(left.len());
    for candidate in left {
        let why = if fallback {
            (!(candidate.serving && candidate.terminating)).then_some(Why::NotReady)
        } else if !is_ready(&candidate) {
            let serves = candidate.serving && candidate.terminating;
            Some(if serves {
                Why::Terminating
            } else {
                Why::NotReady
            })
        } else {
            (!hints.admit(&candidate)).then_some(Why::Hinted)
        };
        match why {
            Some(why) => excluded.push(exclude(&candidate, why)),
            None => kept.push(candidate),
        }
    }

    if let Some(family) = policy.family
        && kept.iter().any(|candidate| family_of(candidate) == family)
    {
        kept.retain(|candidate| {
            let keep = family_of(candidate) == family;
            if !keep {
                excluded.push(exclude(candidate, Why::OtherFamily));
            }
            keep
        });
    }

    excluded.sort_by_key(|excluded| excluded.addr);
    let fallback = fallback && !kept.is_empty();
    let eligible = kept.iter().map(admit).collect();
    Eligible {
        set: EndpointSet::new(eligible, excluded),
        fallback,
    }
}

/// One candidate for each address, ordered by it.
fn merge<'a>(candidates: impl IntoIterator<Item = Candidate<'a>>) -> Vec<Candidate<'a>> {
    let mut all: Vec<_> = candidates.into_iter().collect();
    // What decides comes first, the rest makes the outcome free of order.
    all.sort_by(|a, b| {
        let key = |c: &Candidate<'a>| {
            (
                c.addr,
                c.barred.is_some(),
                Reverse((c.ready, c.serving, !c.terminating)),
                Reverse(c.weight),
            )
        };
        key(a).cmp(&key(b)).then_with(|| {
            let rest = |c: &Candidate<'a>| (c.node, c.target, c.for_zones, c.for_nodes);
            rest(a).cmp(&rest(b))
        })
    });
    all.dedup_by_key(|candidate| candidate.addr);
    all
}

/// Why a candidate is out whatever the others are.
fn barred(candidate: &Candidate<'_>, policy: &Policy<'_>) -> Option<Why> {
    if let Err(refusal) = (policy.check)(candidate.addr) {
        return Some(Why::Refused(refusal.to_string()));
    }
    if let Some(why) = &candidate.barred {
        return Some(why.clone());
    }
    if candidate.weight == 0 {
        return Some(Why::WeightZero);
    }
    let elsewhere = policy
        .only_node
        .is_some_and(|here| candidate.node.is_none_or(|node| &**node != here));
    elsewhere.then_some(Why::NotLocal)
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
    fn of<'c>(ready: impl Iterator<Item = &'c Candidate<'c>> + Clone, policy: &Policy<'a>) -> Self {
        if policy.only_node.is_some() {
            return Self::Ignored;
        }
        let usable = |hints: fn(&Candidate<'c>) -> &'c [Arc<str>], here: &str| {
            ready.clone().all(|candidate| !hints(candidate).is_empty())
                && ready.clone().any(|candidate| names(hints(candidate), here))
        };
        match (policy.node, policy.zone) {
            (Some(node), _) if usable(|candidate| candidate.for_nodes, node) => Self::Node(node),
            (_, Some(zone)) if usable(|candidate| candidate.for_zones, zone) => Self::Zone(zone),
            _ => Self::Ignored,
        }
    }

    fn admit(&self, candidate: &Candidate<'_>) -> bool {
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

fn family_of(candidate: &Candidate<'_>) -> IpFamily {
    IpFamily::of(candidate.addr.0.ip())
}

fn admit(candidate: &Candidate<'_>) -> Endpoint {
    Endpoint {
        addr: candidate.addr,
        weight: candidate.weight,
        node: candidate.node.cloned(),
        target: candidate.target.cloned(),
    }
}

fn exclude(candidate: &Candidate<'_>, why: Why) -> Excluded {
    Excluded {
        addr: candidate.addr,
        node: candidate.node.cloned(),
        why,
    }
}

#[cfg(test)]
mod tests;
