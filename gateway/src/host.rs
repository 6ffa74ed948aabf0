//! The addresses of this host: where node ports are served, and what is never dialled.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use tokio::sync::watch;

/// How often the addresses are read anyway: the kernel may drop notices when many come at once.
const RESYNC: Duration = Duration::from_secs(30);

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The addresses of a host, each with the index of its interface.
pub(crate) type HostAddresses = BTreeMap<IpAddr, u32>;

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
    let links = messages.iter().map(|message| message.header.index);
    let addresses = messages.iter().map(address).zip(links);
    Ok(addresses
        .filter_map(|(address, link)| Some((address?, link)))
        .collect())
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
