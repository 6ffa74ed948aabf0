//! The source address of connections to endpoints: where the ports of the usual address are used up, another
//! address of the host's source-address pool takes its place for a while.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fairway_config::net::EndpointAddr;
use fairway_gateway_core::source_pool::SourcePool;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use socket2::SockRef;

/// How long another address is used before the usual one is tried again. Each try on an address without a
/// free port makes the kernel look at all of its ports.
const FALLBACK_TIME: Duration = Duration::from_secs(1);

/// The most other addresses that are tried for one connection: each costs a look at all of its ports, and the
/// worker does nothing else meanwhile.
const TRIES: usize = 8;

/// How long an endpoint is not dialled where no address has a free port towards it.
const NO_PORT_TIME: Duration = Duration::from_millis(100);

/// Which other address is used towards an endpoint, or that none has a free port, and until when.
#[derive(Debug, Default)]
pub(crate) struct SourceFallback(HashMap<EndpointAddr, (Option<IpAddr>, Instant)>);

impl SourceFallback {
    /// Calls `dial` with the usual source address (none: the kernel chooses), or with another one where the
    /// usual one has no free port.
    ///
    /// # Errors
    /// That of the dial; AddrNotAvailable where no address has a port left.
    pub(crate) fn dial(
        &mut self,
        endpoint: EndpointAddr,
        pool: &SourcePool,
        mut dial: impl FnMut(Option<IpAddr>) -> io::Result<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let now = Instant::now();
        let mut first = None;
        if let Some((fallback, until)) = self.0.get(&endpoint).copied() {
            if now >= until {
                self.0.remove(&endpoint);
            } else if fallback.is_none() {
                return Err(Errno::ADDRNOTAVAIL.into());
            }
            first = fallback.filter(|_| now < until);
        }
        match dial(first) {
            Err(error) if is_used_up(&error) => {}
            other => return other,
        }
        let usual = usual(endpoint)?;
        let others = pool.beside(usual).take(TRIES).map(Some);
        // The usual one as well, where another one was tried first.
        for source in first.map(|_| None).into_iter().chain(others) {
            match dial(source) {
                Err(error) if is_used_up(&error) => {}
                dialled => {
                    if let (Ok(_), Some(source)) = (&dialled, source) {
                        tracing::debug!(%endpoint, %source, "the ports of {usual} are used up");
                        self.remember(endpoint, Some(source), now + FALLBACK_TIME);
                    }
                    return dialled;
                }
            }
        }
        self.remember(endpoint, None, now + NO_PORT_TIME);
        Err(Errno::ADDRNOTAVAIL.into())
    }

    fn remember(&mut self, endpoint: EndpointAddr, source: Option<IpAddr>, until: Instant) {
        // Entries that are over are removed here: there are never many.
        let now = Instant::now();
        self.0.retain(|_, (_, until)| now < *until);
        self.0.insert(endpoint, (source, until));
    }
}

fn is_used_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The source address that the kernel chooses for an endpoint.
fn usual(endpoint: EndpointAddr) -> io::Result<IpAddr> {
    let family = if endpoint.0.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    // For a UDP socket connect(2) only looks up the route. No datagram is sent.
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &endpoint.0)?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?);
    local.map(|local| local.ip()).map_err(io::Error::from)
}

/// Binds a socket to a source address. The kernel chooses the port at connect(2).
///
/// # Errors
/// The address is no longer one of this host.
pub(crate) fn bind(socket: &OwnedFd, source: IpAddr) -> io::Result<()> {
    late_port(socket);
    Ok(rustix::net::bind(socket, &SocketAddr::new(source, 0))?)
}

/// Lets a socket have an address that is not one of this host (`IP_TRANSPARENT`, ip(7)).
///
/// # Errors
/// The process has neither CAP_NET_ADMIN nor CAP_NET_RAW.
pub(crate) fn allow_any(socket: &OwnedFd, is_ipv4: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match is_ipv4 {
        true => socket.set_ip_transparent_v4(true),
        false => socket.set_ip_transparent_v6(true),
    }
}

/// Sets `IP_BIND_ADDRESS_NO_PORT` (ip(7)). Without it bind(2) takes a port that no other connection uses, to
/// any endpoint.
#[expect(unsafe_code, reason = "no safe wrapper has this option")]
fn late_port(socket: &OwnedFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
