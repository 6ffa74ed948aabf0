//! What happens at random, and the objects that it is about: few names, addresses and ports, for
//! clashes to be frequent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::names::ServiceName;
use fairway_config::net::{AddressRange, IpFamily, Protocol};
use fairway_config::pool::AddressPool;
use fairway_config::selector::{Expression, Selector};
use fairway_config::service::*;
use proptest::prelude::*;

use crate::samples;

/// What an author may write in a Service, small enough for clashes to be frequent.
#[derive(Clone, Debug)]
pub(crate) struct RandomService {
    pub(crate) kind: ServiceType,
    pub(crate) foreign: bool,
    pub(crate) ports: Vec<(Protocol, u16, Option<u16>)>,
    pub(crate) asked: Option<u8>,
    pub(crate) pool: Option<u8>,
    pub(crate) wish: Option<u8>,
    pub(crate) key: Option<u8>,
    pub(crate) consents: bool,
    pub(crate) families: u8,
    pub(crate) policy: IpFamilyPolicy,
    pub(crate) allocate: bool,
    pub(crate) local: bool,
    pub(crate) label: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Put(usize, RandomService),
    /// A Service that is there gets another sharing key, and stays what it is otherwise.
    Key(usize, Option<u8>),
    Delete(usize),
    Pool(u8, Option<RandomPool>),
    Namespace(u8, Option<bool>),
    /// A node with one address, or none.
    Node(u8, Option<u8>),
    /// The store applies what was written up to here, or refuses it.
    Echo,
    /// The controller starts anew from the store; this many writes under way come about first.
    Crash(usize),
    /// The next settling's writes are lost from this one on.
    Lose(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct RandomPool {
    pub(crate) first: u8,
    pub(crate) len: u8,
    pub(crate) v6: bool,
    pub(crate) auto: bool,
    pub(crate) priority: i32,
    pub(crate) labelled: bool,
    pub(crate) namespaced: bool,
    pub(crate) quota: Option<u32>,
}

pub(crate) fn spec() -> impl Strategy<Value = RandomService> {
    let kind = prop_oneof![
        5 => Just(ServiceType::LoadBalancer),
        1 => Just(ServiceType::NodePort),
        1 => Just(ServiceType::ClusterIP),
    ];
    let port = (
        prop_oneof![3 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp)],
        80u16..83,
        proptest::option::weighted(0.3, 29999u16..30019),
    );
    let policy = prop_oneof![
        3 => Just(IpFamilyPolicy::SingleStack),
        1 => Just(IpFamilyPolicy::PreferDualStack),
        1 => Just(IpFamilyPolicy::RequireDualStack),
    ];
    let asks = (
        proptest::option::weighted(0.2, 0u8..14),
        proptest::option::weighted(0.1, 0u8..3),
        proptest::option::weighted(0.2, 0u8..14),
        proptest::option::weighted(0.5, 0u8..2),
        any::<bool>(),
    );
    (
        kind,
        proptest::bool::weighted(0.1),
        proptest::collection::vec(port, 1..4),
        asks,
        0u8..4,
        policy,
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                kind,
                foreign,
                ports,
                (asked, pool, wish, key, consents),
                families,
                policy,
                flags,
            )| {
                RandomService {
                    kind,
                    foreign,
                    ports,
                    asked,
                    pool,
                    wish,
                    key,
                    consents,
                    families,
                    policy,
                    allocate: flags.0,
                    local: flags.1,
                    label: flags.2,
                }
            },
        )
}

