//! Objects for tests of the builder, and what is read off its routes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod claims;
mod endpoints;
mod node_ports;
mod preferred;
mod random;
mod refused;

use std::collections::BTreeMap;

use fairway_config::cluster::Node;
use fairway_config::endpoints::{EndpointHost, EndpointSlice, SliceEndpoint, SlicePort};
use fairway_config::exchange::{Batch, Change, Held, ListenerState};
use fairway_config::names::NamespacedName;
use fairway_config::net::{AddressRange, IpFamily, Protocol};
use fairway_config::pool::{AddressBlock, AddressPool, Forwarding};
use fairway_config::service::{
    AppProtocol, ExternalTrafficPolicy, ForwardTo, Notice, PortKey, Service, ServicePort,
    ServiceType, TargetPort,
};
use fairway_config::time::Timestamp;

use super::*;
use crate::testing::ip;

fn settings() -> RouteSettings {
    RouteSettings {
        admin: vec!["127.0.0.1:9901".parse().unwrap()],
        ..RouteSettings::new("edge".into())
    }
}

const HTTP: PortKey = PortKey {
    protocol: Protocol::Tcp,
    port: 80,
};

/// A LoadBalancer that holds `address` and node port 30080, ready for changes.
fn stored(name: &str, address: &str) -> StoredService {
    let port = ServicePort {
        target: TargetPort::Number(8080),
        ..ServicePort::new(Protocol::Tcp, 80)
    };
    let service = Service {
        created: Some(Timestamp(100)),
        ip_families: vec![IpFamily::IPv4],
        ..Service::new(
            ServiceName::new("web", name),
            ServiceType::LoadBalancer,
            vec![port],
        )
    };
    StoredService {
        held: Held {
            addresses: vec![ip(address)],
            node_ports: BTreeMap::from([(HTTP, 30080)]),
            health_check_node_port: None,
        },
        first_seen: Timestamp(100),
        ..StoredService::new(Arc::new(service))
    }
}

fn with(mut stored: StoredService, change: impl FnOnce(&mut Service)) -> StoredService {
    change(Arc::make_mut(&mut stored.service));
    stored
}

fn service(stored: StoredService) -> Change {
    Change::Service(stored.service.name.clone(), Some(Arc::new(stored)))
}

fn host(text: &str) -> EndpointHost {
    text.parse()
        .map(EndpointHost::Ip)
        .unwrap_or_else(|_| EndpointHost::Name(text.into()))
}

/// A slice of a Service with endpoints at these hosts and port 8080; `host@node` names the node.
fn slice(service: &str, name: &str, hosts: &[&str]) -> EndpointSlice {
    let endpoint = |text: &&str| {
        let (address, node) = text.split_once('@').unwrap_or((text, ""));
        SliceEndpoint {
            node: (!node.is_empty()).then(|| node.into()),
            ..SliceEndpoint::new(host(address), true)
        }
    };
    EndpointSlice {
        ports: vec![SlicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
            app: AppProtocol::Opaque,
        }],
        endpoints: hosts.iter().map(endpoint).collect(),
        ..EndpointSlice::new(
            NamespacedName::new("web", name),
            ServiceName::new("web", service),
        )
    }
}

fn slices(slice: EndpointSlice) -> Change {
    Change::EndpointSlice(
        slice.name.clone(),
        slice.from_endpoints,
        Some(Arc::new(slice)),
    )
}

fn node(name: &str, ips: &[&str]) -> Change {
    let node = Node {
        name: name.into(),
        internal_ips: ips.iter().map(|text| ip(text)).collect(),
        external_ips: Vec::new(),
        zone: None,
        labels: BTreeMap::new(),
        excluded: (name == "cordoned").then_some("it is excluded"),
        draining: None,
    };
    Change::Node(name.into(), Some(Arc::new(node)))
}

fn pool(name: &str, first: &str, last: &str, forwarding: Forwarding) -> Change {
    let range = AddressRange::new(ip(first), ip(last)).unwrap();
    let block = AddressBlock {
        range,
        avoid_ends: false,
    };
    let pool = AddressPool {
        forwarding,
        ..AddressPool::new(name.into(), vec![block])
    };
    Change::Pool(name.into(), Some(Arc::new(pool)))
}

fn edge() -> Change {
    pool("edge", "203.0.113.0", "203.0.113.15", Forwarding::Proxy)
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch::synced(changes)
}

fn resolved(host: &EndpointHost) -> Vec<IpAddr> {
    match host {
        EndpointHost::Ip(ip) => vec![*ip],
        EndpointHost::Name(name) if **name == *"db.example" => {
            vec![ip("198.51.100.1"), ip("127.0.0.1")]
        }
        EndpointHost::Name(_) => Vec::new(),
    }
}

fn builder(settings: RouteSettings, changes: Vec<Change>) -> Builder {
    let mut builder = Builder::new(settings);
    builder.set_host_addresses(
        ["192.0.2.1", "127.0.0.1", "127.0.0.9", "fe80::1"]
            .map(ip)
            .into(),
    );
    builder.apply(&batch(changes));
    builder.build(&resolved);
    builder
}

fn route(builder: &Builder, name: &str) -> Arc<Route> {
    builder
        .route(&ServiceName::new("web", name))
        .expect("a route")
        .clone()
}

fn claims(route: &Route) -> Vec<String> {
    let claims = route.ports.iter().flat_map(|port| &port.claims);
    claims
        .map(|claim| format!("{}/{}", claim.listen, claim.protocol))
        .collect()
}

fn eligible(route: &Route) -> Vec<String> {
    let endpoints = route.ports.iter().flat_map(|port| &port.endpoints.eligible);
    endpoints
        .map(|endpoint| endpoint.addr.to_string())
        .collect()
}

fn reasons(route: &Route) -> Vec<&str> {
    route.notices.iter().map(|notice| &*notice.reason).collect()
}

fn refused(route: &Route) -> Vec<String> {
    let refused = route.refused.iter();
    refused
        .map(|it| format!("{} {}", it.endpoint, it.why))
        .collect()
}

#[test]
fn nothing_is_built_before_everything_is_known() {
    let mut builder = Builder::new(settings());
    let half = Batch {
        synced: false,
        ..batch(vec![service(stored("shop", "203.0.113.1"))])
    };
    builder.apply(&half);
    assert!(builder.build(&resolved).is_empty());
    builder.apply(&batch(vec![edge()]));
    assert_eq!(builder.build(&resolved).len(), 1);
    assert!(builder.build(&resolved).is_empty(), "nothing changed since");
}
