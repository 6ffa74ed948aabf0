//! Whether an address is free, before it is used: RFC 5227, 2.1 for IPv4 and RFC 4862, 5.4 for IPv6, both shortened to
//! less than a second.
//!
//! Whoever says that it has the address has it. Somebody who probes for the same address at the same time does not
//! count, unlike in RFC 5227: gateways of a fleet hear of a new address together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::frame::HardwareAddress;
use crate::fleet::BootTime;

/// How often it is asked, and the time in between.
const QUESTIONS: u8 = 3;
const SPACING: Duration = Duration::from_millis(200);

/// How long an answer to the last one may take.
const PATIENCE: Duration = Duration::from_millis(400);

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// The address that was asked for.
    pub address: IpAddr,
    /// Who has it.
    pub outcome: ProbeOutcome,
}

/// See [`ProbeResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Nobody answered.
    Free,
    /// This one has it.
    Taken(HardwareAddress),
    /// It could not be asked: the interface is away, or down.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Probing {
    left: u8,
    at: BootTime,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Probes {
    open: BTreeMap<IpAddr, Probing>,
    /// The same by time.
    due: BTreeSet<(BootTime, IpAddr)>,
    results: Vec<ProbeResult>,
}

impl Probes {
    pub(super) fn begin(&mut self, now: BootTime, address: IpAddr) {
        let probing = Probing {
            left: QUESTIONS,
            at: now,
        };
        self.put(address, probing);
    }

    fn put(&mut self, address: IpAddr, probing: Probing) {
        if let Some(before) = self.open.insert(address, probing) {
            self.due.remove(&(before.at, address));
        }
        self.due.insert((probing.at, address));
    }

    /// Somebody says that it has the address.
    pub(super) fn hear(&mut self, address: IpAddr, hardware: HardwareAddress) {
        if self.open.contains_key(&address) {
            self.conclude(address, ProbeOutcome::Taken(hardware));
        }
    }

    /// Nothing can be asked any more.
    pub(super) fn give_up(&mut self) {
        let open: Vec<_> = self.open.keys().copied().collect();
        for address in open {
            self.conclude(address, ProbeOutcome::Unknown);
        }
    }

    fn conclude(&mut self, address: IpAddr, outcome: ProbeOutcome) {
        if let Some(before) = self.open.remove(&address) {
            self.due.remove(&(before.at, address));
        }
        self.results.push(ProbeResult { address, outcome });
    }

    /// The address that is to be asked for next, if one is due and `may_send` agrees. Concludes those that are over.
    pub(super) fn take_due(
        &mut self,
        now: BootTime,
        may_send: impl FnOnce() -> bool,
    ) -> Option<IpAddr> {
        while let Some(&(at, address)) = self.due.first()
            && at <= now
        {
            let probing = *self.open.get(&address)?;
            if probing.left == 0 {
                self.conclude(address, ProbeOutcome::Free);
                continue;
            }
            if !may_send() {
                return None;
            }
            let left = probing.left - 1;
            let next = if left == 0 { PATIENCE } else { SPACING };
            let at = now.after(next);
            self.put(address, Probing { left, at });
            return Some(address);
        }
        None
    }

    /// When [`Self::take_due`] has something to do.
    pub(super) fn due_at(&self) -> Option<BootTime> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn take_results(&mut self) -> Vec<ProbeResult> {
        std::mem::take(&mut self.results)
    }
}
