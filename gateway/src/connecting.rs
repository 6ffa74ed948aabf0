//! A socket that connects to an endpoint: the same for opaque connections and for those of HTTP requests.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use fairway_config::net::EndpointAddr;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::hops::Hops;
use crate::socket;
use crate::source_address;

/// How an endpoint is connected to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectOptions {
    /// Connections start with so many hops, where it is given.
    pub(crate) hops: Option<Hops>,
    /// There is something to send at once. Else the last step of the handshake would be a packet of its own.
    pub(crate) speaks_first: bool,
    /// The source address need not be one of this host.
    pub(crate) transparent: bool,
}

/// Begins to connect to an endpoint, from a source address if one is given. The socket does not block.
///
/// # Errors
/// As socket(2), bind(2) and connect(2).
pub(crate) fn begin(
    endpoint: EndpointAddr,
    source: Option<IpAddr>,
    options: ConnectOptions,
) -> io::Result<OwnedFd> {
    let family = if endpoint.0.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(hops) = options.hops {
        hops.set(&socket, endpoint.0.is_ipv4())?;
    }
    if options.speaks_first {
        socket::acknowledge_at_once(&socket, false);
    }
    if options.transparent {
        source_address::allow_any(&socket, endpoint.0.is_ipv4())?;
    }
    if let Some(source) = source {
        source_address::bind(&socket, source)?;
    }
    match rustix::net::connect(&socket, &endpoint.0) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
