//! How many UDP flows the workers of a process may have together.
//!
//! A flow belongs to the worker that the kernel gives its datagrams to, and a worker can evict only its own
//! flows. So one half of the limit is divided among the workers, which have it in any case, and the other half is
//! for whoever needs it first: chance gives no two workers the same number of flows.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the kernel says which ports it gives to sockets that ask for none.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The least that the default is.
const LEAST: usize = 16;

/// The UDP flows that all workers may have.
#[derive(Debug)]
pub(crate) struct FlowPool {
    own: usize,
    spare: AtomicUsize,
}

impl FlowPool {
    /// `limit` flows for that many workers; each worker may have one in any case.
    pub(crate) fn new(limit: usize, workers: usize) -> Self {
        let own = (limit / 2 / workers.max(1)).max(1);
        Self {
            own,
            spare: AtomicUsize::new(limit.saturating_sub(own * workers)),
        }
    }

    fn take(&self) -> bool {
        let less = |spare: usize| spare.checked_sub(1);
        let taken = self
            .spare
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    fn give_back(&self, count: usize) {
        self.spare.fetch_add(count, Ordering::Relaxed);
    }
}

/// How many flows one worker may have now: its own part of the pool, and what it has borrowed.
#[derive(Debug, Default)]
pub(crate) struct FlowAllowance {
    borrowed: usize,
}

impl FlowAllowance {
    /// The worker has `flows` flows and wants one more: borrows for it if that is needed and possible. How
    /// many it may have.
    pub(crate) fn grow(&mut self, pool: &FlowPool, flows: usize) -> usize {
        if flows >= pool.own + self.borrowed && pool.take() {
            self.borrowed += 1;
        }
        pool.own + self.borrowed
    }

    /// The worker has `flows` flows left: gives back what it does not need for them. How many it may have.
    pub(crate) fn shrink(&mut self, pool: &FlowPool, flows: usize) -> usize {
        let needed = flows.saturating_sub(pool.own).min(self.borrowed);
        if needed < self.borrowed {
            pool.give_back(self.borrowed - needed);
            self.borrowed = needed;
        }
        pool.own + self.borrowed
    }
}

/// The default limit of a process that may have `descriptors` sockets. Every flow takes a descriptor and one
/// of the ports that the kernel gives to sockets which ask for none; a quarter of those is left to the host.
pub(crate) fn default_limit(descriptors: usize) -> usize {
    let range = fs::read_to_string(PORT_RANGE).ok();
    let ports = range.as_deref().and_then(ports_in);
    // Linux' own default.
    let ports = ports.unwrap_or(60_999 - 32_768 + 1);
    descriptors.min(ports / 4 * 3).max(LEAST)
}

fn ports_in(range: &str) -> Option<usize> {
    let mut ends = range.split_whitespace().map(str::parse::<usize>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn all_workers_together_have_no_more_than_the_limit_and_one_has_its_half_in_any_case() {
        let pool = FlowPool::new(100, 4);
        let mut workers: [FlowAllowance; 4] = Default::default();
        let fill = |worker: &mut FlowAllowance| {
            let mut flows = 0;
            while worker.grow(&pool, flows) > flows {
                flows += 1;
            }
            flows
        };
        let counts = workers.each_mut().map(fill);
        assert_eq!(counts, [64, 12, 12, 12]);
        // What the first one does not need any more is there for the next one.
        assert_eq!(workers[0].shrink(&pool, 20), 20);
        assert_eq!(workers[1].grow(&pool, 12), 13);
        assert_eq!(workers[0].shrink(&pool, 0), 12);
    }

    #[test]
    fn every_worker_may_have_a_flow() {
        let pool = FlowPool::new(1, 3);
        assert_eq!(FlowAllowance::default().grow(&pool, 0), 1);
        assert_eq!(FlowAllowance::default().grow(&pool, 1), 1);
    }

    #[test]
    fn the_default_limit_follows_the_descriptors_and_the_ports() {
        assert_eq!(ports_in("32768\t60999\n"), Some(28_232));
        assert_eq!(ports_in("60999 32768"), Some(0));
        assert_eq!(ports_in("many"), None);
        assert_eq!(default_limit(3_500), 3_500);
        assert_eq!(default_limit(0), LEAST);
        assert!(default_limit(1 << 20) < 1 << 16);
    }
}
