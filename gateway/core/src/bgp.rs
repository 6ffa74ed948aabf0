//! A BGP speaker that only announces (RFC 4271), without I/O: time comes in as an argument, bytes go in and out as
//! values.
//!
//! It imports nothing. A router's UPDATE is checked as far as a session has to end for it (RFC 7606) and dropped, so
//! a full table takes no memory. That is why the codec is our own: the kept ones (netgauze-bgp-pkt, zettabgp) build a
//! value for each route and attribute that comes in, and bring more code than this has.
//!
//! Connections are dialled and never accepted: no port 179 is open, a routing daemon on the same host keeps its own,
//! and there is one connection to a router, so that no collision (section 6.8) has to be resolved. A router may as
//! well dial: it is refused, and is reached all the same.
//!
//! Reading order:
//! 1. [`message`]: what routers say to each other; [`decode`], [`encode`]: its bytes;
//! 2. [`routes`]: which prefixes are announced, and with which attributes;
//! 3. [`rib_out`]: what one router has been told, and what it has still to be told;
//! 4. [`session`]: the state machine of one session.

pub mod decode;
pub mod encode;
pub mod message;
pub mod rib_out;
pub mod routes;
pub mod session;
