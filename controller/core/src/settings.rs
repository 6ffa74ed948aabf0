//! The settings of a controller, and the node-port range with its two bands.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use fairway_config::class::ClassFilter;
use fairway_config::field::FieldProblem;
use fairway_config::pool::{AddressPool, Forwarding};

/// The settings of a controller; they don't change while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which LoadBalancer Services are ours.
    pub class: ClassFilter,
    /// The node ports there are.
    pub node_ports: NodePortRange,
    /// Whether this controller allocates node ports and health check ports. False in a cluster:
    /// there the API server allocates them, and a Service has what its spec says.
    pub allocates_node_ports: bool,
    /// Whether gateways may be on nodes with a kube-proxy, which forwards for pools that say `forwarding: Node`.
    pub nodes_forward: bool,
    /// Whether gateways report that they exist: where none has reported when everything has been
    /// delivered, there is none. Else there is one gateway, in this process.
    pub gateways_tell: bool,
}

impl Settings {
    /// Standalone mode: the controller takes Services without a class, too, it allocates node
    /// ports, and the gateway is in its process.
    pub fn standalone(class: Arc<str>, node_ports: NodePortRange) -> Self {
        Self {
            class: ClassFilter {
                name: class,
                is_default: true,
            },
            node_ports,
            allocates_node_ports: true,
            nodes_forward: false,
            gateways_tell: false,
        }
    }

    /// In a cluster: the API server allocates node ports, and gateways are processes of their own.
    pub fn cluster(class: ClassFilter, node_ports: NodePortRange) -> Self {
        Self {
            class,
            node_ports,
            allocates_node_ports: false,
            nodes_forward: true,
            gateways_tell: true,
        }
    }

    /// A pool, with a problem where it can't be used under these settings.
    pub(crate) fn judged(&self, pool: &Arc<AddressPool>) -> Arc<AddressPool> {
        let mut pool = Arc::clone(pool);
        if pool.forwarding == Forwarding::Node && !self.nodes_forward {
            Arc::make_mut(&mut pool).problems.push(FieldProblem {
                field: "spec.forwarding".to_owned(),
                message: "is Node, so that kube-proxy forwards what comes to its addresses, and there is none where \
                          Fairway runs without a cluster; write Proxy"
                    .to_owned(),
            });
        }
        pool
    }
}

/// Node ports from `first` to `last`, both included, with a static band at the front.
///
/// KEP-3668: the static band stays free for requested numbers, because ports that request none get
/// theirs from the dynamic band, until that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePortRange {
    first: u16,
    last: u16,
}

impl NodePortRange {
    /// A range, or nothing where it is empty or holds port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The first number.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last number.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `number` is in it.
    pub fn contains(self, number: u16) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// How many numbers the static band has: `min(max(16, size/32), 128)`, and none in a range of
    /// fewer than 16 (KEP-3668).
    pub fn static_len(self) -> u32 {
        let size = u32::from(self.last - self.first) + 1;
        if size < 16 {
            0
        } else {
            (size / 32).clamp(16, 128)
        }
    }

    /// Whether `number` is in the static band.
    pub fn is_static(self, number: u16) -> bool {
        self.contains(number) && u32::from(number - self.first) < self.static_len()
    }
}

impl Default for NodePortRange {
    /// 30000–32767, Kubernetes' default; its static band is 30000–30085.
    fn default() -> Self {
        Self {
            first: 30000,
            last: 32767,
        }
    }
}

impl fmt::Display for NodePortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Not a range of ports.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no range of ports; write FIRST-LAST, as 30000-32767")]
pub struct NotANodePortRange(String);

impl FromStr for NodePortRange {
    type Err = NotANodePortRange;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.split_once('-')
            .and_then(|(first, last)| {
                Self::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
            })
            .ok_or_else(|| NotANodePortRange(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn static_bands_follow_the_formula_of_kep_3668() {
        for (range, len) in [
            ("30000-32767", 86),
            ("30000-30014", 0),
            ("30000-30015", 16),
            ("30000-30127", 16),
            ("20000-29999", 128),
            ("1-65535", 128),
        ] {
            assert_eq!(
                range.parse::<NodePortRange>().unwrap().static_len(),
                len,
                "{range}"
            );
        }
        let range = NodePortRange::default();
        assert!(range.is_static(30000) && range.is_static(30085));
        assert!(!range.is_static(30086) && !range.is_static(29999));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "30000", "2-1", "0-5", "1-65536", "a-b"] {
            assert!(text.parse::<NodePortRange>().is_err(), "{text}");
        }
    }
}
