//! Objects as authors leave them, for the tests and the benchmark of this crate: each names in full what
//! it is about, and has the rest from here.

use fairway_config::names::ServiceName;
use fairway_config::net::{AddressRange, Protocol};
use fairway_config::pool::{AddressBlock, AddressPool};
use fairway_config::service::{Service, ServicePort, ServiceType};
use fairway_config::time::Timestamp;

/// A port that leads to the same port of its endpoints.
pub(crate) fn port(protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort {
        node_port,
        ..ServicePort::new(protocol, port)
    }
}

/// A LoadBalancer Service that asks for nothing, with one TCP port.
pub(crate) fn service(name: ServiceName, created: i64, number: u16) -> Service {
    let ports = vec![port(Protocol::Tcp, number, None)];
    Service {
        created: Some(Timestamp(created)),
        ..Service::new(name, ServiceType::LoadBalancer, ports)
    }
}

/// A pool of one block that is for every Service.
pub(crate) fn pool(name: &str, range: AddressRange, avoid_ends: bool) -> AddressPool {
    AddressPool::new(name.into(), vec![AddressBlock { range, avoid_ends }])
}
