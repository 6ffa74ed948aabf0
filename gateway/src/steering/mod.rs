//! Steering: connections to thousands of addresses and ports arrive at a few sockets of each worker.
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
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use fairway_config::net::{ListenAddr, Protocol};

use self::bpf::Map;
use self::program::{KEY, REFUSED, VALUE, key, program, refused, value};
use crate::slot::BindKey;

/// Places at most; an entry takes memory when it comes.
const PLACES: u32 = 1 << 18;

/// Queues of connections of each family. The kernel queues what arrives at a socket until it is accepted, and
/// drops what finds the queue full, whosever it is. So places share out several: who is asked more than
/// workers accept has others wait only at the places that share its queue, one in so many.
const QUEUES: u32 = 32;

/// A queue takes a socket of each worker. All of them together take this part of the file descriptors at
/// most, if that is enough for one queue.
const PART: usize = 8;

/// The kernel's view of what is steered.
#[derive(Debug)]
pub(crate) struct Steering {
    places: Map<KEY, VALUE>,
    sockets: Map<4, 8>,
    queues: u32,
    /// How many were given to places.
    given: AtomicU32,
    _link: OwnedFd,
}

impl Steering {
    /// Has the kernel ask us from now on; nothing is steered yet. So many workers accept, and there are so
    /// many file descriptors.
    ///
    /// # Errors
    /// The process may not (CAP_BPF and CAP_NET_ADMIN), or the kernel can't (before 5.9).
    pub(crate) fn open(workers: usize, descriptors: usize) -> io::Result<Self> {
        let queues = descriptors / PART / (2 * workers.max(1));
        let queues = u32::try_from(queues).unwrap_or(QUEUES).clamp(1, QUEUES);
        let places = bpf::hash(PLACES)?;
        let sockets = bpf::sockets(2 * queues)?;
        let link = bpf::attach(&program(places.number(), sockets.number()))?;
        Ok(Self {
            places,
            sockets,
            queues,
            given: AtomicU32::new(0),
            _link: link,
        })
    }

    /// The kinds of sockets that places are steered to: of TCP over IPv4 the even ones, over IPv6 the odd
    /// ones.
    pub(crate) fn kinds(&self) -> Range<u32> {
        0..2 * self.queues
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

    /// Connections to this place are steered from now on, to the next of the queues in turn.
    ///
    /// # Errors
    /// There are too many places, or there is no memory.
    pub(crate) fn steer(&self, listen: ListenAddr) -> io::Result<()> {
        let queue = self.given.fetch_add(1, Ordering::Relaxed) % self.queues;
        let kind = 2 * queue + u32::from(listen.0.is_ipv6());
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

/// Whether connections of that kind are of IPv6.
pub(crate) fn is_ipv6(kind: u32) -> bool {
    kind % 2 == 1
}

/// Where the sockets of a kind are bound: nobody is to reach them but by steering.
pub(crate) fn at(kind: u32) -> SocketAddr {
    if is_ipv6(kind) {
        (Ipv6Addr::LOCALHOST, 0).into()
    } else {
        (Ipv4Addr::LOCALHOST, 0).into()
    }
}
