//! Whatever a tenant writes into a Service of their own: through the real reading, the real
//! controller and the real gateway, but for the I/O. Nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::class::ClassFilter;
use fairway_config::exchange::{Batch, Change, Held, Status, StoredService, Write};
use fairway_config::names::ServiceName;
use fairway_config::object::{Object, read};
use fairway_config::service::ServiceType;
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, State, events};
use fairway_gateway_core::build::{Builder, RouteSettings};
use fairway_gateway_core::route::Claim;
use fairway_integration::hostile::{self, Aims, Random};
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_000_000);
const SEEDS: u64 = 400;

/// Tenants' Services in one round.
const MANY: usize = 12;

const AIMS: Aims<'_> = Aims {
    addresses: &[
        // The others' own.
        "203.0.113.1",
        "203.0.113.2",
        "203.0.113.3",
        "2001:db8:f::1",
        // A node's, within a pool and outside.
        "203.0.113.9",
        "192.0.2.20",
        // Free ones, of a pool that is for others, and of none.
        "203.0.113.5",
        "203.0.113.6",
        "2001:db8:f::5",
        "203.0.113.65",
        "198.51.100.7",
    ],
    words: &["k", "open", "edge", "staff", "shop", "tenant", "*"],
};

/// What there is beside the tenant: pools, a node, and Services of others.
fn others() -> Vec<Value> {
    let pool = |name: &str, spec: Value| json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": name}, "spec": spec});
    let service = |name: &str, annotations: Value, port: u16| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": name, "annotations": annotations},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9",
                "ipFamilyPolicy": "PreferDualStack", "ports": [{"port": port}]}})
    };
    vec![
        pool(
            "edge",
            json!({"addresses": ["203.0.113.0/27", "2001:db8:f::/124"]}),
        ),
        pool(
            "staff",
            json!({"addresses": ["203.0.113.64/28"], "namespaceSelector":
                {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}),
        ),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop",
            "labels": {"kubernetes.io/metadata.name": "shop"}}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "tenant",
            "labels": {"kubernetes.io/metadata.name": "tenant"}}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}, "status":
            {"addresses": [{"type": "InternalIP", "address": "192.0.2.20"},
                {"type": "ExternalIP", "address": "203.0.113.9"}]}}),
        service(
            "alone",
            json!({"fairway.dev/addresses": "203.0.113.1,2001:db8:f::1"}),
            80,
        ),
        service(
            "shares",
            json!({"fairway.dev/addresses": "203.0.113.2", "fairway.dev/sharing-key": "k"}),
            80,
        ),
        service(
            "open",
            json!({"fairway.dev/addresses": "203.0.113.3", "fairway.dev/sharing-key": "open",
                "fairway.dev/sharing-namespaces": "*"}),
            80,
        ),
    ]
}

/// A store that takes every write, a controller and a gateway.
struct World {
    services: BTreeMap<ServiceName, Arc<StoredService>>,
    state: State,
    builder: Builder,
    counter: u64,
}

impl World {
    fn new() -> Self {
        let mut builder = Builder::new(RouteSettings::new("edge".into()));
        builder.set_host_addresses(BTreeSet::from(["198.51.100.1".parse().unwrap()]));
        let mut world = Self {
            services: BTreeMap::new(),
            state: State::new(fairway_controller_core::Settings::cluster(
                ClassFilter {
                    name: "fairway.dev/gateway".into(),
                    is_default: true,
                },
                NodePortRange::default(),
            )),
            builder,
            counter: 0,
        };
        world.take(&others());
        world
    }

    /// Reads objects and lets everything follow from them; counts the writes.
    fn take(&mut self, documents: &[Value]) -> usize {
        let mut changes = Vec::new();
        for document in documents {
            let Ok(read) = read(document) else {
                // Malformed objects are held back.
                continue;
            };
            changes.push(match read.object {
                Object::Service(it) => {
                    let name = it.name.clone();
                    let former = self.services.get(&name);
                    let held = former.map(|it| it.held.clone()).unwrap_or_default();
                    let status = former.map(|it| it.status.clone()).unwrap_or_default();
                    self.store(name, it, held, status)
                }
                Object::Node(it) => Change::Node(Arc::clone(&it.name), Some(it)),
                Object::Namespace(it) => Change::Namespace(Arc::clone(&it.name), Some(it)),
                Object::Pool(it) => Change::Pool(Arc::clone(&it.name), Some(it)),
                other => panic!("{other:?}"),
            });
        }
        let mut count = 0;
        let mut rounds = 0;
        while !changes.is_empty() {
            rounds += 1;
            // An answer to an answer, and no more.
            assert!(rounds < 6, "it does not come to rest");
            let batch = Batch {
                sequence: rounds,
                ..Batch::synced(std::mem::take(&mut changes))
            };
            self.state.apply(&batch);
            self.builder.apply(&batch);
            self.builder.build(&|_| Vec::new());
            for write in self.state.settle(NOW) {
                count += 1;
                let Write::Service {
                    name, held, status, ..
                } = write
                else {
                    continue;
                };
                let stored = &self.services[&name];
                events::events(&stored.status, &stored.held.addresses, &status, true);
                let said: usize = status
                    .conditions
                    .iter()
                    .map(|(_, it)| it.message.len())
                    .sum();
                assert!(said < 16_384, "{name}: {said} bytes in conditions");
                let service = Arc::clone(&stored.service);
                changes.push(self.store(name, service, held, status));
            }
        }
        count
    }

