//! Steering: connections to thousands of addresses and ports arrive at a few sockets of each worker.
//!
//! For each new connection the kernel runs a program (`BPF_PROG_TYPE_SK_LOOKUP`,
//! Documentation/bpf/prog_sk_lookup.rst) before it looks for a listening socket. The program looks the listen
//! address up in a map. An entry takes a microsecond to add, and costs other addresses nothing.
//!
//! A process that listens on all addresses (a host's own sshd at port 22) does not keep Fairway from the port of
//! an external address, and does not answer for a Service without endpoint. On an address of the host's own the
//! host's programs come first: there the clients of a Service without endpoint are counted, and the kernel refuses
//! them. For an address that is not in the map the kernel does what it does without the
//! program. Program, maps and link are file descriptors: the kernel removes them when the process ends, however
//! it ends.
//!
//! Datagrams are not steered: an answer has to come from the port that the client has asked, and a UDP socket
//! sends from the port that it is bound to.
//!
//! Clients that are over a limit of their port are refused by the program for a moment ([`blocks`]), so that a flood of
//! one of them costs no worker anything.
//!
//! [`program`]: the program; [`crate::bpf`]: the system call; [`refusals`]: the count of refused clients.

pub(crate) mod blocks;
pub(crate) mod inherited;
mod program;
pub(crate) mod refusals;

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_config::net::{ListenAddr, Protocol};

use fairway_gateway_core::client_network::ClientNetwork;
use rustix::time::{ClockId, clock_gettime};

use self::inherited::InheritedSteering;
use self::program::{
    BLOCK_KEY, BLOCK_VALUE, COUNTED, KEY, REFUSED, SteeringMaps, VALUE, block_key, block_value,
    blocked, counted, key, kind, program, value,
};
use crate::bpf::{self, Map};
use crate::slot::BindKey;

/// The most listen addresses. An entry takes memory when it is added.
const PLACES: u32 = 1 << 18;

/// The most clients that are blocked at a time: some two megabytes, taken at once. Where there are more, the clients over
/// a limit that come least often are accepted and refused by a worker.
const BLOCKS: u32 = 1 << 14;

/// How many queues of connections each address family has. The kernel queues connections at a socket until they are
/// accepted, and drops those of all Services while the queue is full. So the listen addresses are spread over several
/// queues: a flood at one address delays only the addresses that share its queue, one in this number.
const QUEUES: u32 = 32;

/// A queue takes one socket of each worker. All queues together take at most one in this number of the file
/// descriptors, but there is at least one queue.
const PART: usize = 8;

/// What the program does with clients of a bind key without endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenClosed {
    /// It counts and refuses them, whoever else listens there.
    Refuse,
    /// It counts them. The kernel refuses them, unless another process listens there.
    Count,
}

/// By which another program says, on each processor, that it is the one that asks for a socket, and no client.
pub(crate) type Inquiry = Map<4, 8>;

/// The maps of the program in the kernel.
#[derive(Debug)]
pub(crate) struct Steering {
    places: Map<KEY, VALUE>,
    sockets: Map<4, 8>,
    blocks: Map<BLOCK_KEY, BLOCK_VALUE>,
    inquiry: Arc<Inquiry>,
    /// Held while the value of a place is written: an owner is written beside what the place does.
    writes: Mutex<()>,
    queues: u32,
    /// How many were given to places.
    given: AtomicU32,
    link: OwnedFd,
}

impl Steering {
    /// Loads the program, for this number of workers and of file descriptors. Nothing is steered yet.
    ///
    /// # Errors
    /// The process may not (CAP_BPF and CAP_NET_ADMIN), or the kernel can't (before 5.9).
    pub(crate) fn open(workers: usize, descriptors: usize) -> io::Result<Self> {
        let queues = descriptors / PART / (2 * workers.max(1));
        let queues = u32::try_from(queues).unwrap_or(QUEUES).clamp(1, QUEUES);
        let places = bpf::hash(PLACES)?;
        let sockets = bpf::sockets(2 * queues)?;
        let blocks = bpf::lru_hash(BLOCKS)?;
        let inquiry = Arc::new(bpf::processor_numbers()?);
        let link = bpf::attach_to_socket_lookup(&program(SteeringMaps {
            places: places.number(),
            sockets: sockets.number(),
            blocks: blocks.number(),
            inquiry: inquiry.number(),
        }))?;
        Ok(Self {
            places,
            sockets,
            blocks,
            inquiry,
            writes: Mutex::default(),
            queues,
            given: AtomicU32::new(0),
            link,
        })
    }

    /// The steering of another process that hands it over. It has so many kinds of sockets, which are there already.
    pub(crate) fn inherit(inherited: InheritedSteering, kinds: u32) -> Self {
        Self {
            places: Map::of(inherited.places),
            sockets: Map::of(inherited.sockets),
            blocks: Map::of(inherited.blocks),
            inquiry: Arc::new(Map::of(inherited.inquiry)),
            writes: Mutex::default(),
            queues: (kinds / 2).max(1),
            given: AtomicU32::new(0),
            link: inherited.link,
        }
    }

