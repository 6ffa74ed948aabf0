//! Indexes from something that routes depend on (a DNS name, an address) to the Services that depend on it.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use super::services::Id;

/// Notes in an index that a Service depends on the keys `now`, in place of those in `before`; both are
/// ordered. Returns the keys that got their first Service, or lost their last one.
pub(super) fn reindex<K: Clone + Ord + Hash>(
    index: &mut HashMap<K, BTreeSet<Id>>,
    before: &mut Box<[K]>,
    now: Box<[K]>,
    service: Id,
) -> Vec<K> {
    let mut changed = Vec::new();
    if *before == now {
        return changed;
    }
    for key in before.iter().filter(|key| now.binary_search(key).is_err()) {
        if let Some(services) = index.get_mut(key) {
            services.remove(&service);
            if services.is_empty() {
                index.remove(key);
                changed.push(key.clone());
            }
        }
    }
    for key in now.iter().filter(|key| before.binary_search(key).is_err()) {
        let services = index.entry(key.clone()).or_default();
        if services.is_empty() {
            changed.push(key.clone());
        }
        services.insert(service);
    }
    *before = now;
    changed
}
