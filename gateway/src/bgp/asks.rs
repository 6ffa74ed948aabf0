//! What a router is to be told of an external address.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::announce::Announcement;
use fairway_config::names::ClusterName;
use fairway_gateway_core::bgp::routes::{ServingRank, prefix};
use fairway_gateway_core::fleet::EndpointReach;
use ipnet::IpNet;

use crate::announcing::Announceable;

/// How an address is announced to a router by the gateway `own`; nothing: it is not.
pub(super) fn asks<'a>(
    announceable: &'a Announceable,
    own: &ClusterName,
    router: &ClusterName,
    address: IpAddr,
) -> Option<(&'a Arc<Announcement>, ServingRank)> {
    let it = announceable.addresses.get(&address)?;
    let pool = announceable.pools.get(&it.pool)?;
    let bgp = it.announcement.bgp.as_ref()?;
    let is_to_it = bgp.peers.is_empty() || bgp.peers.contains(router);
    let is_here = it.is_able && pool.tellers.contains(own);
    // Whether the other one lives the router knows, by its session, and we do not. Where the endpoints fail their checks
    // from here, another gateway may reach them; where none does all say the same, and nothing moves.
    let is_failing = it.reach == EndpointReach::Failing;
    let is_worse = is_failing || it.is_better_at(|name| pool.tellers.contains(name));
    let rank = match is_worse {
        true => ServingRank::LastResort,
        false => ServingRank::Best,
    };
    (is_here && is_to_it).then_some((&it.announcement, rank))
}

/// The prefix by which a router reaches an address, its own or one that others of the same prefix ask for.
pub(super) fn prefix_of(
    announceable: &Announceable,
    own: &ClusterName,
    router: &ClusterName,
    address: IpAddr,
) -> Option<IpNet> {
    let told = |address: &IpAddr| {
        let (asks, _) = asks(announceable, own, router, *address)?;
        Some(prefix(*address, asks.bgp.as_ref()?))
    };
    let covering = || {
        let prefixes = announceable.addresses.keys().filter_map(told);
        let covering = prefixes.filter(|prefix| prefix.contains(&address));
        covering.max_by_key(IpNet::prefix_len)
    };
    told(&address).or_else(covering)
}
