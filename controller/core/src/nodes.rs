//! Addresses of nodes, which are never given out: traffic to the node would go to the Service.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::names::ClusterName;

/// The addresses of nodes: `status.addresses` of types InternalIP and ExternalIP.
#[derive(Debug, Default)]
pub(crate) struct NodeAddresses {
    by_node: HashMap<ClusterName, BTreeSet<IpAddr>>,
    by_address: HashMap<IpAddr, BTreeSet<ClusterName>>,
}

impl NodeAddresses {
    /// Takes in a node, or that it is gone. Answers with the addresses that now belong to another
    /// node than before, or to one, or to none.
    pub(crate) fn put(&mut self, name: &ClusterName, node: Option<&Node>) -> Vec<IpAddr> {
        let has: BTreeSet<IpAddr> = node
            .into_iter()
            .flat_map(|node| node.internal_ips.iter().chain(&node.external_ips))
            .map(IpAddr::to_canonical)
            .collect();
        let had = match has.is_empty() {
            true => self.by_node.remove(name),
            false => self.by_node.insert(Arc::clone(name), has.clone()),
        };
        let moved = had.unwrap_or_default();
        let moved = moved.symmetric_difference(&has).copied();
        moved
            .filter(|address| {
                let before = self.node(*address).cloned();
                let nodes = self.by_address.entry(*address).or_default();
                if !nodes.remove(name) {
                    nodes.insert(Arc::clone(name));
                }
                if nodes.is_empty() {
                    self.by_address.remove(address);
                }
                before.as_ref() != self.node(*address)
            })
            .collect()
    }

    /// The node that has this address; of several, the first by name.
    pub(crate) fn node(&self, address: IpAddr) -> Option<&ClusterName> {
        self.by_address.get(&address)?.first()
    }

    /// Every address of a node.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &ClusterName)> {
        let all = self.by_address.iter();
        all.filter_map(|(address, nodes)| Some((*address, nodes.first()?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_two_nodes_is_a_nodes_until_both_let_go() {
        let mut nodes = NodeAddresses::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let node = |name: &str, ips: &[IpAddr]| Node {
            name: name.into(),
            internal_ips: Vec::new(),
            external_ips: ips.to_vec(),
            zone: None,
            labels: Default::default(),
            excluded: None,
            draining: None,
        };
        let mut put = |name: &str, ips: &[IpAddr]| {
            let moved = nodes.put(&name.into(), Some(&node(name, ips)));
            (moved, nodes.node(address).map(|it| it.to_string()))
        };
        assert_eq!(put("b", &[address]), (vec![address], Some("b".to_owned())));
        assert_eq!(put("b", &[address]), (vec![], Some("b".to_owned())));
        assert_eq!(put("a", &[address]), (vec![address], Some("a".to_owned())));
        assert_eq!(put("b", &[]), (vec![], Some("a".to_owned())));
        assert_eq!(put("a", &[]), (vec![address], None));
        assert_eq!(nodes.iter().count(), 0);
    }
}
