//! The addresses that are never dialled, whoever names them: the author of an EndpointSlice, or a DNS server.
//!
//! Without this guard a manifest could use the gateway's network position to reach what its author must not reach:
//! `169.254.169.254` (a cloud's metadata), `127.0.0.1:9901` (the admin address), a VIP (a loop through the gateway
//! itself), or the cluster IP of a Service (a loop through the nodes' own proxy, or another tenant's Service past
//! its network policies). The rules look at addresses alone, so they are the same for an address from DNS and for
//! one from an EndpointSlice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::AddressRange;
use fairway_config::pool::Precedence;

/// Why an address is never dialled. Displays as the end of a sentence: `is a loopback address`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// `0.0.0.0/8` or `::`: Linux dials the host itself by it.
    #[error("is the unspecified address")]
    Unspecified,
    /// `127.0.0.0/8` or `::1`.
    #[error("is a loopback address")]
    Loopback,
    /// `169.254.0.0/16` or `fe80::/10`.
    #[error("is link-local")]
    LinkLocal,
    /// `224.0.0.0/4` or `ff00::/8`.
    #[error("is multicast")]
    Multicast,
    /// `255.255.255.255`.
    #[error("is the broadcast address")]
    Broadcast,
    /// An address of the host that the gateway runs on.
    #[error("is an address of this host")]
    Host,
    /// An address of a pool.
    #[error("is an address of pool '{0}'")]
    Pool(ClusterName),
    /// Outside every pool, and yet held by a Service (its pool was edited or deleted).
    #[error("is the external address of a Service")]
    External,
    /// The cluster IP of a Service: the nodes' own proxy would send on what is sent there, perhaps to
    /// where it came from. Kubernetes has it that no endpoint is one.
    #[error("is the cluster IP of Service {0}")]
    ClusterIp(ServiceName),
    /// One of the gateway's own listeners; only where loopback is allowed, else the host's
    /// addresses are refused as a whole.
    #[error("is a listener of this gateway")]
    OwnListener,
}

/// The addresses that must not be dialled, as far as they are known.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allow_loopback: bool,
    host: BTreeSet<IpAddr>,
    /// How often `host` has changed.
    version: u64,
    external: BTreeSet<IpAddr>,
    /// Cluster IPs with the Services that have them. In a cluster each has one Service; in a directory of manifests
    /// several may claim the same.
    cluster_ips: BTreeSet<(IpAddr, ServiceName)>,
    pools: BTreeMap<ClusterName, (Precedence, Vec<AddressRange>)>,
    /// Ranges of all pools by first address, none of which overlap; see [`merge`].
    ranges: Vec<(AddressRange, ClusterName)>,
}

impl Guard {
    /// A guard that knows of no host address and no pool yet. With `allow_loopback` loopback and
    /// the host's own addresses may be dialled; an address of a pool never.
    pub fn new(allow_loopback: bool) -> Self {
        Self {
            allow_loopback,
            ..Self::default()
        }
    }

    /// Sets the host's addresses, and those that Services hold outside every pool. Returns whether anything has
    /// changed.
    pub fn set_own(&mut self, host: BTreeSet<IpAddr>, external: BTreeSet<IpAddr>) -> bool {
        let news = self.host != host || self.external != external;
        self.version += u64::from(self.host != host);
        self.host = host;
        self.external = external;
        news
    }

    /// The host's addresses, with a version number that changes whenever they do.
    pub fn host(&self) -> (u64, &BTreeSet<IpAddr>) {
        (self.version, &self.host)
    }

    /// Sets the precedence and the ranges of a pool; none: it is gone.
    pub fn set_pool(&mut self, name: &ClusterName, pool: Option<(Precedence, Vec<AddressRange>)>) {
        match pool {
            Some(pool) => self.pools.insert(name.clone(), pool),
            None => self.pools.remove(name),
        };
        self.ranges = merge(&self.pools);
    }

    /// Notes that a Service has this cluster IP, or no longer has it.
    pub fn set_cluster_ip(&mut self, address: IpAddr, service: &ServiceName, has: bool) {
        let key = (address.to_canonical(), service.clone());
        if has {
            self.cluster_ips.insert(key);
        } else {
            self.cluster_ips.remove(&key);
        }
    }

    /// The Service whose cluster IP `address` is; the first by name where several say so.
    fn cluster_ip_of(&self, address: IpAddr) -> Option<&ServiceName> {
        let nobody = ServiceName::new("", "");
        let (first, service) = self.cluster_ips.range((address, nobody)..).next()?;
        (*first == address).then_some(service)
    }

    /// Whether loopback and the host's own addresses may be dialled.
    pub fn allows_loopback(&self) -> bool {
        self.allow_loopback
    }

    /// Whether `address` is the host's own: configured on it, or loopback.
    pub fn is_host(&self, address: IpAddr) -> bool {
        let address = unwrap_embedded(address);
        address.is_loopback() || self.host.contains(&address)
    }

