//! UDP: datagrams in, sessions, datagrams out.
//!
//! `SO_REUSEPORT` spreads flows over the workers by address and port of both ends, so a flow stays on its
//! worker, and each worker has a table of its own. A flow has a session: a socket connected to its endpoint,
//! so that the kernel tells the answers of one flow from those of another, and delivers an ICMP error to the
//! flow that it is about. Datagrams are taken in batches, and those of one flow are sent on together. Nothing
//! here waits until a socket takes a datagram: where its queue is full the datagram is dropped, as a router
//! would drop it.
//!
//! Reading order:
//! 1. `proxy`: the UDP side of a worker;
//! 2. `sessions`: its listeners, flows and sessions; `session`: one of them;
//! 3. `requests`: from clients to endpoints; `opening`: a flow begins; `replies`: from endpoints to
//!    clients, and ICMP errors;
//! 4. `port_unreachable`: what a client is told whose datagrams no endpoint takes; `icmp`: its packets;
//!    `eviction_log`: what the log says when there is no room;
//! 5. `segments`: sends the datagrams of a flow as GSO segments; `packets`: the system calls.
//!
//! The flows of a listener that has many have one turn in a round of the worker together, so that other
//! Services do not wait until all of them have had theirs.
//!
//! An endpoint that refuses a datagram (ICMP port unreachable) before it has answered is passed over: the
//! datagram goes on to the next endpoint. Where none is left, or where the endpoint had answered before and
//! the refused datagram is not kept, the client is told.

mod eviction_log;
mod handing;
mod icmp;
mod opening;
mod packets;
mod port_unreachable;
mod proxy;
mod replies;
mod requests;
mod segments;
mod session;
mod sessions;

pub(super) use self::proxy::{UdpContext, UdpProxy};
