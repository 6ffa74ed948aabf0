//! The source-address pool: the addresses of the host from which an endpoint is dialled when the ports of the usual
//! one are used up.
//!
//! TCP tells connections apart by the addresses and ports of both ends. So one source address has at most as many
//! connections to one endpoint as there are local ports (`net.ipv4.ip_local_port_range`, 28,232 by default). Another
//! source address has as many again.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// The host's own addresses, each with the link that it is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourcePool(BTreeMap<IpAddr, u32>);

impl SourcePool {
    /// A pool of these addresses, each with the index of its interface. The caller leaves out addresses of Services:
    /// answers to such an address might go to another gateway.
    pub fn new(own: impl IntoIterator<Item = (IpAddr, u32)>) -> Self {
        let usable = own.into_iter().filter(|(address, _)| is_global(*address));
        Self(usable.collect())
    }

    /// The addresses that can replace `usual`, the one that the kernel would choose: those of its family on its
    /// interface, so that answers come back the same way. The next one in order comes first.
    pub fn beside(&self, usual: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
        let link = self.0.get(&usual).copied();
        let (before, after) = (self.0.range(..usual), self.0.range(usual..));
        after
            .chain(before)
            .filter(move |(address, on)| {
                Some(**on) == link && **address != usual && address.is_ipv4() == usual.is_ipv4()
            })
            .map(|(address, _)| *address)
    }
}

/// Whether an address identifies the host by itself. A link-local one does not.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn those_of_the_same_family_and_link_stand_in_the_next_one_first() {
        let pool = SourcePool::new(
            [
                ("192.0.2.1", 2),
                ("192.0.2.2", 2),
                ("192.0.2.3", 2),
                ("169.254.7.7", 2),
                ("198.51.100.1", 3),
                ("127.0.0.1", 1),
                ("2001:db8::1", 2),
                ("2001:db8::2", 2),
                ("fe80::1", 2),
            ]
            .map(|(address, link)| (address.parse().unwrap(), link)),
        );
        for (usual, beside) in [
            ("192.0.2.1", &["192.0.2.2", "192.0.2.3"][..]),
            ("192.0.2.2", &["192.0.2.3", "192.0.2.1"]),
            ("192.0.2.3", &["192.0.2.1", "192.0.2.2"]),
            ("198.51.100.1", &[]),
            ("127.0.0.1", &[]),
            ("2001:db8::2", &["2001:db8::1"]),
            ("203.0.113.7", &[]),
        ] {
            let found: Vec<String> = pool
                .beside(usual.parse().unwrap())
                .map(|address| address.to_string())
                .collect();
            assert_eq!(found, beside, "{usual}");
        }
    }
}
