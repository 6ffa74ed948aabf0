//! Dialling from another of the host's addresses where the ports of the usual one are used up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fairway_config::net::EndpointAddr;
use fairway_gateway_core::source_pool::SourcePool;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// How long an address stands in before the usual one is tried again: to find that none of its ports
/// is free takes the kernel a look at all of them.
const STANDS_IN: Duration = Duration::from_secs(1);

/// How many addresses are tried for one connection: each costs a look at all of its ports, and a worker
/// does nothing else meanwhile.
const TRIES: usize = 8;

/// How long an endpoint is not tried that no address has a port for.
const NONE: Duration = Duration::from_millis(100);

/// Which address stands in at an endpoint, or that none is left, and until when.
#[derive(Debug, Default)]
pub(super) struct StandIns(HashMap<EndpointAddr, (Option<IpAddr>, Instant)>);

impl StandIns {
    /// Does `dial` from the usual address (none is said), or from another one where there is no port
    /// left on it.
    ///
    /// # Errors
    /// That of the dial; AddrNotAvailable where no address has a port left.
    pub(super) fn dial(
        &mut self,
        endpoint: EndpointAddr,
        pool: &SourcePool,
        mut dial: impl FnMut(Option<IpAddr>) -> io::Result<OwnedFd>,
    ) -> io::Result<OwnedFd> {
        let now = Instant::now();
        let mut first = None;
        if let Some((stands_in, until)) = self.0.get(&endpoint).copied() {
            if now >= until {
                self.0.remove(&endpoint);
            } else if stands_in.is_none() {
                return Err(Errno::ADDRNOTAVAIL.into());
            }
            first = stands_in.filter(|_| now < until);
        }
        match dial(first) {
            Err(error) if is_used_up(&error) => {}
            other => return other,
        }
        let usual = usual(endpoint)?;
        let others = pool.beside(usual).take(TRIES).map(Some);
        // The usual one, too, where another one was tried first.
        for source in first.map(|_| None).into_iter().chain(others) {
            match dial(source) {
                Err(error) if is_used_up(&error) => {}
                dialled => {
                    if let (Ok(_), Some(source)) = (&dialled, source) {
                        tracing::debug!(%endpoint, %source, "the ports of {usual} are used up");
                        self.remember(endpoint, Some(source), now + STANDS_IN);
                    }
                    return dialled;
                }
            }
        }
        self.remember(endpoint, None, now + NONE);
        Err(Errno::ADDRNOTAVAIL.into())
    }

    fn remember(&mut self, endpoint: EndpointAddr, source: Option<IpAddr>, until: Instant) {
        // What is over goes with the next one that comes: there are never many.
        let now = Instant::now();
        self.0.retain(|_, (_, until)| now < *until);
        self.0.insert(endpoint, (source, until));
    }
}

fn is_used_up(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The address that the kernel dials an endpoint from.
fn usual(endpoint: EndpointAddr) -> io::Result<IpAddr> {
    let family = if endpoint.0.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    // No datagram is sent.
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &endpoint.0)?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?);
    local.map(|local| local.ip()).map_err(io::Error::from)
}

/// Has a socket dial from that address; its port is chosen when it is known where to.
///
/// # Errors
/// It is no address of this host any more.
pub(super) fn bind(socket: &OwnedFd, source: IpAddr) -> io::Result<()> {
    late_port(socket);
    Ok(rustix::net::bind(socket, &SocketAddr::new(source, 0))?)
}

/// ip(7), `IP_BIND_ADDRESS_NO_PORT`: else bind(2) takes a port that no other connection has, to
/// whichever endpoint.
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
