//! Whose connection it is: the peer's, or that of a client that a trusted proxy before us has announced.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use fairway_config::net::{ClientAddr, ListenAddr};
use fairway_config::port_options::ProxyVersion;
use fairway_gateway_core::proxy_protocol::{self, AnnouncedClient, SentHeader};

/// Whose connection it is.
#[derive(Debug)]
pub(crate) struct ClientOrigin {
    /// The client. All that is decided by a client's address is decided by this one.
    pub(crate) client: ClientAddr,
    /// What a proxy before us has said of it.
    announced: Option<Box<AnnouncedClient>>,
}

impl ClientOrigin {
    /// The connection is the peer's own.
    pub(crate) fn of_peer(peer: ClientAddr) -> Self {
        Self {
            client: peer,
            announced: None,
        }
    }

    /// The connection is that of a client that its peer has announced.
    pub(crate) fn announced(client: AnnouncedClient) -> Self {
        Self {
            client: ClientAddr(client.source),
            announced: Some(Box::new(client)),
        }
    }

    /// The client's address, an IPv4 one in its own form.
    pub(crate) fn ip(&self) -> IpAddr {
        self.client.0.ip().to_canonical()
    }

    /// The PROXY protocol header that tells an endpoint of it. What the proxy before us has said is passed on.
    pub(crate) fn header(&self, version: ProxyVersion, listen: ListenAddr) -> Vec<u8> {
        let announced = self.announced.as_deref();
        let of_ours;
        let unique_id = match announced.and_then(|client| client.unique_id.as_deref()) {
            Some(unique_id) => unique_id,
            None => {
                of_ours = unique_id();
                of_ours.as_bytes()
            }
        };
        let destination: SocketAddr = announced.map_or(listen.0, |client| client.destination);
        let header = SentHeader {
            source: self.client.0,
            destination,
            authority: announced.and_then(|client| client.authority.as_deref()),
            unique_id,
        };
        proxy_protocol::write(version, &header)
    }
}

/// A name for a connection that no other one has, here or in another process. It is text, for people find it in the logs
/// of their servers.
fn unique_id() -> String {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}{number:016x}", *PROCESS)
}
