//! Endpoints that are not reached: who is told, and when it is over.

use std::net::SocketAddr;

use fairway_config::exchange::ListenerState;
use fairway_config::net::Protocol;
use fairway_config::view::EndpointRow;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

use crate::harness::*;

const PORT: u16 = 4009;

fn tcp(of: &str) -> (Spec, SocketAddr) {
    let vip = vip();
    let spec = service(of, vip, PORT, Protocol::Tcp);
    (spec, SocketAddr::new(vip, PORT))
}

/// A client that gets nothing.
async fn refused(vip: SocketAddr) {
    let greeting = async { TcpStream::connect(vip).await?.read_u8().await };
    within(greeting).await.unwrap_err();
}

fn row(running: &Running, endpoint: SocketAddr) -> EndpointRow {
    let rows = running.gateway.endpoints();
    let row = rows.into_iter().find(|row| row.endpoint.0 == endpoint);
    row.expect("the endpoint is listed")
}

fn is_unreachable(state: &ListenerState) -> bool {
    matches!(state, ListenerState::Unreachable { .. })
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_shown_as_unreachable_until_it_is_reached_again() {
    let (spec, vip) = tcp("shop");
    let gone = dead();
    let mut running = Running::start(settings(), spec.with(&[gone])).await;
    running.listening(vip).await;
    assert_eq!(row(&running, gone).why, "gets traffic");
    refused(vip).await;
    let first = row(&running, gone);
    assert_eq!(first.state, "eligible");
    assert!(
        first.why.contains("the last try failed at 2") && first.why.ends_with("refused once"),
        "{}",
        first.why
    );
    for _ in 0..4 {
        refused(vip).await;
    }
    let shown = row(&running, gone);
    assert_eq!(shown.state, "unreachable");
    assert!(
        shown.why.starts_with("is unreachable since 2")
            && shown.why.contains("connection refused 5 times"),
        "{}",
        shown.why
    );
    // And the whole port is: all it has is this one endpoint.
    running.listener(vip, is_unreachable).await;
    let told = |report: Option<&fairway_config::exchange::Report>| {
        report.is_some_and(|it| it.listeners.iter().any(|it| is_unreachable(&it.state)))
    };
    running.report(&spec.name, told).await;
    let explained = format!("{:?}", running.gateway.explain(&spec.name));
    assert!(
        explained.contains("takes connections, but no endpoint is reached: "),
        "{explained}"
    );

    // A failed dial takes time, and counts.
    let (_, port) = running.gateway.ports().remove(0);
    assert_eq!(port.counters.connect.get().0.iter().sum::<u64>(), 5);
    assert_eq!(port.unreachable().len(), 1);

    echo_at(gone).await;
    greeted(vip).await;
    running.listening(vip).await;
    assert_eq!(row(&running, gone).why, "gets traffic");
    running.report(&spec.name, |report| !told(report)).await;
    assert!(port.unreachable().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_port_takes_traffic_as_long_as_one_endpoint_is_reached() {
    let (spec, vip) = tcp("half");
    let (alive, gone) = (echo().await, dead());
    let running = Running::start(settings(), spec.with(&[alive, gone])).await;
    running.listening(vip).await;
    until("the dead one is known to be", || async {
        greeted(vip).await;
        row(&running, gone).state == "unreachable"
    })
    .await;
    let (_, port) = running.gateway.ports().remove(0);
    until("the control task has seen it", || async {
        port.unreachable().len() == 1
    })
    .await;
    running.listening(vip).await;
    assert_eq!(row(&running, alive).state, "eligible");
    running.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_removed_is_forgotten() {
    let (spec, vip) = tcp("forgets");
    let (gone, alive) = (dead(), echo().await);
    let running = Running::start(settings(), spec.with(&[gone])).await;
    running.listening(vip).await;
    for _ in 0..3 {
        refused(vip).await;
    }
    running.listener(vip, is_unreachable).await;
    running.send(spec.endpoints(&[alive])).await;
    running.listening(vip).await;
    running.send(spec.endpoints(&[alive, gone])).await;
    until("it is back", || async {
        running.gateway.endpoints().len() == 2
    })
    .await;
    assert_eq!(row(&running, gone).state, "eligible");
    running.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_datagrams_is_unreachable_until_it_answers() {
    let vip = SocketAddr::new(vip(), PORT);
    let spec = service("dns", vip.ip(), PORT, Protocol::Udp);
    let gone = dead();
    let running = Running::start(settings(), spec.with(&[gone])).await;
    running.listening(vip).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(vip).await.unwrap();
    until("the endpoint is unreachable", || async {
        // An error tells of an earlier datagram.
        let _ = client.send(b"?").await;
        row(&running, gone).state == "unreachable"
    })
    .await;
    running.listener(vip, is_unreachable).await;

    let server = UdpSocket::bind(gone).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        while let Ok((bytes, from)) = server.recv_from(&mut buffer).await {
            let _ = server.send_to(&buffer[..bytes], from).await;
        }
    });
    until("it answers", || async {
        let _ = client.send(b"?").await;
        row(&running, gone).why == "gets traffic"
    })
    .await;
    running.listening(vip).await;
    running.stop().await;
}
