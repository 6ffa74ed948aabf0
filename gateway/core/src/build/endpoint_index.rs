//! Which Services have an endpoint at an address. They are looked at again when that address becomes one that
//! must not be dialled, or no longer is one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::services::Id;
use crate::guard::unwrap_embedded;
use crate::route::Route;

/// The index. There are as many entries as endpoints, so they are small: a hash of 32 bits stands for an
/// address. Where two IPv6 addresses have the same hash, a Service is sometimes looked at in vain.
#[derive(Debug, Default)]
pub(super) struct EndpointIndex {
    all: BTreeSet<(u32, Id)>,
}

impl EndpointIndex {
    /// The Services that have an endpoint at `address`, or at one with the same hash.
    pub(super) fn by(&self, address: IpAddr) -> impl Iterator<Item = Id> {
        let key = key(address);
        let of_key = self.all.range((key, Id::FIRST)..=(key, Id::LAST));
        of_key.map(|(_, id)| *id)
    }

    /// Notes that a Service has the second of two routes, in place of the first.
    pub(super) fn replace(&mut self, id: Id, (before, now): (Option<&Route>, Option<&Route>)) {
        let (before, now) = (keys(before), keys(now));
        for key in before.iter().filter(|key| now.binary_search(key).is_err()) {
            self.all.remove(&(*key, id));
        }
        for key in now.iter().filter(|key| before.binary_search(key).is_err()) {
            self.all.insert((*key, id));
        }
    }
}

/// The keys of a route's endpoints, ordered. Those that get no traffic count, too.
fn keys(route: Option<&Route>) -> Vec<u32> {
    let endpoints = route.into_iter().flat_map(|it| &it.ports);
    let mut keys: Vec<u32> = endpoints
        .flat_map(|port| {
            let eligible = port.endpoints.eligible.iter().map(|it| it.addr);
            let excluded = port.endpoints.excluded.iter().map(|it| it.addr);
            eligible.chain(excluded)
        })
        .map(|addr| key(addr.0.ip()))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The hash of an address: the same for all forms that the guard judges alike.
fn key(address: IpAddr) -> u32 {
    match unwrap_embedded(address) {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let words = [0, 32, 64, 96].map(|shift| (v6.to_bits() >> shift) as u32);
            words.into_iter().fold(0, |key, word| key ^ word)
        }
    }
}
