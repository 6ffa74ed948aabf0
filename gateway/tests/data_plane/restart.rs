//! A gateway that starts again where another one was just now.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fairway_config::net::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::harness::*;

const PORT: u16 = 4007;

/// Connections that the first gateway ended, and whose addresses the kernel keeps in TIME-WAIT.
const SHORT: usize = 300;

/// A server that says something and ends, as one of HTTP that keeps nothing alive.
async fn brief() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"hello").await;
        }
    });
    addr
}

/// How many connections wait in TIME-WAIT (state 6) at a place.
fn in_time_wait(place: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let SocketAddr::V4(place) = place else {
        panic!("of IPv6");
    };
    let ip = u32::from_ne_bytes(place.ip().octets());
    let local = format!(" {ip:08X}:{:04X} ", place.port());
    let rows = table.lines().filter(|row| row.contains(&local));
    rows.filter(|row| row.split_ascii_whitespace().nth(3) == Some("06"))
        .count()
}

#[tokio::test]
async fn after_a_restart_under_load_an_address_of_the_hosts_own_is_served_at_once() {
    let (addr, node) = (vip(), vip());
    let (place, node_port) = (
        SocketAddr::new(addr, PORT),
        SocketAddr::new(node, PORT + 20_000),
    );
    let mut spec = service("busy", addr, PORT, Protocol::Tcp);
    spec.held.node_ports = [(spec.service.ports[0].key(), PORT + 20_000)].into();
    let mut settings = settings();
    settings.core.node_addresses = Some(vec![node]);
    let changes = spec.with(&[brief().await]);
    let running = Running::start(settings.clone(), changes.clone()).await;
    for place in [place, node_port] {
        running.listening(place).await;
        let short = tokio::task::spawn_blocking(move || {
            for _ in 0..SHORT {
                let mut stream = TcpStream::connect(place).unwrap();
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                assert_eq!(all, b"hello");
            }
        });
        within(short).await.unwrap();
        until("the gateway's ends are in TIME-WAIT", || async {
            in_time_wait(place) > SHORT / 2
        })
        .await;
    }
    running.stop().await;

    let began = Instant::now();
    let running = Running::start(settings, changes).await;
    for place in [place, node_port] {
        assert!(in_time_wait(place) > 0, "it proves nothing");
        running.listening(place).await;
        TcpStream::connect(place).unwrap();
    }
    // Far less than the minute that TIME-WAIT takes.
    assert!(began.elapsed() < Duration::from_secs(15));
    running.stop().await;
}
