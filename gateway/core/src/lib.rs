//! Which endpoint gets a connection: routes, eligible endpoints, balancing, affinity, UDP flows.
//!
//! Pure: no runtime, no clock, no socket. Time comes in as a [`Tick`](route::Tick), and seeds are arguments.
//!
//! Reading order:
//! 1. [`route`]: what the data plane needs to know of one Service, as plain values;
//! 2. [`guard`]: the addresses that are never dialled;
//! 3. [`eligible`]: which endpoints get traffic: all rules in one function;
//! 4. [`build`]: from stored objects to routes, at the cost of what has changed;
//! 5. [`health`]: what is known of an endpoint, from its traffic ([`dial_failure`]) and from checks, and
//!    [`endpoint_health`], the same for many threads; [`checks`]: who is asked what when; [`available`]: which eligible
//!    endpoints get traffic now;
//! 6. [`balance`]: the algorithms; [`rank`] (rendezvous hashing), [`affinity`] (an LRU table), `turns` (weighted
//!    round-robin), [`pick`]: from a client to an endpoint; [`attempts`]: how many endpoints are tried for one
//!    connection, and for how long;
//! 7. [`limits`]: how much of a port one client ([`client_network`]) may have, in bounded memory ([`client_room`]);
//!    [`flows`]: the UDP flow table;
//! 8. [`segments`]: on which interfaces addresses are announced on layer 2, who else is there and who may own them;
//!    [`fleet`]: which gateway owns an address there;
//! 9. [`layer2`]: what answers ARP and Neighbor Discovery for the addresses that a gateway owns ([`checksum`]);
//! 10. [`bgp`]: announcing to routers; [`bfd`]: whether they can be reached;
//! 11. [`source_pool`]: which of the host's addresses endpoints are dialled from;
//! 12. [`proxy_protocol`]: a header that says whose connection it is, read and written;
//! 13. [`http1`]: reading and writing HTTP/1, strictly, for the ports that are balanced by request;
//! 14. [`way_back`]: whether an endpoint can be dialled from its client's address; [`relay`]: how another gateway is asked
//!     to;
//! 15. [`receive_budget`]: how much of a processor is used for what comes from the network, where nothing else bounds it;
//!     [`service_lines`]: how many lines of the log; [`acknowledgement`]: whether a machine has vanished in the middle of
//!     a connection.

pub mod acknowledgement;
pub mod affinity;
pub mod attempts;
pub mod available;
pub mod balance;
pub mod bfd;
pub mod bgp;
pub mod build;
pub mod checks;
pub mod checksum;
pub mod client_network;
pub mod client_room;
pub mod dial_failure;
pub mod eligible;
pub mod endpoint_health;
pub mod fleet;
pub mod flows;
pub mod guard;
mod hash_seed;
pub mod health;
pub mod http1;
mod jitter;
pub mod layer2;
pub mod limits;
mod lru;
mod octets;
pub mod pick;
#[cfg(test)]
mod plausible;
pub mod proxy_protocol;
pub mod rank;
pub mod receive_budget;
pub mod relay;
pub mod route;
pub mod segments;
pub mod service_lines;
pub mod source_pool;
#[cfg(test)]
mod testing;
mod turns;
pub mod way_back;
