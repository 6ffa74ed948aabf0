//! Watches local routes: others may remove ours, or make and remove their own.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteType};
use tokio::sync::mpsc;

use super::{PROTOCOL, TABLE_LOCAL, prefix, target};

/// How often the routes are read anyway: the kernel may drop notices when many come at once, and reports nothing of
/// IPv4 routes that go with their interface.
const RESYNC: Duration = Duration::from_secs(30);

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The shortest time between two reads: another program may change routes all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// The addresses whose routes may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// These.
    Addresses(BTreeSet<IpAddr>),
    /// All.
    Anything,
}

/// Sends changes until the receiver is gone.
pub(crate) async fn watch(changes: mpsc::Sender<Changed>) {
    loop {
        let Err(error) = follow(&changes).await else {
            return;
        };
        tracing::warn!(%error, "local routes are not watched, trying again");
        tokio::select! {
            () = changes.closed() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn follow(changes: &mpsc::Sender<Changed>) -> io::Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _handle, mut notices) = rtnetlink::new_multicast_connection(&groups)?;
    let connection = tokio::spawn(connection);
    let result = async {
        // Changes before the subscription are not known.
        let mut changed = Some(Changed::Anything);
        loop {
            if let Some(changed) = changed.take() {
                if changes.send(changed).await.is_err() {
                    return Ok(());
                }
                tokio::time::sleep(PAUSE).await;
            }
            tokio::select! {
                () = changes.closed() => return Ok(()),
                notice = notices.next() => {
                    let Some((notice, _)) = notice else {
                        return Err(io::ErrorKind::NotConnected.into());
                    };
                    changed = add(changed, &notice);
                    // One read is enough for all notices that have come.
                    while let Ok((notice, _)) = notices.try_recv() {
                        changed = add(changed, &notice);
                    }
                }
                () = tokio::time::sleep(RESYNC) => changed = Some(Changed::Anything),
            }
        }
    }
    .await;
    connection.abort();
    result
}

/// Adds a notice to the changes so far.
fn add(changed: Option<Changed>, notice: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Changed> {
    let route = match &notice.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => route,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
            // Only Fairway makes such routes.
            if route.header.protocol != RouteProtocol::from(PROTOCOL) =>
        {
            route
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(_)) => return changed,
        // A link has come or gone, and its routes with it; or notices were lost.
        _ => return Some(Changed::Anything),
    };
    match (local(route), changed) {
        (None, changed) => changed,
        (Some(_), Some(Changed::Anything)) | (Some(None), _) => Some(Changed::Anything),
        (Some(Some(address)), None) => Some(Changed::Addresses([address].into())),
        (Some(Some(address)), Some(Changed::Addresses(mut addresses))) => {
            addresses.insert(address);
            Some(Changed::Addresses(addresses))
        }
    }
}

/// The address that a route makes local. The outer value is none where the route makes no address local, the inner
/// one where it does so for several.
fn local(route: &RouteMessage) -> Option<Option<IpAddr>> {
    if route.header.table != TABLE_LOCAL || route.header.kind != RouteType::Local {
        return None;
    }
    let address = target(route);
    let is_one = |address: &IpAddr| prefix(*address) == route.header.destination_prefix_length;
    Some(address.filter(is_one))
}
