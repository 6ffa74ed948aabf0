//! The socket of a session.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use fairway_config::bgp_peer::BgpPeer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// The most bytes of a key (`TCP_MD5SIG_MAXKEYLEN`).
const LONGEST_KEY: usize = 80;

/// Where the session with this router is dialled.
///
/// # Errors
/// Its interface is not there. The text is the end of a sentence.
pub(super) fn place(peer: &BgpPeer, address: IpAddr) -> Result<SocketAddr, String> {
    let IpAddr::V6(v6) = address else {
        return Ok(SocketAddr::new(address, peer.peer_port));
    };
    let scope = match &peer.interface {
        Some(interface) if v6.is_unicast_link_local() => {
            index(interface).map_err(|_| format!("there is no interface {interface}"))?
        }
        None if v6.is_unicast_link_local() => {
            return Err(format!("{v6} is a link-local address: name its interface"));
        }
        _ => 0,
    };
    Ok(SocketAddrV6::new(v6, peer.peer_port, 0, scope).into())
}

/// The number of an interface.
pub(super) fn index(interface: &str) -> io::Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    Ok(rustix::net::netdevice::name_to_index(&socket, interface)?)
}

/// Dials.
///
/// # Errors
/// The socket can't be had as it has to be.
pub(super) fn dial(
    peer: &BgpPeer,
    to: SocketAddr,
) -> io::Result<impl Future<Output = io::Result<TcpStream>> + Send + 'static> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // A router with TTL security (RFC 5082) takes nothing with a lower one, and no other router minds.
    match to {
        SocketAddr::V4(_) => socket.set_ttl_v4(255)?,
        SocketAddr::V6(_) => socket.set_unicast_hops_v6(255)?,
    }
    if let Some(password) = &peer.password {
        sign(&socket, to, password.as_bytes())?;
    }
    if let Some(source) = peer.source_address {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()).connect(to))
}

/// Has the kernel drop what comes in with a TTL below 255 (RFC 5082). A daemon sets the TTL of a connection when it has
/// accepted it, so this has to wait for the handshake.
///
/// # Errors
/// The kernel does not know the option.
#[expect(unsafe_code, reason = "no safe wrapper has these options")]
pub(super) fn demand_ttl(stream: &TcpStream) -> io::Result<()> {
    /// `IPV6_MINHOPCOUNT` of linux/in6.h.
    const MIN_HOP_COUNT: libc::c_int = 73;
    let (level, option) = match stream.peer_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, MIN_HOP_COUNT),
    };
    let least: libc::c_int = 255;
    // SAFETY: the kernel reads an int.
    let answer = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&least).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C, align(8))]
struct TcpMd5Sig {
    address: [u8; 128],
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: u32,
    key: [u8; LONGEST_KEY],
}

/// Has each segment to and from that address signed (RFC 2385).
#[expect(unsafe_code, reason = "no safe wrapper has this option")]
fn sign(socket: &Socket, to: SocketAddr, password: &[u8]) -> io::Result<()> {
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the password is too long");
    let mut option = TcpMd5Sig {
        address: [0; 128],
        flags: 0,
        prefix_length: 0,
        key_length: u16::try_from(password.len()).map_err(|_| too_long())?,
        interface: 0,
        key: [0; LONGEST_KEY],
    };
    let key = option.key.get_mut(..password.len()).ok_or_else(too_long)?;
    key.copy_from_slice(password);
    let (family, at, address) = match to.ip() {
        IpAddr::V4(address) => (libc::AF_INET, 4, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, 8, address.octets().to_vec()),
    };
    let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
    for (place, byte) in option.address.iter_mut().zip(family) {
        *place = byte;
    }
    for (place, byte) in option.address.iter_mut().skip(at).zip(address) {
        *place = byte;
    }
    // SAFETY: the kernel reads as many bytes as the structure has, which has no padding within.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            std::ptr::from_ref(&option).cast(),
            size_of::<TcpMd5Sig>() as libc::socklen_t,
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Why a dial failed: the end of a sentence.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "it refuses the connection".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to it".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "its sourceAddress is no address of this host".to_owned()
        }
        io::ErrorKind::TimedOut => {
            "it does not answer: is it there, is the password right?".to_owned()
        }
        _ => format!("it can't be dialled: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use fairway_config::bgp_peer::PeerAsn;

    use super::*;

    #[test]
    fn the_option_is_as_long_as_the_kernel_has_it() {
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
    }

    #[test]
    fn a_router_with_a_link_local_address_needs_its_interface() {
        let of = |address: &str, interface: Option<&str>| {
            let address = address.parse().unwrap();
            let peer = BgpPeer {
                interface: interface.map(Into::into),
                ..BgpPeer::new("tor".into(), 1, PeerAsn::External, address)
            };
            place(&peer, address).map(|it| it.to_string())
        };
        assert_eq!(of("192.0.2.1", None), Ok("192.0.2.1:179".to_owned()));
        assert_eq!(of("2001:db8::1", None), Ok("[2001:db8::1]:179".to_owned()));
        assert_eq!(of("fe80::1", Some("lo")), Ok("[fe80::1%1]:179".to_owned()));
        assert!(
            of("fe80::1", None)
                .unwrap_err()
                .contains("name its interface")
        );
        assert!(
            of("fe80::1", Some("nowhere0"))
                .unwrap_err()
                .contains("nowhere0")
        );
    }
}
