//! The addresses of this host: where node ports are served, what is never dialled, and where other gateways may
//! speak to this one.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use tokio::sync::watch;

/// How often the addresses are read anyway: the kernel may drop notices when many come at once.
const RESYNC: Duration = Duration::from_secs(30);

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The addresses of a host.
pub(crate) type HostAddresses = BTreeMap<IpAddr, HostAddress>;

/// An address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    /// The index of its interface.
    pub(crate) link: u32,
    /// How many bits the other addresses of its subnet have in common.
    pub(crate) prefix: u8,
}

/// So many addresses others are told at most: a host may have thousands that belong to no subnet (kube-proxy in IPVS
/// mode gives it one for each Service).
const TOLD: usize = 64;

/// The addresses at which others may reach this host, each with its subnet; those that have one first.
pub(crate) fn told(known: &HostAddresses) -> Vec<IpNet> {
    let is_for_others = |address: &IpAddr| match address {
        IpAddr::V4(it) => !it.is_loopback() && !it.is_link_local(),
        IpAddr::V6(it) => !it.is_loopback() && !it.is_unicast_link_local(),
    };
    let known = known.iter().filter(|(address, _)| is_for_others(address));
    let mut all: Vec<IpNet> = known
        .filter_map(|(address, it)| IpNet::new(*address, it.prefix).ok())
        .collect();
    all.sort_by_key(|net| net.prefix_len() == net.max_prefix_len());
    all.truncate(TOLD);
    all
}

/// Sends the addresses of this host's interfaces, and again whenever they change. Ends when the receiver is gone.
pub(crate) async fn watch(addresses: watch::Sender<Option<HostAddresses>>) {
    loop {
        let Err(error) = follow(&addresses).await else {
            return;
        };
        tracing::warn!(%error, "addresses of this host not known, trying again");
        tokio::select! {
            () = addresses.closed() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn follow(addresses: &watch::Sender<Option<HostAddresses>>) -> Result<(), Error> {
    // Subscribed before the first read, so that no change is missed in between.
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut notices) = rtnetlink::new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    let result = async {
        loop {
            let now = dump(&handle).await?;
            addresses.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&now);
                *known = Some(now);
                changed
            });
            tokio::select! {
                () = addresses.closed() => return Ok(()),
                notice = notices.next() => {
                    if notice.is_none() {
                        return Err(Error::Closed);
                    }
                    // One read is enough for all notices that have come.
                    while let Ok(_more) = notices.try_recv() {}
                }
                () = tokio::time::sleep(RESYNC) => {}
            }
        }
    }
    .await;
    connection.abort();
    result
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("netlink: {0}")]
    OpenConnection(#[from] io::Error),
    #[error("netlink: {0}")]
    Dump(#[from] rtnetlink::Error),
    #[error("netlink: the connection closed")]
    Closed,
}

async fn dump(handle: &rtnetlink::Handle) -> Result<HostAddresses, rtnetlink::Error> {
    let messages: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let known = messages.iter().filter_map(|message| {
        let (link, prefix) = (message.header.index, message.header.prefix_len);
        Some((address(message)?, HostAddress { link, prefix }))
    });
    Ok(known.collect())
}

/// The address of one message. `Local` is the host's own where there are two: `Address` is then
/// that of the other end of the link (rtnetlink(7)).
pub(crate) fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_where_a_host_is_reached_and_of_many_addresses_those_with_a_subnet() {
        let at = |prefix| HostAddress { link: 2, prefix };
        let mut known: HostAddresses = [
            ("127.0.0.1", 8),
            ("::1", 128),
            ("fe80::1", 64),
            ("169.254.1.1", 16),
            ("192.0.2.11", 24),
            ("2001:db8::11", 64),
        ]
        .into_iter()
        .map(|(address, prefix)| (address.parse().unwrap(), at(prefix)))
        .collect();
        for n in 0..2000_u32 {
            known.insert(IpAddr::from((0x0a60_0000 + n).to_be_bytes()), at(32));
        }
        let told = told(&known);
        let first: Vec<String> = told.iter().take(3).map(ToString::to_string).collect();
        assert_eq!(first, ["192.0.2.11/24", "2001:db8::11/64", "10.96.0.0/32"]);
        assert_eq!(told.len(), TOLD);
    }
}
