//! What the process may take: memory for an idle connection, and file descriptors until there are
//! none. One test, as both are the process's own.

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
use std::net::{SocketAddr, TcpListener, TcpStream};

use fairway_config::net::Protocol;
use process::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PORT: u16 = 4005;
/// As many as the backend's queue takes.
const CONNECTIONS: usize = 3800;

/// What an idle connection may take of this process's memory, in bytes; ARCHITECTURE.md says 0.43 KB. What
/// else a process takes meanwhile is a tenth of that.
const EACH: usize = 470;

#[tokio::test]
async fn idle_connections_are_light_and_without_file_descriptors_accepting_pauses_and_goes_on() {
    let addr = vip();
    let vip = SocketAddr::new(addr, PORT);
    let spec = service("bounds", addr, PORT, Protocol::Tcp);
    let (backend, endpoint) = silent_server();
    let running = Running::start(settings(), spec.with(&[endpoint])).await;
    running.listening(vip).await;
    memory(&running, vip, &backend).await;
    files(&running, vip, &backend).await;
    running.stop().await;
}

async fn memory(running: &Running, vip: SocketAddr, backend: &TcpListener) {
    let connected = |count: u64| async move {
        until("the connections are carried", || async {
            connections_to_endpoints(running) == count
        })
        .await;
    };
    // What is made once is not counted.
    let first: Vec<_> = (0..200).map(|_| TcpStream::connect(vip).unwrap()).collect();
    connected(200).await;
    let before = resident();
    let mut rest = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        rest.push(TcpStream::connect(vip).unwrap());
    }
    connected(200 + CONNECTIONS as u64).await;
    let each = resident().saturating_sub(before) / CONNECTIONS;
    println!("an idle connection takes {each} bytes");
    assert!(each < EACH, "an idle connection takes {each} bytes");
    drop((first, rest));
    // The other half is the backend's to end.
    backend.set_nonblocking(true).unwrap();
    while backend.accept().is_ok() {}
    connected(0).await;
}

/// Memory of its own that the process has, in bytes (`RssAnon` of proc_pid_status(5)). Pages of the program are not
/// counted: they come and go with what else is done, 64 KB at a time.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse::<usize>().unwrap() * 1024
}

async fn files(running: &Running, vip: SocketAddr, backend: &TcpListener) {
    // Made while there are file descriptors: connecting takes none.
    let clients: Vec<_> = (0..60).map(|_| tcp_socket()).collect();
    let limit = getrlimit(Resource::Nofile);
    let next = std::fs::File::open("/dev/null").unwrap();
    let highest = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&next)).unwrap();
    drop(next);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(highest + 30),
            maximum: limit.maximum,
        },
    )
    .unwrap();
    for client in &clients {
        client.connect(&vip.into()).unwrap();
    }
    until("accepting pauses", || async {
        running.gateway.accept_pauses() > 0
    })
    .await;
    let mut clients: Vec<TcpStream> = clients.into_iter().map(Into::into).collect();
    let mut last = clients.pop().unwrap();
    drop(clients);
    setrlimit(Resource::Nofile, limit).unwrap();
    // It goes on: the last one, which had to wait, is carried.
    last.write_all(b"x").unwrap();
    let (sender, carried) = tokio::sync::oneshot::channel();
    let backend = backend.try_clone().unwrap();
    backend.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = backend.accept() {
            if matches!(stream.read(&mut [0; 1]), Ok(1)) {
                let _ = sender.send(());
                return;
            }
        }
    });
    within(carried).await.unwrap();
}
