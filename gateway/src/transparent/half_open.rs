//! Connections of other gateways that have not said yet what they are for: a bounded number of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many of one peer at most. A gateway says it within a round trip, so 512 are enough for 100,000 connections a
/// second.
const OF_ONE: u32 = 512;

/// So many of all peers that are not known to be gateways.
const OF_STRANGERS: u32 = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct HalfOpenRelays(Mutex<HalfOpenCounts>);

#[derive(Debug, Default)]
struct HalfOpenCounts {
    by_peer: BTreeMap<IpAddr, u32>,
    strangers: u32,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    all: Arc<HalfOpenRelays>,
    peer: IpAddr,
    is_stranger: bool,
}

impl HalfOpenRelays {
    /// Takes one more of this peer in; none: there are too many.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr, is_stranger: bool) -> Option<HalfOpen> {
        let mut counts = self.lock();
        let of_peer = counts.by_peer.get(&peer).copied().unwrap_or(0);
        if of_peer >= OF_ONE || (is_stranger && counts.strangers >= OF_STRANGERS) {
            return None;
        }
        counts.by_peer.insert(peer, of_peer + 1);
        counts.strangers += u32::from(is_stranger);
        drop(counts);
        Some(HalfOpen {
            all: self.clone(),
            peer,
            is_stranger,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HalfOpenCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut counts = self.all.lock();
        counts.strangers -= u32::from(self.is_stranger);
        if let Some(of_peer) = counts.by_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                counts.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_keeps_gateways_out() {
        let all = Arc::new(HalfOpenRelays::default());
        let at = |n: u8| IpAddr::from([192, 0, 2, n]);
        let strangers: Vec<_> = (0..=255).filter_map(|n| all.enter(at(n), true)).collect();
        assert_eq!(strangers.len(), 64);
        let one: Vec<_> = (0..1000).filter_map(|_| all.enter(at(1), false)).collect();
        // One place of it is taken by the stranger at its address.
        assert_eq!(one.len(), 511);
        assert!(all.enter(at(2), false).is_some());
        drop((strangers, one));
        assert!(all.lock().by_peer.is_empty());
        assert!(all.enter(at(9), true).is_some());
    }
}
