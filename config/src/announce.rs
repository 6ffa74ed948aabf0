//! How the addresses of a pool are announced.

use crate::names::ClusterName;
use crate::selector::Selector;

/// How many entries each list of `spec.announce` may have. The CRD says the same.
pub const MAX_ANNOUNCE_ENTRIES: usize = 64;

/// `spec.announce` of an AddressPool, checked. The default announces nothing.
///
/// A part that can't be read is none: it may say to whom or from where nothing is to be announced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Announcement {
    /// `layer2`: by ARP and NDP.
    pub layer2: Option<Layer2Announcement>,
    /// `bgp`: to routers.
    pub bgp: Option<BgpAnnouncement>,
    /// `routes: kernel`: as routes in a kernel table, for a routing daemon on the same host.
    pub kernel_routes: bool,
}

/// `spec.announce.layer2`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layer2Announcement {
    /// `interfaces`: on which of a gateway's interfaces. Empty: on those with a subnet that has the
    /// address in it, and where there is none on that of the default route.
    pub interfaces: Vec<Box<str>>,
    /// `nodeSelector`: by the gateways on which Nodes.
    pub node_selector: Selector,
}

/// `spec.announce.bgp`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BgpAnnouncement {
    /// `peers`: to which BGPPeers; empty: to all.
    pub peers: Vec<ClusterName>,
    /// The communities of `communities` (RFC 1997): AS number and value, 16 bits each.
    pub communities: Vec<u32>,
    /// The large communities of `communities` (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// `localPreference`: for peers of the same AS.
    pub local_preference: Option<u32>,
    /// `aggregationLength`: how long the announced IPv4 prefixes are; 32 where it is not given.
    pub aggregation_length: Option<u8>,
    /// `aggregationLengthV6`: the same of IPv6; 128 where it is not given.
    pub aggregation_length_v6: Option<u8>,
    /// `nodeSelector`: by the gateways on which Nodes.
    pub node_selector: Selector,
}

impl Announcement {
    /// Whether it announces nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What must stand where an interface is named.
pub const INTERFACE_NAME: &str =
    "the name of an interface: at most 15 bytes, without slash, colon and space";

/// Whether an interface of Linux can be called so (`dev_valid_name` in net/core/dev.c).
pub fn is_interface_name(text: &str) -> bool {
    let is_legal = |c: char| c != '/' && c != ':' && !c.is_whitespace() && !c.is_control();
    (1..=15).contains(&text.len()) && text != "." && text != ".." && text.chars().all(is_legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_as_linux_names_them() {
        for name in ["eth0", "bond0.100", "br-lan@x", "é0"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "sixteen-bytes-xx",
        ] {
            assert!(!is_interface_name(name), "{name}");
        }
    }
}