    /// The pool that `address` belongs to: where several overlap, the first by [`Precedence`].
    pub fn pool_of(&self, address: IpAddr) -> Option<&ClusterName> {
        let after = self
            .ranges
            .partition_point(|(range, _)| range.first() <= address);
        let (range, pool) = self.ranges.get(after.checked_sub(1)?)?;
        range.contains(address).then_some(pool)
    }

    /// The addresses of all pools, each with the pool that it belongs to, by first address.
    pub fn pool_ranges(&self) -> impl Iterator<Item = (AddressRange, &ClusterName)> {
        self.ranges.iter().map(|(range, pool)| (*range, pool))
    }

    /// Whether `address` belongs to a pool.
    pub fn is_pool(&self, address: IpAddr) -> bool {
        self.pool_of(address).is_some()
    }

    /// Checks whether `address` may be dialled.
    ///
    /// # Errors
    /// The reason why it must not.
    ///
    /// IPv6 forms that contain an IPv4 address (mapped, compatible, NAT64, 6to4) are checked by the IPv4 address,
    /// too, because packets to them can end up there.
    pub fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        self.judge(address)?;
        match unwrap_embedded(address) {
            inner if inner == address => Ok(()),
            inner => self.judge(inner),
        }
    }

    fn judge(&self, address: IpAddr) -> Result<(), Refusal> {
        if let Some(pool) = self.pool_of(address) {
            return Err(Refusal::Pool(pool.clone()));
        }
        if self.external.contains(&address) {
            return Err(Refusal::External);
        }
        if let Some(service) = self.cluster_ip_of(address) {
            return Err(Refusal::ClusterIp(service.clone()));
        }
        let by_kind = match address {
            IpAddr::V4(v4) => check_v4(v4),
            IpAddr::V6(v6) => check_v6(v6),
        };
        match by_kind {
            Err(Refusal::Loopback) if self.allow_loopback => Ok(()),
            Ok(()) if !self.allow_loopback && self.host.contains(&address) => Err(Refusal::Host),
            verdict => verdict,
        }
    }
}

fn check_v4(address: Ipv4Addr) -> Result<(), Refusal> {
    match address.octets() {
        [0, ..] => Err(Refusal::Unspecified),
        [127, ..] => Err(Refusal::Loopback),
        [169, 254, ..] => Err(Refusal::LinkLocal),
        [224..=239, ..] => Err(Refusal::Multicast),
        [255, 255, 255, 255] => Err(Refusal::Broadcast),
        _ => Ok(()),
    }
}

fn check_v6(address: Ipv6Addr) -> Result<(), Refusal> {
    if address.is_unspecified() {
        Err(Refusal::Unspecified)
    } else if address.is_loopback() {
        Err(Refusal::Loopback)
    } else if address.is_unicast_link_local() {
        Err(Refusal::LinkLocal)
    } else if address.is_multicast() {
        Err(Refusal::Multicast)
    } else {
        Ok(())
    }
}

/// The IPv4 address inside an IPv6 one, where there is one: IPv4-mapped `::ffff:a.b.c.d` and
/// IPv4-compatible `::a.b.c.d` (RFC 4291 2.5.5), NAT64 `64:ff9b::a.b.c.d` (RFC 6052) and 6to4
/// `2002:aabb:ccdd::` (RFC 3056). `::` and `::1` stay what they are.
pub fn unwrap_embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let v4 = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// All ranges in one list ordered by first address, without overlaps, so that a lookup is one
/// binary search. Where pools overlap (reported by the controller) the first by [`Precedence`] has
/// the shared addresses.
fn merge(
    pools: &BTreeMap<ClusterName, (Precedence, Vec<AddressRange>)>,
) -> Vec<(AddressRange, ClusterName)> {
    let mut merged: Vec<(AddressRange, ClusterName)> = Vec::new();
    let mut in_order: Vec<_> = pools.iter().collect();
    in_order.sort_by_key(|(_, (precedence, _))| precedence);
    for (name, (_, ranges)) in in_order {
        for range in ranges {
            for piece in subtract(*range, &merged) {
                let at = merged.partition_point(|(other, _)| other.first() < piece.first());
                merged.insert(at, (piece, Arc::clone(name)));
            }
        }
    }
    merged
}

/// What is left of `range` without the ranges in `taken` (ordered, none overlapping).
fn subtract(range: AddressRange, taken: &[(AddressRange, ClusterName)]) -> Vec<AddressRange> {
    let mut left = Vec::new();
    let mut rest = Some(range);
    for (other, _) in taken {
        let Some(now) = rest else { break };
        if !now.overlaps(*other) {
            continue;
        }
        left.extend(before(other.first()).and_then(|last| AddressRange::new(now.first(), last)));
        rest = after(other.last()).and_then(|first| AddressRange::new(first, now.last()));
    }
    left.extend(rest);
    left
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_sub(1)
            .map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_sub(1)
            .map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

#[cfg(test)]
mod tests;
