//! Which Services name an address as an endpoint's, to be looked at again when that address becomes,
//! or no longer is, one that must not be dialled.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::services::Id;
use crate::guard::unwrap_embedded;
use crate::route::Route;

/// Who names which address. There are as many entries as endpoints, so they are small: of an address
/// 32 bits are kept, and an IPv6 one that shares them with another costs a look that finds nothing.
#[derive(Debug, Default)]
pub(super) struct Dialled {
    all: BTreeSet<(u32, Id)>,
}

impl Dialled {
    /// The Services that name `address`, or another that can't be told from it.
    pub(super) fn by(&self, address: IpAddr) -> impl Iterator<Item = Id> {
        let key = key(address);
        let of_key = self.all.range((key, Id::FIRST)..=(key, Id::LAST));
        of_key.map(|(_, id)| *id)
    }

    /// A Service has the second of two routes, in place of the first.
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

/// The endpoints of a route, those included that get no traffic, in order.
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

/// The same for all forms of an address that the guard takes for one.
fn key(address: IpAddr) -> u32 {
    match unwrap_embedded(address) {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let words = [0, 32, 64, 96].map(|shift| (v6.to_bits() >> shift) as u32);
            words.into_iter().fold(0, |key, word| key ^ word)
        }
    }
}