    fn store(
        &mut self,
        name: ServiceName,
        service: Arc<fairway_config::service::Service>,
        held: Held,
        status: Status,
    ) -> Change {
        self.counter += 1;
        let stored = Arc::new(StoredService {
            held,
            status,
            version: self.counter,
            ..StoredService::new(service)
        });
        self.services.insert(name.clone(), Arc::clone(&stored));
        Change::Service(name, Some(stored))
    }

    /// What a Service has: what it holds, what is said of it, and what the gateway listens on for it.
    fn has(&self, name: &ServiceName) -> (Held, Status, Vec<Claim>) {
        let stored = &self.services[name];
        let route = self.builder.route(name);
        let ports = route.iter().flat_map(|route| &route.ports);
        let claims = ports.flat_map(|port| port.claims.clone()).collect();
        (stored.held.clone(), stored.status.clone(), claims)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn shop() -> [ServiceName; 3] {
    ["alone", "shares", "open"].map(|name| ServiceName::new("shop", name))
}

#[test]
fn nothing_that_a_tenant_writes_reaches_the_others() {
    let mut given = 0;
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut world = World::new();
        let before = shop().map(|name| world.has(&name));
        assert_eq!(
            before[0].0.addresses,
            [ip("203.0.113.1"), ip("2001:db8:f::1")]
        );
        let mut all = Vec::new();
        for n in 0..MANY {
            let name = format!("tenant-{n}");
            let mut document = hostile::service(&mut random, &name, &AIMS);
            document["metadata"]["namespace"] = "tenant".into();
            all.push(document);
        }
        let tell = |what: &str| format!("seed {seed}: {what}\n{}", json!(all));
        // At once, one by one, and each anew as another one.
        let mut writes = world.take(&all[..MANY / 2]);
        for document in &all[MANY / 2..] {
            writes += world.take(std::slice::from_ref(document));
        }
        for (n, document) in all.iter().enumerate() {
            let mut other = document.clone();
            other["metadata"]["name"] = format!("tenant-{}", (n + 1) % MANY).into();
            writes += world.take(&[other]);
        }
        // Each change is answered, and what waits for what it lets go of; others are not rewritten.
        assert!(
            writes <= MANY * MANY * 2,
            "{}",
            tell(&format!("{writes} writes"))
        );
        for (name, before) in shop().iter().zip(&before) {
            assert_eq!(world.has(name), *before, "{}", tell(&name.to_string()));
        }
        for (name, stored) in &world.services {
            assert!(
                world.state.explain(name).is_some(),
                "{}",
                tell(&name.to_string())
            );
            if &*name.namespace != "tenant" {
                continue;
            }
            given += usize::from(!stored.held.addresses.is_empty());
            for address in &stored.held.addresses {
                let open = stored.service.kind == ServiceType::LoadBalancer
                    && *address == ip("203.0.113.3");
                let free = match address {
                    IpAddr::V4(it) => {
                        let [a, b, c, d] = it.octets();
                        [a, b, c] == [203, 0, 113] && d < 32 && ![1, 2, 3, 9].contains(&d)
                    }
                    IpAddr::V6(it) => {
                        let low = it.to_bits() - 0x2001_0db8_000f_0000_0000_0000_0000_0000;
                        low < 16 && low != 1
                    }
                };
                assert!(free || open, "{}", tell(&format!("{name} has {address}")));
            }
        }
        // No place to listen is two Services', nor anybody's that does not hold its address.
        let mut claimed = BTreeMap::new();
        for route in world.builder.routes() {
            for claim in route.ports.iter().flat_map(|port| &port.claims) {
                let former = claimed.insert(*claim, &route.service);
                assert!(former.is_none(), "{}", tell(&format!("{claim:?}")));
            }
        }
    }
    // They were served all the same where what they wrote means something.
    assert!(given > usize::try_from(SEEDS).unwrap(), "{given}");
}
