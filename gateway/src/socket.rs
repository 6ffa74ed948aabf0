//! Sockets: how listeners are bound, and what stands in their way.

pub(crate) mod acknowledged;
pub(crate) mod in_use;
pub(crate) mod silence;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use fairway_config::exchange::ListenerState;
use fairway_config::net::{ListenAddr, Protocol};
use rustix::io::Errno;
use socket2::{Domain, SockFilter, SockRef, Socket, TcpKeepalive, Type};

use crate::slot::BindKey;

/// Connections that the kernel keeps for us until they are accepted; it caps this at
/// `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

/// What the kernel queues of datagrams while a worker is busy, in bytes; it caps this at
/// `net.core.rmem_max`. It counts what a datagram takes in memory, and lets that be twice this: some
/// 900 datagrams of 1,500 bytes, which is 11 ms of a full 1 Gbit/s.
///
/// The same for requests and for the answers of each flow: either side may be the one that sends
/// much. Thousands of flows do not add up to thousands of full buffers. The kernel charges only for
/// what waits, and all sockets of a worker wait for the same worker, so together they hold what
/// arrives while it is busy. In an overload that lasts `net.ipv4.udp_mem` bounds the sum.
const UDP_BUFFER: usize = 1 << 20;

/// Sockets that listen at one address, one for each worker.
#[derive(Debug)]
pub(crate) enum Sockets {
    /// For TCP.
    Tcp(Vec<TcpListener>),
    /// For UDP.
    Udp(Vec<UdpSocket>),
}

