//! Gateways that forward to each other's node ports.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_config::cluster::Node;
use fairway_config::exchange::Change;
use fairway_config::net::Protocol;
use fairway_config::service::{AppProtocol, ForwardTo, PortKey, ServiceType};
use fairway_gateway::GatewaySettings;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::harness::*;
use crate::local::{in_namespace, ip};

const NODE_PORT: u16 = 30080;

/// A Service with a node port.
fn node_port(protocol: Protocol, app: AppProtocol) -> Spec {
    let mut spec = service("ring", vip(), 80, protocol);
    spec.service.kind = ServiceType::NodePort;
    spec.service.ports[0].app = app;
    spec.held.addresses.clear();
    spec.held.node_ports = [(PortKey { port: 80, protocol }, NODE_PORT)].into();
    spec
}

/// The cluster's only node.
fn node(ip: IpAddr) -> Change {
    let node = Node {
        name: "next".into(),
        internal_ips: vec![ip],
        external_ips: vec![],
        zone: None,
        labels: [].into(),
        excluded: None,
        draining: None,
    };
    Change::Node("next".into(), Some(Arc::new(node)))
}

/// A gateway that serves node ports on `own`, and sends to those of `next`.
async fn gateway(own: IpAddr, next: IpAddr, spec: &Spec, forward_to: ForwardTo) -> Running {
    let mut settings = GatewaySettings {
        workers: 1,
        ..settings()
    };
    settings.core.forward_to = forward_to;
    settings.core.node_addresses = Some(vec![own]);
    let mut changes = spec.with(&[dead()]);
    changes.push(node(next));
    let running = Running::start(settings, changes).await;
    running.listening(SocketAddr::new(own, NODE_PORT)).await;
    running
}

async fn ring_at([a, b, c]: [IpAddr; 3], spec: &Spec) -> Vec<Running> {
    let mut ring = Vec::new();
    for (own, next) in [(a, b), (b, c), (c, a)] {
        ring.push(gateway(own, next, spec, ForwardTo::NodePorts).await);
    }
    ring
}

async fn ring(app: AppProtocol) -> (Vec<Running>, SocketAddr) {
    let [a, b, c] = [vip(), vip(), vip()];
    let ring = ring_at([a, b, c], &node_port(Protocol::Tcp, app)).await;
    (ring, SocketAddr::new(a, NODE_PORT))
}

fn sum(ring: &[Running], count: impl Fn(&fairway_gateway::port::Port) -> u64) -> u64 {
    let ports = ring.iter().flat_map(|running| running.gateway.ports());
    ports.map(|(_, port)| count(&port)).sum()
}

fn dialled(ring: &[Running]) -> u64 {
    sum(ring, |port| port.counters.connect.get().0.iter().sum())
}

fn loops(ring: &[Running]) -> u64 {
    sum(ring, |port| port.counters.rejected()["loop"])
}

