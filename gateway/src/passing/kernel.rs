//! What is in the kernel: the program, its maps, and its links to interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_gateway_core::layer2::HardwareAddress;

use super::board::PassedAddress;
use super::program::{KEY, PACKET, PassingMaps, RECORD, TUPLE, VALUE, key, program, value};
use crate::bpf::{self, Map};
use crate::steering::Inquiry;

/// The most addresses. An entry takes memory when it is added.
const ADDRESSES: u32 = 1 << 16;

/// How many connections that begin or end are known at once. One is needed for the time from a SYN to the client's answer,
/// and from a client's FIN until it hears the answer. They take 7 MB while something is passed.
const BEGUN: u32 = 1 << 16;

/// How many packets are known at once whose fragments are passed.
const FRAGMENTED: u32 = 1 << 12;

/// The shortest time after which the program goes to the front again on an interface: another one may want to be there,
/// too, and two must not do that without end.
const FRONT: Duration = Duration::from_secs(10);

/// The program on an interface.
#[derive(Debug)]
struct IngressLink {
    /// The kernel's number of the program.
    number: u32,
    since: Instant,
    _link: OwnedFd,
}

/// See the module.
#[derive(Debug)]
pub(super) struct PassingProgram {
    /// Loaded and attached to no interface yet.
    program: Option<OwnedFd>,
    passed: Map<KEY, VALUE>,
    /// The program alone reads and writes it.
    begun: Map<TUPLE, RECORD>,
    /// This one, too.
    fragments: Map<PACKET, 8>,
    count: Map<4, 8>,
    inquiry: Arc<Inquiry>,
    /// How many packets were counted before.
    counted: u64,
    links: BTreeMap<u32, IngressLink>,
    entries: BTreeMap<PassedAddress, HardwareAddress>,
    /// How many entries were set; it begins anew at the end.
    predecessors: u16,
}

impl PassingProgram {
    /// Loads the program. It is attached to no interface yet.
    ///
    /// # Errors
    /// The process may not (CAP_BPF and CAP_NET_ADMIN), or the kernel can't.
    pub(super) fn load(inquiry: &Arc<Inquiry>) -> io::Result<Self> {
        let mut new = Self {
            program: None,
            passed: bpf::hash(ADDRESSES)?,
            begun: bpf::lru_hash(BEGUN)?,
            fragments: bpf::lru_hash(FRAGMENTED)?,
            count: bpf::counter()?,
            inquiry: inquiry.clone(),
            counted: 0,
            links: BTreeMap::new(),
            entries: BTreeMap::new(),
            predecessors: 0,
        };
        new.program = Some(new.load_again()?);
        Ok(new)
    }

    /// The program once more: the kernel runs each one only once for a packet.
    fn load_again(&self) -> io::Result<OwnedFd> {
        bpf::load_for_ingress(&program(PassingMaps {
            passed: self.passed.number(),
            begun: self.begun.number(),
            fragments: self.fragments.number(),
            count: self.count.number(),
            inquiry: self.inquiry.number(),
        }))
    }

    /// Passes packets of these addresses, and of no other ones. Returns those of which it can't, and why.
    pub(super) fn set(
        &mut self,
        wanted: &BTreeMap<PassedAddress, HardwareAddress>,
    ) -> BTreeMap<PassedAddress, io::Error> {
        let mut failed = BTreeMap::new();
        self.entries.retain(|address, hardware| {
            let is_kept = wanted.contains_key(address);
            if !is_kept {
                // It fails where there is none.
                let _ = self.passed.remove(key(address.1, address.0));
            }
            is_kept && wanted.get(address) == Some(hardware)
        });
        for (address, hardware) in wanted {
            if self.entries.contains_key(address) {
                continue;
            }
            self.predecessors = self.predecessors.wrapping_add(1);
            let value = value(*hardware, self.predecessors);
            match self.passed.set(key(address.1, address.0), value) {
                Ok(()) => drop(self.entries.insert(*address, *hardware)),
                Err(error) => {
                    // Nor to whom it was before.
                    let _ = self.passed.remove(key(address.1, address.0));
                    failed.insert(*address, error);
                }
            }
        }
        let interfaces: BTreeSet<u32> = wanted.keys().map(|(interface, _)| *interface).collect();
        self.links
            .retain(|interface, _| interfaces.contains(interface));
        for interface in interfaces {
            if let Err(error) = self.go_first(interface) {
                let there = wanted.keys().filter(|(it, _)| *it == interface);
                let all = there.map(|address| (*address, copy(&error)));
                failed.extend(all);
            }
        }
        failed
    }

    /// Has the program be the first one on an interface: another one that takes a packet, as a CNI's does, ends the row.
    fn go_first(&mut self, interface: u32) -> io::Result<()> {
        if let Some(former) = self.links.get(&interface) {
            let row = bpf::ingress_programs(interface)?;
            let is_there = row.contains(&former.number);
            if row.first() == Some(&former.number) || (is_there && former.since.elapsed() < FRONT) {
                return Ok(());
            }
            tracing::info!(
                interface,
                is_there,
                "another program took packets before this gateway could pass them: it goes first again"
            );
        }
        let program = match self.program.take() {
            Some(program) => program,
            None => self.load_again()?,
        };
        let link = IngressLink {
            number: bpf::number(&program)?,
            since: Instant::now(),
            _link: bpf::attach_to_ingress(&program, interface)?,
        };
        // The former one goes when this one is there.
        self.links.insert(interface, link);
        Ok(())
    }

    /// How many packets were passed since the last call.
    pub(super) fn take_count(&mut self) -> u64 {
        // It is there as long as the map.
        let count = self.count.get([0; 4]).map(u64::from_ne_bytes);
        let count = count.unwrap_or(self.counted);
        let new = count.saturating_sub(self.counted);
        self.counted = count;
        new
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => error.kind().into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
