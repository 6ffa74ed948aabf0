//! Listeners: where they stand, what they say where they can't, and how they change hands.

use std::net::SocketAddr;

use fairway_config::exchange::ListenerState;
use fairway_config::net::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

const PORT: u16 = 4001;

fn failed(state: &ListenerState, why: &str) -> bool {
    matches!(state, ListenerState::Failed { reason, .. } if reason == why)
}

#[tokio::test]
async fn a_place_changes_hands_without_closing() {
    let addr = vip();
    let vip = SocketAddr::new(addr, PORT);
    let (blue, green) = (
        service("blue", addr, PORT, Protocol::Tcp),
        service("green", addr, PORT, Protocol::Tcp),
    );
    let (old, new) = (echo().await, echo().await);
    // The Service that lets go drains; it is not cut while this runs.
    let mut settings = settings();
    settings.drain_timeout = PATIENCE;
    let running = Running::start(settings, blue.with(&[old])).await;
    running.listening(vip).await;
    let (mut kept, _) = greeted(vip).await;
    let mut change = green.with(&[new]);
    change.push(blue.gone());
    // No moment without a listener: every connection that is made meanwhile is taken.
    let connecting = tokio::spawn(async move {
        loop {
            let (_, from) = greeted(vip).await;
            if from == new {
                return;
            }
            assert_eq!(from, old);
        }
    });
    running.send(change).await;
    within(connecting).await.unwrap();
    kept.write_all(b"x").await.unwrap();
    assert_eq!(within(kept.read_u8()).await.unwrap(), b'x');
    drop(kept);
    running.stop().await;
}

#[tokio::test]
async fn a_port_that_another_process_holds_is_taken_once_it_is_free() {
    let addr = vip();
    let vip = SocketAddr::new(addr, PORT);
    // With SO_REUSEPORT, which would let us in beside it.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&vip.into()).unwrap();
    socket.listen(1).unwrap();
    let spec = service("held", addr, PORT, Protocol::Tcp);
    let other = service("other", addr, PORT + 1, Protocol::Tcp);
    let backend = echo().await;
    let mut changes = spec.with(&[backend]);
    changes.extend(other.with(&[backend]));
    let running = Running::start(settings(), changes).await;
    running
        .listener(vip, |state| failed(state, "PortInUse"))
        .await;
    // It is the state of that listener alone.
    running.listening(SocketAddr::new(addr, PORT + 1)).await;
    drop(socket);
    running.listening(vip).await;
    greeted(vip).await;
    running.stop().await;
}

#[tokio::test]
async fn an_address_that_is_not_the_hosts_is_said_so() {
    let addr = "198.51.100.7".parse().unwrap();
    let spec = service("elsewhere", addr, PORT, Protocol::Tcp);
    let backend = echo().await;
    let mut running = Running::start(settings(), spec.with(&[backend])).await;
    running
        .report(&spec.name, |report| {
            report.is_some_and(|report| {
                report
                    .listeners
                    .iter()
                    .any(|l| failed(&l.state, "AddressNotLocal"))
            })
        })
        .await;
    assert!(running.gateway.missing().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn one_port_number_serves_tcp_and_udp() {
    let addr = vip();
    let vip = SocketAddr::new(addr, PORT);
    let spec = service("tcp", addr, PORT, Protocol::Tcp);
    let other = service("udp", addr, PORT, Protocol::Udp);
    let (tcp, udp) = (echo().await, udp_echo().await);
    let mut changes = spec.with(&[tcp]);
    changes.extend(other.with(&[udp]));
    let running = Running::start(settings(), changes).await;
    assert_eq!(greeted(vip).await.1, tcp);
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(vip).await.unwrap();
    client.send(b"x").await.unwrap();
    let mut answer = vec![0; 100];
    let bytes = within(client.recv(&mut answer)).await.unwrap();
    assert_eq!(&answer[..bytes], format!("{udp} x").as_bytes());
    running.stop().await;
}

#[tokio::test]
async fn what_happens_to_one_service_does_not_disturb_another() {
    let (one, other) = (vip(), vip());
    let kept = service("kept", one, PORT, Protocol::Tcp);
    let changing = service("changing", other, PORT, Protocol::Tcp);
    let backend = echo().await;
    let mut changes = kept.with(&[backend]);
    changes.extend(changing.with(&[backend]));
    let running = Running::start(settings(), changes).await;
    let (mut stream, _) = greeted(SocketAddr::new(one, PORT)).await;
    let vip = SocketAddr::new(other, PORT);
    for _ in 0..20 {
        running.send(vec![changing.gone()]).await;
        until("it is gone", || async {
            TcpStream::connect(vip).await.is_err()
        })
        .await;
        running.send(vec![changing.change()]).await;
        running.listening(vip).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(within(stream.read_u8()).await.unwrap(), b'x');
    }
    running.stop().await;
}

#[tokio::test]
async fn the_health_check_port_tells_how_many_endpoints_are_local() {
    let (addr, node) = (vip(), vip());
    let mut spec = service("checked", addr, PORT, Protocol::Tcp);
    spec.service.external_traffic_policy = fairway_config::service::ExternalTrafficPolicy::Local;
    spec.held.health_check_node_port = Some(PORT + 7);
    let backend = echo().await;
    let mut settings = settings();
    settings.core.node_addresses = Some(vec![node]);
    let running = Running::start(settings, spec.with(&[backend])).await;
    let check = SocketAddr::new(node, PORT + 7);
    running.listening(check).await;
    let ask = || async {
        let mut stream = TcpStream::connect(check).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        answer.to_ascii_lowercase()
    };
    let answer = ask().await;
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    assert!(
        answer.contains("x-load-balancing-endpoint-weight: 1\r\n"),
        "{answer}"
    );
    let body = r#"{"service":{"namespace":"default","name":"checked"},"localendpoints":1,"serviceproxyhealthy":true}"#;
    assert!(answer.ends_with(body), "{answer}");
    running.send(spec.endpoints(&[])).await;
    until("the check fails", || async {
        ask().await.starts_with("http/1.1 503 ")
    })
    .await;
    running.stop().await;
}

/// Workers carry out a bounded number of commands in a round, so those of the last of many Services wait a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_connection_that_is_accepted_is_served_among_hundreds_of_services_that_come() {
    const SERVICES: u16 = 300;
    for _ in 0..5 {
        let (addr, backend) = (vip(), echo().await);
        let running = Running::start(settings(), Vec::new()).await;
        let specs = (0..SERVICES)
            .map(|n| service(&format!("many-{n}"), addr, PORT + 100 + n, Protocol::Tcp));
        // Routes are programmed in the order of names.
        let mut places: Vec<_> = specs.map(|spec| (spec.name.clone(), spec)).collect();
        places.sort_by(|(a, _), (b, _)| a.cmp(b));
        let clients = places.iter().rev().take(8).map(|(_, spec)| {
            let place = SocketAddr::new(addr, spec.service.ports[0].port);
            tokio::spawn(async move {
                let mut stream = loop {
                    if let Ok(stream) = TcpStream::connect(place).await {
                        break stream;
                    }
                    tokio::task::yield_now().await;
                };
                stream.read_u8().await
            })
        });
        let clients: Vec<_> = clients.collect();
        let changes = places.iter().flat_map(|(_, spec)| spec.with(&[backend]));
        running.send(changes.collect()).await;
        for client in clients {
            let greeted = within(client).await.unwrap();
            assert!(
                greeted.is_ok(),
                "it was accepted and then reset: {greeted:?}"
            );
        }
        running.stop().await;
    }
}
