//! The raw sockets by which a UDP client is told that its port is unreachable, and the right to open them.
//!
//! Nothing else has the kernel send such a message. It sends one by itself only while it looks at a datagram
//! of the client and finds no socket; here the datagram was taken from a socket that is there. A program
//! (`sk_lookup`, `sk_reuseport`) or a rule of nftables can refuse the client's next datagram, which many
//! clients never send and others send seconds later.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use socket2::{Domain, Protocol, Socket, Type};

/// The protocol number of a raw socket whose packets are written with their IP headers and which receives
/// nothing (raw(7): `IPPROTO_RAW`).
const RAW: i32 = 255;

/// Raw sockets to send ICMP errors by, one for each IP version; none where the process may not have them.
/// Clones are the same sockets.
#[derive(Clone, Debug)]
pub struct IcmpSockets(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl IcmpSockets {
    /// No sockets: no client is told anything.
    pub fn none() -> Self {
        Self(Arc::new(Opened { v4: None, v6: None }))
    }

    /// Opens the sockets where this thread has CAP_NET_RAW, and gives that capability up: this thread and
    /// those that it starts later can only send by these sockets. To be called before the process starts
    /// threads.
    pub fn open() -> Self {
        let raw = |domain| {
            let kind = Type::RAW.nonblocking().cloexec();
            Socket::new(domain, kind, Some(Protocol::from(RAW))).ok()
        };
        let opened = Opened {
            v4: raw(Domain::IPV4),
            v6: raw(Domain::IPV6),
        };
        give_up_net_raw();
        Self(Arc::new(opened))
    }

    /// Whether there are any.
    pub fn is_none(&self) -> bool {
        self.0.v4.is_none() && self.0.v6.is_none()
    }

    /// The socket for packets from that address.
    pub(crate) fn of(&self, from: IpAddr) -> Option<&Socket> {
        match from {
            IpAddr::V4(_) => self.0.v4.as_ref(),
            IpAddr::V6(_) => self.0.v6.as_ref(),
        }
    }

    /// Says in the log what the process can't do without them.
    pub(crate) fn say_what_is_lacking(&self) {
        if self.is_none() {
            tracing::warn!(
                "no CAP_NET_RAW: a UDP client whose endpoints all refuse its datagrams is not told so by \
                 ICMP, and waits for its own time-out"
            );
        }
    }
}

/// Takes CAP_NET_RAW from this thread. Where that fails it keeps what it was given.
fn give_up_net_raw() {
    let given_up = capabilities(None).and_then(|mut sets| {
        sets.effective.remove(CapabilitySet::NET_RAW);
        sets.permitted.remove(CapabilitySet::NET_RAW);
        // The ambient ones follow (capabilities(7)).
        sets.inheritable.remove(CapabilitySet::NET_RAW);
        set_capabilities(None, sets)
    });
    if let Err(error) = given_up {
        let error = io::Error::from(error);
        tracing::debug!(%error, "CAP_NET_RAW not given up");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_sockets_are_opened_once_and_the_capability_is_given_up() {
        // Capabilities are those of a thread.
        let of_thread = std::thread::spawn(|| {
            let had = capabilities(None).unwrap();
            let had = had.effective.contains(CapabilitySet::NET_RAW);
            let sockets = IcmpSockets::open();
            assert_eq!(sockets.is_none(), !had);
            let has = capabilities(None).unwrap();
            let all = has.effective | has.permitted | has.inheritable;
            assert!(!all.contains(CapabilitySet::NET_RAW));
            assert!(IcmpSockets::open().is_none(), "not again");
        });
        of_thread.join().unwrap();
    }
}