pub(crate) fn pool_spec() -> impl Strategy<Value = RandomPool> {
    (
        0u8..8,
        1u8..6,
        any::<bool>(),
        proptest::bool::weighted(0.8),
        0i32..2,
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.3, 1u32..4),
    )
        .prop_map(
            |(first, len, v6, auto, priority, labelled, namespaced, quota)| RandomPool {
                first,
                len,
                v6,
                auto,
                priority,
                labelled,
                namespaced,
                quota,
            },
        )
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0usize..12, spec()).prop_map(|(i, spec)| Event::Put(i, spec)),
        3 => (0usize..12, proptest::option::weighted(0.7, 0u8..2)).prop_map(|(i, k)| Event::Key(i, k)),
        3 => (0usize..12).prop_map(Event::Delete),
        2 => (0u8..3, proptest::option::weighted(0.8, pool_spec())).prop_map(|(i, p)| Event::Pool(i, p)),
        1 => (0u8..2, proptest::option::of(any::<bool>())).prop_map(|(i, l)| Event::Namespace(i, l)),
        1 => (0u8..2, proptest::option::weighted(0.7, 0u8..14)).prop_map(|(i, a)| Event::Node(i, a)),
        5 => Just(Event::Echo),
        2 => (0usize..4).prop_map(Event::Crash),
        1 => (0usize..3).prop_map(Event::Lose),
    ]
}

/// 0–6 are IPv4 addresses, 7–13 IPv6 ones.
pub(crate) fn address(n: u8) -> IpAddr {
    if n < 7 {
        IpAddr::from([10, 0, 0, n])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n - 7)])
    }
}

pub(crate) fn name(i: usize) -> ServiceName {
    ServiceName::new(if i.is_multiple_of(2) { "a" } else { "b" }, format!("s{i}"))
}

pub(crate) fn service(i: usize, spec: &RandomService) -> Service {
    let families = match spec.families {
        0 | 1 => vec![],
        2 => vec![IpFamily::IPv4],
        _ => vec![IpFamily::IPv6],
    };
    let mut ports = BTreeMap::new();
    for (protocol, port, node_port) in &spec.ports {
        ports.entry((*protocol, *port)).or_insert(*node_port);
    }
    let ports = ports.into_iter();
    Service {
        labels: spec
            .label
            .then(|| ("edge".to_owned(), "yes".to_owned()))
            .into_iter()
            .collect(),
        kind: spec.kind,
        class: spec.foreign.then(|| "other/one".into()),
        ports: ports
            .map(|((protocol, number), node_port)| samples::port(protocol, number, node_port))
            .collect(),
        external_traffic_policy: if spec.local {
            ExternalTrafficPolicy::Local
        } else {
            ExternalTrafficPolicy::Cluster
        },
        ip_families: families,
        ip_family_policy: spec.policy,
        allocate_node_ports: spec.allocate,
        status_addresses: spec.wish.map(address).into_iter().collect(),
        asks: Asks {
            addresses: spec.asked.map(address).into_iter().collect(),
            pool: spec.pool.map(|n| format!("p{n}").into()),
            sharing_key: spec.key.map(|n| format!("k{n}").into()),
            sharing_namespaces: if spec.consents {
                SharingNamespaces::All
            } else {
                SharingNamespaces::Own
            },
            ..Asks::default()
        },
        ..samples::service(name(i), (i / 3) as i64, 80)
    }
}

pub(crate) fn pool(n: u8, spec: &RandomPool) -> AddressPool {
    let base = if spec.v6 { 7 } else { 0 };
    let first = spec.first.min(6);
    let last = (first + spec.len).min(6);
    let requirement =
        |key: &str, value: &str| Selector::from(Expression::Equal(key.into(), value.into()));
    let range = AddressRange::new(address(base + first), address(base + last)).unwrap();
    let avoid_ends = spec.len > 3 && last > first + 1;
    AddressPool {
        auto_assign: spec.auto,
        priority: spec.priority,
        service_selector: if spec.labelled {
            requirement("edge", "yes")
        } else {
            Selector::default()
        },
        namespace_selector: if spec.namespaced {
            requirement("tier", "gold")
        } else {
            Selector::default()
        },
        quota_per_namespace: spec.quota,
        ..samples::pool(&format!("p{n}"), range, avoid_ends)
    }
}

pub(crate) fn node(name: &Arc<str>, address: IpAddr) -> Node {
    Node {
        name: Arc::clone(name),
        internal_ips: vec![address],
        external_ips: vec![],
        zone: None,
        labels: BTreeMap::new(),
        excluded: None,
        draining: None,
    }
}
