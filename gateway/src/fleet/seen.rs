//! How an address is on all segments together, and what is answered to the controller's probe of it.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{AddressConflict, Successor};
use fairway_config::names::ClusterName;
use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::layer2::ProbeOutcome;

use super::reports::SeenAddress;
use super::segment::SegmentProblem;
use super::thread::{FleetLoop, day_of};
use crate::announcing::{NotAnnounced, ProbedAddress};

impl FleetLoop {
    /// The addresses whose probe by the controller can be answered now, and was not before.
    pub(super) fn newly_answered(&self, now: BootTime) -> Vec<IpAddr> {
        let probing = self.probing.iter();
        let unanswered = probing.filter(|(address, it)| {
            self.standings.answered(**address) != Some(it.number)
                && self.answer(**address, it, now).is_some()
        });
        unanswered.map(|(address, _)| *address).collect()
    }

    /// What is to be answered to the controller's probe of an address; none: nothing yet, or others are asked.
    fn answer(
        &self,
        address: IpAddr,
        probed: &ProbedAddress,
        now: BootTime,
    ) -> Option<ProbeOutcome> {
        let pool = self.pools.get(&probed.pool);
        if !pool.is_some_and(|pool| pool.owners.contains(&self.inputs.own)) {
            return Some(ProbeOutcome::Unknown);
        }
        let segments = self.segments.values();
        let there = segments.filter(|it| it.segment.addresses.contains(&address));
        let number = probed.number;
        let (left, own): (Vec<_>, Vec<_>) = there.partition(|it| it.leaves(address, number, now));
        if own.is_empty() && !left.is_empty() {
            return None;
        }
        let mut answer = ProbeOutcome::Unknown;
        for segment in own {
            match segment.answer(address, probed.number, now)? {
                taken @ ProbeOutcome::Taken(_) => return Some(taken),
                ProbeOutcome::Free => answer = ProbeOutcome::Free,
                ProbeOutcome::Unknown => {}
            }
        }
        Some(answer)
    }

    /// An address as it is on all segments; none: it is announced no more, and nobody asks for it.
    pub(super) fn seen(&self, address: IpAddr, now: BootTime) -> Option<SeenAddress> {
        let announceable = self.inputs.announceable.borrow();
        let announced = announceable.addresses.get(&address);
        let announced = announced.filter(|it| it.announcement.layer2.is_some());
        let probed = self.probing.get(&address);
        let pool_name = match (announced, probed) {
            (Some(announced), _) => &announced.pool,
            (None, Some(probed)) => &probed.pool,
            (None, None) => return None,
        };
        let own = &self.inputs.own;
        let mut seen = SeenAddress::default();
        for (interface, it) in &self.segments {
            if !it.segment.addresses.contains(&address) {
                continue;
            }
            seen.interfaces.insert(interface.clone());
            seen.has_members |= !it.segment.members.is_empty();
            if let Some(term) = it.fleet.term(address) {
                seen.owned.insert(interface.clone());
                let passed = (it.index(), address);
                seen.predecessor = self.passed.get(&passed).and_then(|to| {
                    let state = self.inputs.passing.state(passed, to)?;
                    Some((to.gateway.clone(), state))
                });
                if term >= seen.term {
                    seen.term = term;
                    seen.taken_from = it.fleet.taken_from(address).cloned();
                }
                let pool = announceable.pools.get(pool_name).map(Arc::as_ref);
                let successor = it.successor(own, address, pool, now);
                // Where one segment has nobody to take it, that is what people have to know.
                if !matches!(seen.successor, Some(Successor::Nobody(_))) {
                    seen.successor = Some(successor);
                }
            } else if let Some(other) = it.other_owner(own, address, now) {
                seen.owner = seen.owner.max(Some(other));
            }
            let problem = it.problem.as_ref().map(SegmentProblem::to_string);
            seen.inability = seen.inability.or(problem);
            if let Some((hardware, since)) = it.probes.taken(address)
                && !it.fleet.had_owner(address)
            {
                seen.conflict = Some(AddressConflict {
                    hardware_address: hardware.to_string().into(),
                    since: day_of(since, now),
                });
            }
        }
        seen.draining.clone_from(&announceable.draining);
        let answer = probed.and_then(|it| Some((it.number, self.answer(address, it, now)?)));
        seen.probe = answer.map(|(number, _)| number);
        seen.is_free = answer.is_some_and(|(_, it)| it == ProbeOutcome::Free);
        if !seen.owned.is_empty() {
            return Some(seen);
        }
        let pool = announceable.pools.get(pool_name);
        let owns = |name: &ClusterName| pool.is_some_and(|pool| pool.owners.contains(name));
        let may_own = owns(own);
        let is_ready = |name: &ClusterName| {
            let mut segments = self.segments.values();
            segments.any(|it| it.fleet.is_ready(name, now))
        };
        let of_address = if seen.interfaces.is_empty() {
            Some(
                "no interface of this host has a subnet with it, and there is no default route"
                    .to_owned(),
            )
        } else if let Some(inability) = &self.inability {
            Some(inability.clone())
        } else if !may_own {
            Some(format!(
                "the nodeSelector of the pool {pool_name} does not select this gateway's node"
            ))
        } else if let Some(reason) = announced.map_or(Some(NotAnnounced::NotServed), |it| {
            it.not_announced(|name| owns(name) && is_ready(name))
        }) {
            Some(reason.as_str().to_owned())
        } else if self.segments.values().any(|it| it.is_asking(address)) {
            Some("it is asked first whether another host uses it".to_owned())
        } else {
            None
        };
        seen.inability = seen.inability.or(of_address);
        Some(seen)
    }
}
