//! What the annotations of a Service say of one of its ports.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::balance::Balance;
use crate::health_check::EndpointCheck;
use crate::port_limits::PortLimits;

/// How one port is carried, beyond what its Service's spec says. The default is that nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// How an endpoint is chosen; none: in turn by weight, and a UDP flow by the client's address and port.
    pub balance: Option<Balance>,
    /// How its endpoints are checked (`fairway.dev/health-check`); none: they are not.
    pub health_check: Option<Arc<EndpointCheck>>,
    /// Endpoints are told the client's address by a PROXY protocol header of this version; none: they are not.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Whose PROXY protocol headers are read, and required; empty: nobody's.
    pub accept_proxy_protocol: Vec<IpNet>,
    /// The proxies whose HTTP headers about a client are kept; empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    /// Endpoints are dialled from the client's own address, where packets to it come back to Fairway.
    pub transparent: bool,
    /// What is said of the PROXY protocol can't be read. Nobody is let in: without the headers an endpoint may believe
    /// what a client writes, and a client may pass for the proxy in front of it.
    pub closed: bool,
    /// Clients that are kept out of this port (`fairway.dev/deny-source-ranges` with ports), besides those of the Service.
    pub deny_source_ranges: Vec<IpNet>,
    /// How much of the port a client may have.
    pub limits: PortLimits,
}

impl PortOptions {
    /// Whether a peer has to announce its client by a PROXY protocol header.
    pub fn announces(&self, peer: IpAddr) -> bool {
        !self.accept_proxy_protocol.is_empty() && contains(&self.accept_proxy_protocol, peer)
    }

    /// Whether the HTTP headers of a peer about its client are kept.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        !self.trusted_proxies.is_empty() && contains(&self.trusted_proxies, peer)
    }
}

fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl fmt::Display for ProxyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}