#[tokio::test]
async fn a_ring_of_gateways_ends_a_connection_instead_of_feeding_itself() {
    let (ring, entrance) = ring(AppProtocol::Opaque).await;
    // The reset may come before connect(2) is looked at.
    let greeting = || async { TcpStream::connect(entrance).await?.read_u8().await };
    let error = within(greeting()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    until("nothing is left", || async {
        sum(&ring, |port| port.counters.active.get()) == 0
    })
    .await;
    // The last ones may be reset before they count.
    let dialled = dialled(&ring);
    assert!((16..=32).contains(&dialled), "{dialled} connections");
    assert_eq!(loops(&ring), 1);
    for running in ring {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_ring_ends_a_request_too() {
    let (ring, entrance) = ring(AppProtocol::Http).await;
    // The second one meets connections that the first one left.
    for requests in 1..=2 {
        let mut client = TcpStream::connect(entrance).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: ring\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        within(client.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        let dialled = dialled(&ring);
        assert!(dialled <= 32 * requests, "{dialled} connections");
    }
    for running in ring {
        running.stop().await;
    }
}

/// Datagrams sent on to endpoints.
fn sent(running: &Running) -> u64 {
    sum(std::slice::from_ref(running), |port| {
        port.counters.datagrams_received.get()
    })
}

/// A client of a place with the hops that a system starts with.
async fn udp_client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = UdpSocket::bind(any).await.unwrap();
    client.connect(to).await.unwrap();
    client
}

/// Sends a datagram and reads what it is answered.
async fn answer(client: &UdpSocket) -> SocketAddr {
    let mut answer = [0; 100];
    client.send(b"x").await.unwrap();
    let bytes = within(client.recv(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer[..bytes]).parse().unwrap()
}

/// A server that answers each datagram with its own address.
async fn answering(at: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind(at).await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((_, client)) = socket.recv_from(&mut [0; 100]).await {
            let _ = socket.send_to(addr.to_string().as_bytes(), client).await;
        }
    });
    addr
}

async fn a_ring_ends_datagrams(addresses: [IpAddr; 3]) {
    let spec = node_port(Protocol::Udp, AppProtocol::Opaque);
    let ring = ring_at(addresses, &spec).await;
    // Each worker takes datagrams in order: when the last one has passed a gateway, so has all
    // that came before.
    for (at, datagrams, passed) in [(0, 10, 10), (1, 1, 1), (2, 1, 1), (0, 1, 11)] {
        for _ in 0..datagrams {
            let client = udp_client(SocketAddr::new(addresses[at], NODE_PORT)).await;
            client.send(b"x").await.unwrap();
        }
        until("they have passed", || async { sent(&ring[at]) >= passed }).await;
    }
    let sent: Vec<u64> = ring.iter().map(sent).collect();
    assert_eq!(sent, [11, 1, 1]);
    for running in ring {
        running.stop().await;
    }
}

async fn a_client_reaches_a_node_that_does_not_forward([own, next]: [IpAddr; 2]) {
    let server = answering(SocketAddr::new(next, NODE_PORT)).await;
    let spec = node_port(Protocol::Udp, AppProtocol::Opaque);
    let running = gateway(own, next, &spec, ForwardTo::NodePorts).await;
    let client = udp_client(SocketAddr::new(own, NODE_PORT)).await;
    for _ in 0..3 {
        assert_eq!(answer(&client).await, server);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_ring_ends_datagrams_ipv4() {
    a_ring_ends_datagrams([vip(), vip(), vip()]).await;
}

#[tokio::test]
async fn a_datagram_reaches_a_node_that_does_not_forward_ipv4() {
    a_client_reaches_a_node_that_does_not_forward([vip(), vip()]).await;
}

#[tokio::test]
async fn datagrams_have_the_same_in_ipv6() {
    if !in_namespace("loops::datagrams_have_the_same_in_ipv6") {
        return;
    }
    // Local by a route, as 127.0.0.0/8 is: an address of an interface would never be dialled.
    ip("route add local fd00::/64 dev lo");
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    let [a, b, c, d] = ["fd00::a", "fd00::b", "fd00::c", "fd00::d"]
        .map(|address| address.parse::<IpAddr>().unwrap());
    a_ring_ends_datagrams([a, b, c]).await;
    a_client_reaches_a_node_that_does_not_forward([a, d]).await;
}

/// What is sent on with few hops comes back to a VIP too, by way of a node's own proxy.
#[tokio::test]
async fn a_socket_takes_what_the_port_behind_it_takes_as_that_changes() {
    for of_vip in [false, true] {
        let (own, next, external) = (vip(), vip(), vip());
        let mut spec = node_port(Protocol::Udp, AppProtocol::Opaque);
        let mut place = SocketAddr::new(own, NODE_PORT);
        if of_vip {
            spec.service.kind = ServiceType::LoadBalancer;
            spec.held.addresses = vec![external];
            place = SocketAddr::new(external, 80);
        }
        a_place_takes_what_the_port_behind_it_takes(place, [own, next], spec).await;
    }
}

async fn a_place_takes_what_the_port_behind_it_takes(
    place: SocketAddr,
    [own, next]: [IpAddr; 2],
    mut spec: Spec,
) {
    let at_node = answering(SocketAddr::new(next, NODE_PORT)).await;
    let direct = answering(SocketAddr::from(([127, 0, 0, 1], 0))).await;
    let running = gateway(own, next, &spec, ForwardTo::Endpoints).await;
    running.send(spec.endpoints(&[direct])).await;
    running.listening(place).await;
    let mut change = async |forward_to| {
        spec.service.asks.forward_to = Some(forward_to);
        running.send(vec![spec.change()]).await;
    };
    let reached = async |client: &UdpSocket, server: SocketAddr| {
        until("the server is reached", || async {
            // There is a moment without a socket, and one with the old one.
            let _ = client.send(b"x").await;
            let mut answer = [0; 100];
            let received = client.recv(&mut answer);
            let received = tokio::time::timeout(Duration::from_millis(100), received).await;
            matches!(received, Ok(Ok(bytes)) if answer[..bytes] == *server.to_string().as_bytes())
        })
        .await;
    };
    for _ in 0..2 {
        change(ForwardTo::Endpoints).await;
        // By the socket that takes it: the one before does not. (A client that was answered before
        // may have answers waiting.)
        let forwarded = udp_client(place).await;
        SockRef::from(&forwarded).set_ttl_v4(31).unwrap();
        reached(&forwarded, direct).await;
        change(ForwardTo::NodePorts).await;
        // Nothing is sent to a node port by a socket that takes everything.
        reached(&udp_client(place).await, at_node).await;
        // What was sent again and is on its way is behind us once a client of its own is answered.
        let last = udp_client(place).await;
        assert_eq!(answer(&last).await, at_node);
        let before = sent(&running);
        forwarded.send(b"x").await.unwrap();
        assert_eq!(answer(&last).await, at_node);
        assert_eq!(sent(&running), before + 1);
    }
    running.stop().await;
}
