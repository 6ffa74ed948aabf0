//! What a header says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyHeaderSays {
    /// Somebody else's.
    Client(AnnouncedClient),
    /// The sender's own (LOCAL), or the sender does not say whose (UNKNOWN, UNSPEC, a family that TCP is not carried
    /// over): the addresses of the connection itself count.
    Itself,
}

/// A client, as the proxy before us announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedClient {
    /// The client's address, an IPv4 one in its own form.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// The host name that the client asked for (`PP2_TYPE_AUTHORITY`).
    pub authority: Option<Box<[u8]>>,
    /// The name of the connection (`PP2_TYPE_UNIQUE_ID`).
    pub unique_id: Option<Box<[u8]>>,
}

impl AnnouncedClient {
    /// A client of which nothing but the addresses is known.
    ///
    /// # Errors
    /// No client has such an address.
    pub(super) fn new(
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Self, ProxyHeaderError> {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let source = canonical(source);
        let ip = source.ip();
        // Lists of ranges name the unspecified address for nobody.
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Err(ProxyHeaderError::NoClient);
        }
        Ok(Self {
            source,
            destination: canonical(destination),
            authority: None,
            unique_id: None,
        })
    }
}

/// What is said to an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct SentHeader<'a> {
    /// The client's address.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
    /// The host name that the client asked for, where it is known (version 2 only).
    pub authority: Option<&'a [u8]>,
    /// The name of the connection (version 2 only).
    pub unique_id: &'a [u8],
}

impl SentHeader<'_> {
    /// Both addresses in one family: a header has only one.
    pub(super) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let (source, destination) = (self.source, self.destination);
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let (source, destination) = (canonical(source), canonical(destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return (source, destination);
        }
        let mapped = |at: SocketAddr| match at.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), at.port()),
            IpAddr::V6(_) => at,
        };
        (mapped(source), mapped(destination))
    }
}

/// Why a connection's first bytes are no header that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    /// It goes on for too long.
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// It does not follow the protocol.
    #[error("the PROXY protocol header is malformed")]
    Malformed,
    /// Its checksum is another one.
    #[error("the PROXY protocol header has a wrong checksum")]
    Checksum,
    /// It announces an address that no client has.
    #[error("the PROXY protocol header announces an address that no client has")]
    NoClient,
}
