//! A process with few file descriptors: clients wait instead of being reset, one Service leaves
//! some to another, and the rest of the process has what it needs. In a process of its own, whose limit is lowered for good.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod process;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use fairway_config::net::Protocol;
use fairway_gateway::GatewaySettings;
use process::*;
use rustix::process::{Resource, Rlimit, setrlimit};
use socket2::Socket;

const PORT: u16 = 4006;
/// For clients, gateway and backend together.
const LIMIT: u64 = 400;
const CLIENTS: usize = 120;
/// Two to a connection, of seven eighths of what is left without the reserve (128), unused
/// connections to HTTP endpoints (an eighth), and the listeners.
const MOST: usize = (400 - 128 - 50 - 2) * 7 / 8 / 2;
/// Of the other Service.
const OTHERS: usize = 5;

#[tokio::test]
async fn clients_beyond_the_limit_wait_and_none_is_reset() {
    let lowered = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    setrlimit(Resource::Nofile, lowered).unwrap();
    let addr = vip();
    let vip = SocketAddr::new(addr, PORT);
    let spec = service("few", addr, PORT, Protocol::Tcp);
    let (backend, endpoint) = silent_server();
    let one_worker = GatewaySettings {
        workers: 1,
        ..settings()
    };
    let other_vip = SocketAddr::new(process::vip(), PORT);
    let other = service("other", other_vip.ip(), PORT, Protocol::Tcp);
    let mut changes = spec.with(&[endpoint]);
    changes.extend(other.with(&[endpoint]));
    let running = Running::start(one_worker, changes).await;
    running.listening(vip).await;
    running.listening(other_vip).await;
    let carried = || connections_to_endpoints(&running) as usize;

    let mut clients: Vec<Socket> = (0..CLIENTS).map(|_| tcp_socket()).collect();
    for client in &clients {
        client.connect(&vip.into()).unwrap();
    }
    until("as many as may be are carried", || async {
        carried() == MOST && running.gateway.accept_pauses() > 0
    })
    .await;
    // The rest of the process goes on: it opens files.
    let files: Vec<_> = (0..16)
        .map(|_| std::fs::File::open("/dev/null").unwrap())
        .collect();
    drop(files);
    for mut client in &clients {
        client.set_nonblocking(true).unwrap();
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        client.write_all(b"x").unwrap();
    }
    let failed = || {
        running
            .gateway
            .ports()
            .iter()
            .map(|(_, port)| port.counters.failed.get())
            .sum::<u64>()
    };
    assert_eq!(failed(), 0);

    // What it leaves is for others.
    let others: Vec<Socket> = (0..OTHERS).map(|_| tcp_socket()).collect();
    for client in &others {
        client.connect(&other_vip.into()).unwrap();
        client.set_linger(Some(Duration::ZERO)).unwrap();
    }
    until("the others are carried", || async {
        carried() == MOST + OTHERS
    })
    .await;
    drop(others);
    until("the others are gone", || async {
        failed() == OTHERS as u64
    })
    .await;

    // As many as go are taken from the queue.
    let waiting = CLIENTS - MOST;
    for client in clients.drain(..waiting) {
        client.set_linger(Some(Duration::ZERO)).unwrap();
    }
    until("those that waited are carried", || async {
        failed() == (OTHERS + waiting) as u64 && carried() == MOST
    })
    .await;
    drop(clients);
    drop(backend);
    running.stop().await;
}
