//! Which addresses of a segment are used by another host, as far as was asked on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::layer2::{HardwareAddress, ProbeOutcome, ProbeResult};

use crate::layer2::Layer2;

/// While another host uses an address, it is asked again after this time.
const AGAIN: Duration = Duration::from_secs(10);

/// It is asked again after this time where it could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the addresses of one segment.
#[derive(Debug, Default)]
pub(super) struct WireProbes {
    known: BTreeMap<IpAddr, WireProbe>,
    open: Vec<ProbeRound>,
}

/// Addresses that were asked for together.
#[derive(Debug)]
struct ProbeRound {
    results: Receiver<ProbeResult>,
    /// Those without a result yet.
    left: BTreeSet<IpAddr>,
}

/// An address that was asked for.
#[derive(Clone, Copy, Debug)]
struct WireProbe {
    /// The number of the controller's probe; 0: this gateway asks for itself.
    number: u64,
    is_open: bool,
    /// What came of it the last time, and when.
    result: Option<(ProbeOutcome, BootTime)>,
    /// Since when another host has it.
    taken_since: Option<BootTime>,
}

impl WireProbes {
    /// Asks for these addresses, each for the controller's probe of that number.
    pub(super) fn ask(&mut self, layer2: &Layer2, interface: &str, asked: BTreeMap<IpAddr, u64>) {
        if asked.is_empty() {
            return;
        }
        let left: BTreeSet<IpAddr> = asked.keys().copied().collect();
        for (address, number) in asked {
            let before = self.known.get(&address);
            let probe = WireProbe {
                number,
                is_open: true,
                // Until there is an answer to this one, that to the last one stands.
                result: before
                    .filter(|it| it.number == number)
                    .and_then(|it| it.result),
                taken_since: before.and_then(|it| it.taken_since),
            };
            self.known.insert(address, probe);
        }
        let results = layer2.probe(interface, left.iter().copied().collect());
        self.open.push(ProbeRound { results, left });
    }

    /// Takes the results that have come.
    pub(super) fn collect(&mut self, now: BootTime) {
        let known = &mut self.known;
        let mut unanswered = BTreeSet::new();
        self.open.retain_mut(|round| {
            loop {
                match round.results.try_recv() {
                    Ok(ProbeResult { address, outcome }) => {
                        round.left.remove(&address);
                        if let Some(probe) = known.get_mut(&address) {
                            probe.end(outcome, now);
                        }
                    }
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => {
                        unanswered.append(&mut round.left);
                        return false;
                    }
                }
            }
        });
        for address in unanswered {
            // Nobody is left to answer, unless it was asked again.
            if !self.open.iter().any(|round| round.left.contains(&address))
                && let Some(probe) = self.known.get_mut(&address)
            {
                probe.end(ProbeOutcome::Unknown, now);
            }
        }
    }

    /// Forgets all but these, and what was found a moment ago: the address that it was may be given out now.
    pub(super) fn retain(&mut self, addresses: &BTreeSet<IpAddr>, now: BootTime) {
        let is_recent = |it: &WireProbe| it.result.is_some_and(|(_, at)| now.since(at) < AGAIN);
        self.known
            .retain(|address, it| addresses.contains(address) || is_recent(it));
    }

    /// Whether it is time to ask for an address for this gateway itself.
    pub(super) fn is_due(&self, address: IpAddr, now: BootTime) -> bool {
        let Some(probe) = self.known.get(&address) else {
            return true;
        };
        match probe.result {
            _ if probe.is_open => false,
            Some((ProbeOutcome::Taken(_), at)) => now.since(at) >= AGAIN,
            Some((ProbeOutcome::Free | ProbeOutcome::Unknown, at)) => now.since(at) >= RETRY,
            None => true,
        }
    }

    /// When nobody had an address the last time that it was asked for, if so.
    pub(super) fn free_at(&self, address: IpAddr) -> Option<BootTime> {
        match self.known.get(&address)?.result? {
            (ProbeOutcome::Free, at) => Some(at),
            (ProbeOutcome::Taken(_) | ProbeOutcome::Unknown, _) => None,
        }
    }

    /// Who has an address, and since when.
    pub(super) fn taken(&self, address: IpAddr) -> Option<(HardwareAddress, BootTime)> {
        let probe = self.known.get(&address)?;
        match probe.result? {
            (ProbeOutcome::Taken(hardware), at) => {
                Some((hardware, probe.taken_since.unwrap_or(at)))
            }
            (ProbeOutcome::Free | ProbeOutcome::Unknown, _) => None,
        }
    }

    /// The number of the controller's probe for which an address was asked for last.
    pub(super) fn number(&self, address: IpAddr) -> Option<u64> {
        Some(self.known.get(&address)?.number)
    }

    /// What came of the controller's probe of this number; none: nothing yet.
    pub(super) fn outcome(&self, address: IpAddr, number: u64) -> Option<ProbeOutcome> {
        let probe = self.known.get(&address).filter(|it| it.number == number)?;
        probe.result.map(|(outcome, _)| outcome)
    }
}

impl WireProbe {
    fn end(&mut self, outcome: ProbeOutcome, now: BootTime) {
        self.is_open = false;
        self.taken_since = match outcome {
            ProbeOutcome::Taken(_) => self.taken_since.or(Some(now)),
            ProbeOutcome::Free => None,
            ProbeOutcome::Unknown => self.taken_since,
        };
        self.result = Some((outcome, now));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    const NOW: BootTime = BootTime(Duration::from_secs(100));

    fn address(n: u8) -> IpAddr {
        [203, 0, 113, n].into()
    }

    /// Asks for these addresses. The answers are to come from there.
    fn asked(probes: &mut WireProbes, addresses: &[IpAddr]) -> Sender<ProbeResult> {
        let (sender, results) = channel();
        for address in addresses {
            let probe = WireProbe {
                number: 0,
                is_open: true,
                result: None,
                taken_since: None,
            };
            probes.known.insert(*address, probe);
        }
        let left = addresses.iter().copied().collect();
        probes.open.push(ProbeRound { results, left });
        sender
    }

    #[test]
    fn an_address_whose_answer_will_not_come_waits_for_no_other_one() {
        let mut probes = WireProbes::default();
        let (one, two) = (address(1), address(2));
        let slow = asked(&mut probes, &[one]);
        drop(asked(&mut probes, &[two]));
        probes.collect(NOW);
        assert_eq!(probes.outcome(one, 0), None);
        assert_eq!(probes.outcome(two, 0), Some(ProbeOutcome::Unknown));
        // What is asked again has another answer to come.
        drop(slow);
        let again = asked(&mut probes, &[one]);
        probes.collect(NOW);
        assert_eq!(probes.outcome(one, 0), None);
        let outcome = ProbeOutcome::Free;
        again
            .send(ProbeResult {
                address: one,
                outcome,
            })
            .unwrap();
        probes.collect(NOW);
        assert_eq!(probes.free_at(one), Some(NOW));
    }

    #[test]
    fn what_was_found_is_known_when_the_address_is_given_out_a_moment_later() {
        let mut probes = WireProbes::default();
        let answers = asked(&mut probes, &[address(1)]);
        let (address, outcome) = (address(1), ProbeOutcome::Free);
        answers.send(ProbeResult { address, outcome }).unwrap();
        probes.collect(NOW);
        probes.retain(&BTreeSet::new(), NOW.after(AGAIN / 2));
        assert_eq!(probes.free_at(address), Some(NOW));
        probes.retain(&BTreeSet::new(), NOW.after(AGAIN));
        assert_eq!(probes.free_at(address), None);
    }
}
