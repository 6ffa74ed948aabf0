//! What has to hold after every step, and when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use fairway_config::conditions::ADDRESS_ASSIGNED;
use fairway_config::exchange::{Change, Write};
use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::PortKey;
use fairway_controller_core::State;

use crate::store::{NOW, Store, batch};

impl Store {
    /// No condition says one thing and its message another.
    pub(crate) fn check_messages(&self) {
        for (name, stored) in &self.services {
            let said = stored.status.conditions.get(ADDRESS_ASSIGNED);
            let Some(said) = said else { continue };
            let claims_all = said.message.contains("assigned.") && !said.message.contains("only ");
            let shown = stored.status.ingress.iter();
            let shown: Vec<_> = shown.map(|ingress| ingress.ip).collect();
            assert_eq!(shown, stored.held.addresses, "{name}");
            let names_all = shown
                .iter()
                .all(|ip| said.message.contains(&ip.to_string()));
            assert!(names_all, "{name} has {shown:?}: {said:?}");
            if said.status {
                assert_eq!(&*said.reason, "Assigned", "{name}: {said:?}");
                assert!(claims_all || shown.is_empty(), "{name}: {said:?}");
            } else {
                assert_ne!(&*said.reason, "Assigned", "{name}: {said:?}");
                assert!(!claims_all && !said.message.is_empty(), "{name}: {said:?}");
            }
        }
    }

    /// Nothing is given twice.
    pub(crate) fn check_exclusive(&self) {
        let mut claims = BTreeMap::new();
        let mut numbers: BTreeMap<u16, (ServiceName, BTreeSet<(u8, PortKey)>)> = BTreeMap::new();
        for (name, stored) in &self.services {
            for ip in &stored.held.addresses {
                let status = stored.status.ingress.iter().find(|i| i.ip == *ip);
                let keys: BTreeSet<PortKey> = status
                    .into_iter()
                    .flat_map(|i| i.ports.iter().map(|p| p.key))
                    .collect();
                for key in keys {
                    if let Some(other) = claims.insert((*ip, key), name.clone()) {
                        panic!("{ip} {key} is with {other} and {name}");
                    }
                }
            }
            let held = &stored.held;
            let ports = held.node_ports.iter().map(|(key, n)| (*n, (0, *key)));
            let zero = PortKey {
                protocol: Protocol::Tcp,
                port: 0,
            };
            let health = held.health_check_node_port.map(|n| (n, (1, zero)));
            for (number, usage) in ports.chain(health) {
                let (owner, uses) = numbers
                    .entry(number)
                    .or_insert_with(|| (name.clone(), BTreeSet::new()));
                assert_eq!(owner, name, "node port {number} is with two Services");
                let same = |u: &(u8, PortKey)| u.0 != usage.0 || u.1.protocol == usage.1.protocol;
                assert!(!uses.iter().any(same), "{name} uses {number} twice");
                uses.insert(usage);
            }
        }
    }
}

/// Lets everything come to rest; fails where it does not.
pub(crate) fn rest(state: &mut State, store: &mut Store) {
    for _ in 0..8 {
        let writes = state.settle(NOW);
        let services: Vec<_> = writes
            .iter()
            .filter(|w| matches!(w, Write::Service { .. }))
            .collect();
        if services.is_empty() {
            assert!(state.settle(NOW).is_empty(), "settling twice writes again");
            return;
        }
        for write in services {
            let changes = match store.write(write) {
                Some(change) => vec![change],
                None => {
                    let Write::Service { name, .. } = write else {
                        unreachable!()
                    };
                    state.refused(name);
                    let stored = store.services.get(name).cloned();
                    vec![Change::Service(name.clone(), stored)]
                }
            };
            state.apply(&batch(changes));
        }
        store.check_exclusive();
        store.check_messages();
    }
    panic!("it does not come to rest");
}
