//! BGPPeers: the routers to which addresses are announced by BGP.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::field::FieldProblem;
use crate::names::{ClusterName, NamespacedName};
use crate::selector::{Selector, SelectorExt as _};
use crate::service::Notice;

/// The port of BGP.
pub const BGP_PORT: u16 = 179;
/// `holdTime` where it is not given; the keepalive time is then a third of it (RFC 4271, 10).
pub const HOLD_TIME: Duration = Duration::from_secs(90);
/// `connectTime` where it is not given.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The intervals of `bfd` where they are not given.
pub const BFD_INTERVAL: Duration = Duration::from_millis(100);
/// `bfd.detectMultiplier` where it is not given.
pub const BFD_MULTIPLIER: u8 = 3;
/// How long a password may be, in bytes: the kernel takes no longer key (`TCP_MD5SIG`).
pub const MAX_PASSWORD: usize = 80;

/// A fairway.dev/v1alpha1 BGPPeer, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct BgpPeer {
    /// Its name.
    pub name: ClusterName,
    /// `metadata.generation`, which grows with each change of `spec`; 0 where there is none.
    pub generation: i64,
    /// `spec.myASN`: the AS that the gateways are in.
    pub my_asn: u32,
    /// `spec.peerASN` or `spec.dynamicASN`: the AS that the peer has to be in.
    pub peer_asn: PeerAsn,
    /// `spec.peerAddress`; none: the peer is found on `interface` (unnumbered).
    pub peer_address: Option<IpAddr>,
    /// `spec.interface`: the link of a peer without an address, or with a link-local one.
    pub interface: Option<Box<str>>,
    /// `spec.peerPort`.
    pub peer_port: u16,
    /// `spec.sourceAddress`: from where the session is opened.
    pub source_address: Option<IpAddr>,
    /// `spec.routerID`: the BGP identifier of a gateway.
    pub router_id: Option<Ipv4Addr>,
    /// `spec.holdTime` as it is offered; zero: the session never times out.
    pub hold_time: Duration,
    /// `spec.keepaliveTime`; zero where the hold time is.
    pub keepalive_time: Duration,
    /// `spec.connectTime`: the pause between two attempts to connect.
    pub connect_time: Duration,
    /// `spec.passwordSecret`: the Secret that has the password. While that is not known the peer has no session.
    pub password_secret: Option<NamespacedName>,
    /// `spec.password`, for TCP MD5 (RFC 2385).
    pub password: Option<PeerPassword>,
    /// `spec.bfd`; none: no BFD.
    pub bfd: Option<BfdSettings>,
    /// `spec.ebgpMultiHop`: a peer of another AS may be more than one hop away.
    pub ebgp_multi_hop: bool,
    /// `spec.ttlSecurity`: only what nobody farther away than one hop can send is taken (RFC 5082).
    pub ttl_security: bool,
    /// `spec.enableGracefulRestart`.
    pub graceful_restart: bool,
    /// `spec.nodeSelectors`: gateways on Nodes that one of these selects have the session; empty:
    /// all gateways. See [`BgpPeer::is_for`].
    pub node_selectors: Vec<Selector>,
    /// `spec.nextHop`: what is announced as next hop; none: the gateway's own address.
    pub next_hop: Option<IpAddr>,
    /// What is well-formed and wrong.
    pub notices: Vec<Notice>,
    /// What can't be read, or can't be done. While there is any, no session is opened.
    pub problems: Vec<FieldProblem>,
}

/// The AS of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAsn {
    /// This one.
    Number(u32),
    /// Any but ours.
    External,
    /// Ours.
    Internal,
}

/// `spec.bfd` (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdSettings {
    /// `receiveInterval`.
    pub receive_interval: Duration,
    /// `transmitInterval`.
    pub transmit_interval: Duration,
    /// `detectMultiplier`.
    pub detect_multiplier: u8,
}

/// Why there is no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordProblem {
    /// What is to be said of the field that names the Secret.
    pub why: Arc<str>,
    /// That is how the Secret is. Else it could not be read, and what was known of it before may still hold.
    pub is_read: bool,
}

/// The password of a session.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerPassword(Arc<str>);

impl BgpPeer {
    /// A peer of this AS at this address that says nothing else.
    pub fn new(name: ClusterName, my_asn: u32, peer_asn: PeerAsn, address: IpAddr) -> Self {
        Self {
            name,
            generation: 0,
            my_asn,
            peer_asn,
            peer_address: Some(address),
            interface: None,
            peer_port: BGP_PORT,
            source_address: None,
            router_id: None,
            hold_time: HOLD_TIME,
            keepalive_time: HOLD_TIME / 3,
            connect_time: CONNECT_TIME,
            password_secret: None,
            password: None,
            bfd: None,
            ebgp_multi_hop: false,
            ttl_security: false,
            graceful_restart: false,
            node_selectors: Vec::new(),
            next_hop: None,
            notices: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Whether a gateway has a session with it: `labels` are those of its Node; nothing where there
    /// is no such Node, which only a selector of everything selects.
    pub fn is_for(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let selects = |it: &Selector| match labels {
            Some(labels) => it.matches(labels),
            None => it.selects_all(),
        };
        self.node_selectors.is_empty() || self.node_selectors.iter().any(selects)
    }
}

impl PeerPassword {
    /// This password.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }
}

impl Deref for PeerPassword {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PeerPassword {
    /// Debug output may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerPassword")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::selector::Expression;

    #[test]
    fn a_gateway_has_the_sessions_of_its_node() {
        let address = "192.0.2.1".parse().unwrap();
        let mut peer = BgpPeer::new("tor".into(), 64512, PeerAsn::Number(64513), address);
        let rack = |value: &str| BTreeMap::from([("rack".to_owned(), value.to_owned())]);
        let selector = |value: &str| {
            Selector::from_iter([Expression::Equal("rack".to_owned(), value.to_owned())])
        };
        assert!(peer.is_for(None) && peer.is_for(Some(&rack("1"))));
        peer.node_selectors = vec![selector("1"), selector("2")];
        for (node, is_for) in [("1", true), ("2", true), ("3", false)] {
            assert_eq!(peer.is_for(Some(&rack(node))), is_for, "rack {node}");
        }
        assert!(!peer.is_for(None));
        peer.node_selectors.push(Selector::default());
        assert!(peer.is_for(None) && peer.is_for(Some(&rack("3"))));
    }

    #[test]
    fn a_password_is_not_in_debug_output() {
        let address = "192.0.2.1".parse().unwrap();
        let peer = BgpPeer {
            password: Some(PeerPassword::new("hush")),
            ..BgpPeer::new("tor".into(), 64512, PeerAsn::External, address)
        };
        assert!(!format!("{peer:?}").contains("hush"));
        assert_eq!(peer.password.as_deref(), Some("hush"));
    }
}