    /// What another process takes over, by name.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub(crate) fn descriptors(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let (places, sockets) = (self.places.as_fd(), self.sockets.as_fd());
        let (blocks, inquiry) = (self.blocks.as_fd(), self.inquiry.as_fd());
        inherited::named(places, sockets, blocks, inquiry, self.link.as_fd())
    }

    /// Removes what another process has left of bind keys that are not among those, and its blocks: ports have other
    /// numbers here.
    pub(crate) fn retain(&self, wanted: impl Iterator<Item = BindKey>) {
        let wanted: BTreeSet<[u8; KEY]> = wanted
            .map(|place| key(place.listen.0, place.protocol))
            .collect();
        let mut last = None;
        let mut left = Vec::new();
        // Each key is asked for once; the map is no larger than this.
        for _ in 0..PLACES {
            let Ok(found) = self.places.next(last) else {
                break;
            };
            if !wanted.contains(&found) {
                left.push(found);
            }
            last = Some(found);
        }
        for key in left {
            // Where it is gone already, that is well.
            let _ = self.places.remove(key);
        }
        for _ in 0..BLOCKS {
            let Ok(blocked) = self.blocks.next(None) else {
                break;
            };
            let _ = self.blocks.remove(blocked);
        }
    }

    /// The kinds of sockets where steered connections arrive: even ones for TCP over IPv4, odd ones for IPv6.
    pub(crate) fn kinds(&self) -> Range<u32> {
        0..2 * self.queues
    }

    /// Sets the socket where steered connections of this kind arrive: at it, or at another one of its
    /// `SO_REUSEPORT` group.
    ///
    /// # Errors
    /// The socket does not listen.
    pub(crate) fn arrive(&self, kind: u32, socket: &impl AsRawFd) -> io::Result<()> {
        let number = u64::from(socket.as_raw_fd().cast_unsigned());
        self.sockets.set(kind.to_ne_bytes(), number.to_ne_bytes())
    }

    /// Steers connections to this listen address from now on. The queues are used in turn.
    ///
    /// # Errors
    /// The map is full, or the kernel has no memory.
    pub(crate) fn steer(&self, listen: ListenAddr) -> io::Result<()> {
        let queue = self.given.fetch_add(1, Ordering::Relaxed) % self.queues;
        let kind = 2 * queue + u32::from(listen.0.is_ipv6());
        let _writing = self.writing();
        self.places
            .set(key(listen.0, Protocol::Tcp), value(kind, 0))
    }

    /// By which another program says that it asks for a socket.
    pub(crate) fn inquiry(&self) -> Arc<Inquiry> {
        self.inquiry.clone()
    }

    /// Closes this bind key from now on. The count begins at 0.
    pub(crate) fn shut(&self, place: BindKey, when_closed: WhenClosed) {
        let listen = place.listen;
        let kind = match when_closed {
            WhenClosed::Refuse => REFUSED,
            WhenClosed::Count => COUNTED,
        };
        let key = key(listen.0, place.protocol);
        let _writing = self.writing();
        match (self.places.set(key, value(kind, 0)), when_closed) {
            (Ok(()), _) => {}
            (Err(error), WhenClosed::Refuse) => tracing::warn!(
                %listen,
                %error,
                "connections are not refused; a program of the host that listens on all addresses may answer"
            ),
            (Err(error), WhenClosed::Count) => {
                tracing::warn!(%listen, %error, "refused clients are not counted");
            }
        }
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks from now on whether clients of this listen address are blocked by an owner; by nobody where that is 0. The
    /// counts begin at 0. False where connections to it are not steered.
    fn set_owner(&self, listen: ListenAddr, owner: u32) -> bool {
        let key = key(listen.0, Protocol::Tcp);
        let _writing = self.writing();
        let kind = self.places.get(key).ok().and_then(kind);
        kind.is_some_and(|kind| self.places.set(key, value(kind, owner)).is_ok())
    }

    /// How many connections of blocked clients the kernel has refused at a listen address since it has its owner: for
    /// their number, and for their rate.
    fn blocked(&self, listen: ListenAddr) -> [u64; 2] {
        let value = self.places.get(key(listen.0, Protocol::Tcp));
        value.map_or([0; 2], blocked)
    }

    /// Refuses a client of an owner by itself for that long.
    fn block(&self, owner: u32, client: ClientNetwork, time: Duration, is_rate: bool) -> bool {
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        let until = u64::try_from((now + time).as_nanos()).unwrap_or(0);
        let value = block_value(until, is_rate);
        self.blocks.set(block_key(owner, client), value).is_ok()
    }

    /// Lets a client of an owner in again.
    fn unblock(&self, owner: u32, client: ClientNetwork) {
        // This fails where the block has given way to another one.
        let _ = self.blocks.remove(block_key(owner, client));
    }

    /// How many clients of a closed bind key the kernel has counted; none where it is not closed.
    pub(crate) fn counted(&self, place: BindKey) -> Option<u64> {
        let value = self.places.get(key(place.listen.0, place.protocol)).ok()?;
        counted(value)
    }

    /// Neither steers nor closes this bind key any more.
    pub(crate) fn release(&self, place: BindKey) {
        let _writing = self.writing();
        // This fails where there is no entry.
        let _ = self.places.remove(key(place.listen.0, place.protocol));
    }
}

/// Whether this kind of sockets is for IPv6.
pub(crate) fn is_ipv6(kind: u32) -> bool {
    kind % 2 == 1
}

/// Where the sockets of a kind are bound. No client from outside reaches them except by steering.
pub(crate) fn at(kind: u32) -> SocketAddr {
    if is_ipv6(kind) {
        (Ipv6Addr::LOCALHOST, 0).into()
    } else {
        (Ipv4Addr::LOCALHOST, 0).into()
    }
}
