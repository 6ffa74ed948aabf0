//! Taking over: a new process (the successor) goes on where an old one (the predecessor) stands. No client notices.
//!
//! Both speak through a Unix socket in the state directory. In this order:
//! 1. The successor says who it is. The predecessor refuses where the two have to agree about something and do not. Else
//!    it writes its state and holds it: nobody writes it from now on. It hands over its listening sockets (the very
//!    same, so no connection in their queues is lost), the steering and the listeners of `--admin` and `--metrics`. It
//!    goes on serving.
//! 2. The successor reads the state, builds its routes, and takes those of the sockets that it needs.
//!    What is remembered of clients and endpoints goes over, which both read by one clock.
//! 3. When it can serve, the predecessor stops accepting and receiving; what comes waits in the kernel. The successor
//!    accepts. UDP flows go over, then datagrams, then TCP connections that are established, in batches. A batch is
//!    frozen, sent, taken, and only then the successor's own.
//!    What announces goes over last: sessions with routers (BFD goes on meanwhile), the keeper of the kernel's routes, and
//!    what is owned on networks. The successor begins with none of it before it has the lock.
//! 4. When all has gone over, the lock of the state directory does. Until then the successor writes nothing, and the
//!    predecessor goes on with everything that is not the successor's own if that one ends. The predecessor carries what
//!    can't be handed over (HTTP, TLS, connections that are not established yet) until it ends, and at most until the
//!    time to drain is over.
//! 5. When the successor announces, the predecessor lets BFD go as well, with which it has kept sessions up.
//!
//! Where the predecessor ends before the lock has gone over, the successor takes the lock itself and serves. Where the
//! predecessor stays and does not answer, the successor gives up: two processes must not write one state.
//!
//! In a cluster the two are in two Pods of one node, and the predecessor does not end: where a process of an older Pod
//! asks one of a newer Pod, it stands by, and asks again.
//!
//! `wire`: the messages; `announcing`: sessions with routers and routes, at both sides; `memory`: what is remembered;
//! `channel`: the socket; `peer`: who is at its other end; [`predecessor`], [`successor`]: the two sides.

mod announcing;
mod channel;
mod memory;
mod peer;
pub mod predecessor;
pub mod successor;
mod wire;

pub use crate::inherited::Inherited;
