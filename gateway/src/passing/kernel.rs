//! What is in the kernel: the program, its maps, and its links to interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;

use fairway_gateway_core::layer2::HardwareAddress;

use super::board::PassedAddress;
use super::program::{KEY, PassingMaps, TUPLE, VALUE, key, program, value};
use crate::bpf::{self, Map};

/// The most addresses. An entry takes memory when it is added.
const ADDRESSES: u32 = 1 << 16;

/// How many connections that begin are known at once. One is needed for the time from a SYN to the client's answer, and
/// only where the kernel sends SYN cookies. They take 7 MB while something is passed.
const BEGUN: u32 = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct PassingProgram {
    program: OwnedFd,
    passed: Map<KEY, VALUE>,
    /// The program alone reads and writes it.
    _begun: Map<TUPLE, 4>,
    count: Map<4, 8>,
    /// How many packets were counted before.
    counted: u64,
    links: BTreeMap<u32, OwnedFd>,
    entries: BTreeMap<PassedAddress, HardwareAddress>,
}

impl PassingProgram {
    /// Loads the program. It is attached to no interface yet.
    ///
    /// # Errors
    /// The process may not (CAP_BPF and CAP_NET_ADMIN), or the kernel can't.
    pub(super) fn load() -> io::Result<Self> {
        let (passed, begun) = (bpf::hash(ADDRESSES)?, bpf::lru_hash(BEGUN)?);
        let count = bpf::counter()?;
        let code = program(PassingMaps {
            passed: passed.number(),
            begun: begun.number(),
            count: count.number(),
        });
        Ok(Self {
            program: bpf::load_for_ingress(&code)?,
            passed,
            _begun: begun,
            count,
            counted: 0,
            links: BTreeMap::new(),
            entries: BTreeMap::new(),
        })
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
            match self.passed.set(key(address.1, address.0), value(*hardware)) {
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
            if self.links.contains_key(&interface) {
                continue;
            }
            match bpf::attach_to_ingress(&self.program, interface) {
                Ok(link) => drop(self.links.insert(interface, link)),
                Err(error) => {
                    let there = wanted.keys().filter(|(it, _)| *it == interface);
                    let all = there.map(|address| (*address, copy(&error)));
                    failed.extend(all);
                }
            }
        }
        failed
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
