//! Objects as authors leave them, for the tests and the benchmark of this crate: each names in full what
//! it is about, and has the rest from here.

use fairway_config::names::ServiceName;
use fairway_config::net::{AddressRange, Protocol};
use fairway_config::pool::{AddressBlock, AddressPool, Forwarding};
use fairway_config::selector::Selector;
use fairway_config::service::{
    AppProtocol, Asks, ExternalTrafficPolicy, IpFamilyPolicy, Service, ServicePort, ServiceType,
    TargetPort,
};
use fairway_config::time::Timestamp;

/// A port that leads to the same port of its endpoints.
pub(crate) fn port(protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort {
        name: None,
        protocol,
        port,
        target: TargetPort::Number(port),
        node_port,
        app: AppProtocol::Opaque,
    }
}

/// A LoadBalancer Service that asks for nothing, with one TCP port.
pub(crate) fn service(name: ServiceName, created: i64, number: u16) -> Service {
    Service {
        name,
        uid: None,
        created: Some(Timestamp(created)),
        deleting: false,
        labels: Default::default(),
        kind: ServiceType::LoadBalancer,
        class: None,
        cluster_ips: vec![],
        headless: false,
        external_name: None,
        has_selector: true,
        ports: vec![port(Protocol::Tcp, number, None)],
        external_traffic_policy: ExternalTrafficPolicy::Cluster,
        client_ip_affinity: None,
        source_ranges: vec![],
        ip_families: vec![],
        ip_family_policy: IpFamilyPolicy::SingleStack,
        allocate_node_ports: true,
        health_check_node_port: None,
        publish_not_ready_addresses: false,
        external_ips: vec![],
        status_addresses: vec![],
        asks: Asks::default(),
        notices: vec![],
    }
}

/// A pool of one block that is for every Service.
pub(crate) fn pool(name: &str, range: AddressRange, avoid_ends: bool) -> AddressPool {
    AddressPool {
        name: name.into(),
        created: None,
        blocks: vec![AddressBlock { range, avoid_ends }],
        auto_assign: true,
        priority: 100,
        service_selector: Selector::default(),
        namespace_selector: Selector::default(),
        quota_per_namespace: None,
        forwarding: Forwarding::Proxy,
        notices: vec![],
        problems: vec![],
    }
}
