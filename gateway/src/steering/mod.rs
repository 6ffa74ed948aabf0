//! Steering: connections to thousands of addresses and ports arrive at one socket a worker.
//!
//! A program in the kernel (`BPF_PROG_TYPE_SK_LOOKUP`, Documentation/bpf/prog_sk_lookup.rst) is asked
//! for each new connection before the kernel looks for a socket that listens there. It knows the
//! places that are served: one entry of a map each, which takes a microsecond to put and costs nobody
//! else anything. What another process has at all addresses (a host's own sshd at port 22) does not
//! stand in the way, and does not answer in the place of a Service that has no endpoint, but for an
//! address that is the host's own: there, what the host has comes first. What is not in the map is as if
//! the program were not there. Program, maps and link are file descriptors: they go with the process,
//! however it ends.
//!
//! Datagrams are not steered: an answer has to come from the port that was asked, and a socket sends
//! from the one that it is bound to.
//!
//! [`program`]: the program; [`bpf`]: the system call; [`refusals`]: who was refused.

mod bpf;
mod program;
pub(crate) mod refusals;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use fairway_config::net::{ListenAddr, Protocol};

use self::bpf::Map;
use self::program::{KEY, REFUSED, VALUE, key, program, refused, value};
use crate::slot::BindKey;

/// Places at most; an entry takes memory when it comes.
const PLACES: u32 = 1 << 18;

/// The kinds of sockets that places are steered to: TCP over IPv4, TCP over IPv6.
pub(crate) const KINDS: [u32; 2] = [0, 1];

/// The kernel's view of what is steered.
#[derive(Debug)]
pub(crate) struct Steering {
    places: Map<KEY, VALUE>,
    sockets: Map<4, 8>,
    _link: OwnedFd,
}

impl Steering {
    /// Has the kernel ask us from now on; nothing is steered yet.
    ///
    /// # Errors
    /// The process may not (CAP_BPF and CAP_NET_ADMIN), or the kernel can't (before 5.9).
    pub(crate) fn open() -> io::Result<Self> {
        let places = bpf::hash(PLACES)?;
        let sockets = bpf::sockets(KINDS.len() as u32)?;
        let link = bpf::attach(&program(places.number(), sockets.number()))?;
        Ok(Self {
            places,
            sockets,
            _link: link,
        })
    }

    /// Connections that are steered to this kind arrive at this socket, or another of its
    /// `SO_REUSEPORT` group.
    ///
    /// # Errors
    /// It does not listen.
    pub(crate) fn arrive(&self, kind: u32, socket: &impl AsRawFd) -> io::Result<()> {
        let number = u64::from(socket.as_raw_fd().cast_unsigned());
        self.sockets.set(kind.to_ne_bytes(), number.to_ne_bytes())
    }

    /// Connections to this place are steered from now on.
    ///
    /// # Errors
    /// There are too many places, or there is no memory.
    pub(crate) fn steer(&self, listen: ListenAddr) -> io::Result<()> {
        let kind = kind(listen.0);
        self.places.set(key(listen.0, Protocol::Tcp), value(kind))
    }

    /// What comes to this place is refused from now on, whoever else listens there.
    fn refuse(&self, place: BindKey) {
        // What was counted there stays.
        if self.refused(place).is_some() {
            return;
        }
        let key = key(place.listen.0, place.protocol);
        if let Err(error) = self.places.set(key, value(REFUSED)) {
            let listen = place.listen;
            tracing::warn!(%listen, %error, "what the host has at this port may answer here");
        }
    }

    /// How often a place was refused since it is; nothing where it is not.
    fn refused(&self, place: BindKey) -> Option<u64> {
        let value = self.places.get(key(place.listen.0, place.protocol)).ok()?;
        refused(value)
    }

    /// This place is none of ours any more.
    pub(crate) fn release(&self, place: BindKey) {
        // It may never have been.
        let _ = self.places.remove(key(place.listen.0, place.protocol));
    }
}

/// The kind of socket for a place.
pub(crate) fn kind(listen: SocketAddr) -> u32 {
    u32::from(listen.is_ipv6())
}

/// Where the sockets of a kind are bound: nobody is to reach them but by steering.
pub(crate) fn at(kind: u32) -> SocketAddr {
    if kind == 0 {
        (Ipv4Addr::LOCALHOST, 0).into()
    } else {
        (Ipv6Addr::LOCALHOST, 0).into()
    }
}
