//! HTTP: where the ports of one address are used up, another one is dialled from, as for connections of opaque bytes.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use fairway_config::net::Protocol;
use fairway_config::service::AppProtocol;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;
use crate::local::{in_namespace, ip};

const PORT: u16 = 4011;

/// A client that has sent a request and waits for the answer.
fn asking(from: u16, vip: SocketAddr) -> std::net::TcpStream {
    use std::io::Write as _;
    let client = client_from(from, vip);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = std::net::TcpStream::from(client);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: ports\r\nConnection: close\r\n\r\n")
        .unwrap();
    client
}

/// The endpoint takes the request, and does not answer it.
async fn taken(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let (mut stream, from) = within(listener.accept()).await.unwrap();
    within(stream.read_u8()).await.unwrap();
    (stream, from)
}

#[tokio::test]
async fn where_ports_are_used_up_requests_are_dialled_from_another_address() {
    let test = "http_sources::where_ports_are_used_up_requests_are_dialled_from_another_address";
    if !in_namespace(test) {
        return;
    }
    let vip = SocketAddr::new(vip(), PORT);
    let mut spec = service("ports", vip.ip(), PORT, Protocol::Tcp);
    spec.service.ports[0].app = AppProtocol::Http;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    // Each worker finds by itself which addresses have ports.
    let settings = fairway_gateway::GatewaySettings {
        workers: 1,
        ..settings()
    };
    let running = Running::start(settings, spec.with(&[backend])).await;
    running.listening(vip).await;
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").unwrap();
    std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0").unwrap();
    let mut open = Vec::new();
    for n in 0..4 {
        let client = asking(49_000 + n, vip);
        let (server, from) = taken(&listener).await;
        assert_eq!(from.ip().to_string(), "127.0.0.1");
        open.push((client, server));
    }
    let mut answer = String::new();
    let mut refused = asking(49_004, vip);
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("connect_failed"), "{answer}");
    let (_, port) = running.gateway.ports().remove(0);
    assert_eq!(port.counters.connect_errors()["exhausted"], 1);

    ip("addr add 127.0.0.2/8 dev lo");
    let number = std::cell::Cell::new(49_005);
    until("the other address stands in", || async {
        let client = asking(number.replace(number.get() + 1), vip);
        let accepted = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
        drop(client);
        accepted.is_ok_and(|accepted| accepted.unwrap().1.ip().to_string() == "127.0.0.2")
    })
    .await;
    running.stop().await;
}
