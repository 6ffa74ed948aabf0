//! Why nothing can be answered on an interface.

use thiserror::Error;

/// Why nothing can be answered on an interface now. The text is the end of a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SegmentFault {
    /// This process announces nothing.
    #[error("this process does not answer ARP and Neighbor Discovery")]
    Off,
    /// It was asked for a moment ago.
    #[error("the interface is being opened")]
    NotYet,
    /// There is no such interface.
    #[error("this host has no interface of that name")]
    Missing,
    /// It is down, or has no carrier.
    #[error("the interface is down")]
    Down,
    /// It has no Ethernet addresses.
    #[error("the interface is not Ethernet")]
    NotEthernet,
    /// What arrives there belongs to another interface.
    #[error("the interface is a port of {0}: announce on that one")]
    PortOf(Box<str>),
    /// The process may not open packet sockets.
    #[error("the process may not open packet sockets (CAP_NET_RAW)")]
    NotPermitted,
    /// A system call failed.
    #[error("{0}")]
    Failed(Box<str>),
}