/// Why a listener can't stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BindError {
    /// The address is none of this host's.
    #[error(
        "{0} is no address of this host; add it to an interface, add a local route for it, or run \
         Fairway with CAP_NET_ADMIN so that it can"
    )]
    AddressNotLocal(std::net::IpAddr),
    /// Someone else has the port.
    #[error("{protocol} port {port} on {address} is held by another process; it is tried again until it is free (ss -lnp shows who holds it)", address = .listen.0.ip(), port = .listen.0.port())]
    PortInUse {
        /// Where.
        listen: ListenAddr,
        /// Which protocol.
        protocol: Protocol,
    },
    /// Nobody listens there, and connections have the port.
    #[error("nobody listens at {listen}, but connections that another program made or accepted still have TCP port {port}; it is tried again until they have ended (ss -tan shows them)", port = .listen.0.port())]
    PortHasConnections {
        /// Where.
        listen: ListenAddr,
    },
    /// The kernel says that we may not.
    #[error("port {0} needs CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start")]
    PermissionDenied(u16),
    /// Another Service has it.
    #[error("{listen} ({protocol}) is already served for Service {service}")]
    Claimed {
        /// Where.
        listen: ListenAddr,
        /// Which protocol.
        protocol: Protocol,
        /// Who has it.
        service: fairway_config::names::ServiceName,
    },
    /// The kernel takes no filter for a UDP socket that needs one against forwarding loops.
    #[error(
        "what is sent on to node ports must not come back in, and the kernel takes no filter \
         against it: {0}; it is tried again until it does (net.core.optmem_max bounds the memory \
         for filters)"
    )]
    NotGuarded(String),
    /// The process has no file descriptors left.
    #[error("the process has no file descriptors left; raise its limit (LimitNOFILE, ulimit -n)")]
    OutOfFiles,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl BindError {
    /// One CamelCase word, for conditions and events.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::AddressNotLocal(_) => "AddressNotLocal",
            Self::PortInUse { .. } | Self::PortHasConnections { .. } => "PortInUse",
            Self::PermissionDenied(_) => "PermissionDenied",
            Self::Claimed { .. } => "AlreadyClaimed",
            Self::NotGuarded(_) => "NotGuardedAgainstLoops",
            Self::OutOfFiles => "OutOfFiles",
            Self::Other(_) => "BindFailed",
        }
    }

    /// How a listener is that met this.
    pub(crate) fn state(&self) -> ListenerState {
        ListenerState::Failed {
            reason: self.reason().to_owned(),
            message: self.to_string(),
        }
    }

    /// What an error of a system call on the way to a listener means.
    pub(crate) fn of(place: BindKey, error: &io::Error) -> Self {
        let BindKey { listen, protocol } = place;
        match Errno::from_io_error(error) {
            // Where it can't be known, somebody listens.
            Some(Errno::ADDRINUSE)
                if protocol == Protocol::Tcp
                    && in_use::is_listened_at(listen.0).is_ok_and(|listened| !listened) =>
            {
                Self::PortHasConnections { listen }
            }
            Some(Errno::ADDRINUSE) => Self::PortInUse { listen, protocol },
            Some(Errno::ADDRNOTAVAIL) => Self::AddressNotLocal(listen.0.ip()),
            Some(Errno::ACCESS | Errno::PERM) => Self::PermissionDenied(listen.0.port()),
            Some(Errno::MFILE | Errno::NFILE) => Self::OutOfFiles,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Binds `count` sockets to one place.
///
/// Sockets with `SO_REUSEPORT` would join those of any process of the same user. So the first one is bound
/// without it, which shows whether the port is free, and has the port from then on: it has `SO_REUSEPORT` only
/// when it is bound (and listens, for TCP), for the others to join it. Of two processes that do so at the same
/// moment one fails. Where one socket is enough, nobody can join it at all.
///
/// `freebind` binds to an address that only a local route makes ours: the kernel asks for one of an
/// interface otherwise, in IPv6 at least.
///
/// What comes in passes through `filter`, where it isn't empty, from the first datagram on.
///
/// # Errors
/// A socket can't be had; none stays.
pub(crate) fn bind(
    place: BindKey,
    filter: &[SockFilter],
    count: usize,
    freebind: bool,
) -> Result<Sockets, BindError> {
    let fail = |error: io::Error| BindError::of(place, &error);
    let others = count.saturating_sub(1);
    let ready = |shared| {
        let socket = bound(place, filter, freebind, shared)?;
        match place.protocol {
            Protocol::Tcp => {
                tune(&socket);
                socket.listen(BACKLOG).map_err(fail)?;
            }
            Protocol::Udp => queue_datagrams(&socket),
            Protocol::Sctp => {
                let why = "SCTP is not carried by Fairway".to_owned();
                return Err(BindError::Other(why));
            }
        }
        Ok(socket)
    };
    let first = ready(false)?;
    if others > 0 {
        first.set_reuse_port(true).map_err(fail)?;
    }
    let sockets = std::iter::once(Ok(first)).chain((0..others).map(|_| ready(true)));
    Ok(match place.protocol {
        Protocol::Udp => Sockets::Udp(
            sockets
                .map(|socket| socket.map(Into::into))
                .collect::<Result<_, _>>()?,
        ),
        _ => Sockets::Tcp(
            sockets
                .map(|socket| socket.map(Into::into))
                .collect::<Result<_, _>>()?,
        ),
    })
}

/// Whether nobody listens at this place. Connections that have its port are in nobody's way: what is
/// steered needs no socket there.
///
/// # Errors
/// Somebody does.
pub(crate) fn probe(place: BindKey) -> Result<(), BindError> {
    match bound(place, &[], true, false) {
        Ok(_) | Err(BindError::PortHasConnections { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sockets that listen at one address and port together, one for each worker.
///
/// What they accept has the port that its client asked for (it may be steered here from any), and as
/// they have `SO_REUSEADDR` it does not keep a later socket away from that port.
pub(crate) fn group(at: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let mut at = at;
    let mut sockets: Vec<TcpListener> = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::new(
            Domain::for_address(at),
            Type::STREAM.nonblocking().cloexec(),
            None,
        )?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // The first one finds a port that is free, and has it for itself until it listens: the kernel would
        // give it to another group that is made at the same moment, too.
        let is_first = sockets.is_empty();
        let share = || -> io::Result<()> {
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)
        };
        if !is_first {
            share()?;
        }
        socket.bind(&at.into())?;
        tune(&socket);
        socket.listen(BACKLOG)?;
        if is_first {
            share()?;
        }
        let listener = TcpListener::from(socket);
        at = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

fn bound(
    place: BindKey,
    filter: &[SockFilter],
    freebind: bool,
    shared: bool,
) -> Result<Socket, BindError> {
    let fail = |error: io::Error| BindError::of(place, &error);
    let socket = unbound(place, freebind, shared).map_err(fail)?;
    if !filter.is_empty() {
        // Its errors are not those of bind(2): EPERM, say, is of no port.
        socket
            .attach_filter(filter)
            .map_err(|error| BindError::NotGuarded(error.to_string()))?;
    }
    socket.bind(&place.listen.0.into()).map_err(fail)?;
    Ok(socket)
}

fn unbound(place: BindKey, freebind: bool, shared: bool) -> io::Result<Socket> {
    let (address, protocol) = (place.listen.0, place.protocol);
    let kind = if protocol == Protocol::Udp {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let socket = Socket::new(
        Domain::for_address(address),
        kind.nonblocking().cloexec(),
        None,
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    if protocol != Protocol::Udp {
        // Connections of a listener that is gone must not keep the next one away. (For UDP it
        // would let two sockets have one port.)
        socket.set_reuse_address(true)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

/// Sets what every proxied connection has: no delay for small segments, no urgent byte that a read leaves
/// out, and probes that find out that a silent peer is gone. Where no limit says otherwise there is no idle timeout for
/// plain TCP: as with the nodes' own proxy, a connection may be silent for as long as both ends are there.
///
/// Connections inherit it from the socket that they were accepted from.
fn tune(socket: &impl AsFd) {
    // It can't fail on a TCP socket; and a connection works without it.
    let _ = SockRef::from(socket).set_tcp_nodelay(true);
    let _ = SockRef::from(socket).set_out_of_band_inline(true);
    keep_alive(socket);
}

/// Whether the kernel acknowledges at once (tcp(7), `TCP_QUICKACK`), as it does at the start of a
/// connection, or waits for data that an acknowledgement can go with: up to 40 ms, in which a peer that
/// sends in two pieces may hold the second one back (Nagle's algorithm, RFC 896).
pub(crate) fn acknowledge_at_once(socket: &impl AsFd, at_once: bool) {
    let _ = rustix::net::sockopt::set_tcp_quickack(socket, at_once);
}

/// Lets the kernel find out that a silent peer is gone.
pub(crate) fn keep_alive(socket: &impl AsFd) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    // As above.
    let _ = SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// How long the peer of a connection may take none of the bytes that wait for it, or answer no probe, until the kernel
/// ends the connection (`TCP_USER_TIMEOUT`, RFC 5482). What a listening socket accepts inherits it.
pub(crate) fn set_reader_timeout(socket: &impl AsFd, time: Option<Duration>) {
    if time.is_some() {
        // It can't fail on a TCP socket; and a connection works without it.
        let _ = SockRef::from(socket).set_tcp_user_timeout(time);
    }
}

/// Makes room for datagrams that come while their worker is busy.
pub(crate) fn queue_datagrams(socket: &Socket) {
    // A smaller buffer than asked for is one that works.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
}

/// Makes the coming close of a connection a reset, so that the peer learns that it did not end as
/// it should.
pub(crate) fn reset_on_close(stream: &impl AsFd) {
    // Where it fails, the connection is gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Whether an error of `accept(2)` is that of one connection, which is gone already. After any
/// other one the next try would meet it too.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        // accept(2): «Linux accept() passes already-pending network errors on the new socket».
        Some(
            Errno::CONNABORTED
                | Errno::INTR
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::TIMEDOUT
        )
    )
}

/// Whether the process or the host is short of something that comes back: file descriptors, memory
/// for sockets.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

#[cfg(test)]
mod tests;
