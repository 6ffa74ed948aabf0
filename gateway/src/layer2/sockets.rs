//! The packet sockets of an interface (packet(7)): one for ARP, one for Neighbor Discovery.
//!
//! Each is bound to one protocol and gets no frames that this host sends. Not one socket for all protocols: the kernel
//! would show it each frame of the host.

#![expect(
    unsafe_code,
    reason = "no safe wrapper has the address of a packet socket"
)]

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

/// How many bytes of frames may wait at a socket, where the system allows so many.
const QUEUE: usize = 1 << 20;

/// Instructions of classic BPF (Documentation/networking/filter.rst).
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the IPv6 header begins.
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();

/// To whom a frame is addressed. «Other host» is what goes to another interface, and what has the tag of a VLAN of
/// which this host has no interface (`__netif_receive_skb_core` in net/core/dev.c).
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
const OTHER_HOST: u32 = libc::PACKET_OTHERHOST as u32;

/// See the module.
#[derive(Debug)]
pub(super) struct SegmentSockets {
    pub(super) index: u32,
    arp: Socket,
    ipv6: Socket,
}

/// One of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NeighborProtocol {
    Arp,
    Ndp,
}

impl NeighborProtocol {
    pub(super) const BOTH: [Self; 2] = [Self::Arp, Self::Ndp];
}

impl SegmentSockets {
    /// Opens both on the interface of that index.
    ///
    /// # Errors
    /// EPERM: the thread lacks CAP_NET_RAW; ENODEV: the interface is gone.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        Ok(Self {
            index,
            arp: open(index, libc::ETH_P_ARP, &arp_filter())?,
            ipv6: open(index, libc::ETH_P_IPV6, &ndp_filter())?,
        })
    }

    fn socket(&self, protocol: NeighborProtocol) -> &Socket {
        match protocol {
            NeighborProtocol::Arp => &self.arp,
            NeighborProtocol::Ndp => &self.ipv6,
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. ENETDOWN: the interface has gone down; the socket stays usable.
    pub(super) fn receive<'a>(
        &self,
        protocol: NeighborProtocol,
        buffer: &'a mut [u8],
    ) -> io::Result<&'a [u8]> {
        let length = self.socket(protocol).read(buffer)?;
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// ENETDOWN, ENXIO: the interface is down or gone; ENOBUFS, `WouldBlock`: its queue is full.
    pub(super) fn send(&self, protocol: NeighborProtocol, frame: &[u8]) -> io::Result<()> {
        self.socket(protocol).send(frame).map(drop)
    }

    pub(super) fn fd(&self, protocol: NeighborProtocol) -> BorrowedFd<'_> {
        self.socket(protocol).as_fd()
    }
}

fn open(index: u32, protocol: i32, filter: &[SockFilter]) -> io::Result<Socket> {
    // Without a protocol it gets nothing before it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
    socket.attach_filter(filter)?;
    let _ = socket.set_recv_buffer_size(QUEUE);
    socket.bind(&address(index, protocol))?;
    Ok(socket)
}

fn address(index: u32, protocol: i32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of this system's addresses.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as libc::c_ushort;
    link.sll_protocol = (protocol as u16).to_be();
    link.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: family and length are those of the address that was written.
    unsafe { SockAddr::new(storage, length) }
}

/// Takes frames that are for this host.
fn arp_filter() -> [SockFilter; 4] {
    [
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, OTHER_HOST),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Takes neighbor solicitations and advertisements that are for this host: ICMPv6 (58), hop limit 255, types 135 and
/// 136.
fn ndp_filter() -> [SockFilter; 11] {
    [
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_IF_EQUAL, 8, 0, OTHER_HOST),
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK.wrapping_add(6)),
        SockFilter::new(JUMP_IF_EQUAL, 0, 6, 58),
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK.wrapping_add(7)),
        SockFilter::new(JUMP_IF_EQUAL, 0, 4, 255),
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK.wrapping_add(40)),
        SockFilter::new(JUMP_IF_NOT_LESS, 0, 2, 135),
        SockFilter::new(JUMP_IF_GREATER, 1, 0, 136),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
