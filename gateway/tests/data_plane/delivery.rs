//! A client that reads slowly has every byte, whatever ends meanwhile. The tests run themselves
//! again in network namespaces of their own, where the VIP is made local by a route: it must not go
//! before.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use fairway_config::net::Protocol;
use fairway_config::service::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::*;
use crate::local::{in_namespace, ip};

const PORT: u16 = 4006;
const VIP: &str = "203.0.113.5";

/// What the endpoint says: little enough for the kernel to take it all from the gateway, more than
/// the client's receive buffer by far, and enough to be spliced.
const BODY: usize = 400_000;

/// What ends while the client reads.
#[derive(Clone, Copy, Debug)]
enum EndsFirst {
    Process,
    Service,
}

/// A server that reads to a blank line, answers with [`BODY`] bytes and closes.
async fn talkative() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&[7; BODY]).await.unwrap();
            });
        }
    });
    addr
}

/// A gateway with a Service at [`VIP`], and a client that asked and reads nothing yet, when all of
/// the answer is written to it.
async fn answered(app: AppProtocol, drain: Duration) -> (Running, Spec, TcpStream) {
    let addr = SocketAddr::new(VIP.parse().unwrap(), PORT);
    let mut spec = service("slow", addr.ip(), PORT, Protocol::Tcp);
    spec.service.ports[0].app = app;
    let mut settings = settings();
    settings.make_local = true;
    settings.drain_timeout = drain;
    let running = Running::start(settings, spec.with(&[talkative().await])).await;
    running.listening(addr).await;
    let client = tcp_socket();
    client.set_recv_buffer_size(4096).unwrap();
    client.connect(&addr.into()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = TcpStream::from(client);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: slow\r\nConnection: close\r\n\r\n")
        .unwrap();
    if app == AppProtocol::Opaque {
        client.shutdown(Shutdown::Write).unwrap();
    }
    let port = running.gateway.ports().remove(0).1;
    until("all is written", || async {
        port.counters.transmitted.get() >= BODY as u64
    })
    .await;
    (running, spec, client)
}

fn is_local() -> bool {
    ip("-4 route show table local proto 70").contains(VIP)
}

async fn every_byte(app: AppProtocol, end: EndsFirst) {
    // Nothing is cut: who waits for that waits in vain.
    let (mut running, spec, mut client) = answered(app, 10 * PATIENCE).await;
    match end {
        EndsFirst::Process => running.shutdown.cancel(),
        EndsFirst::Service => {
            running.send(vec![spec.gone()]).await;
            running.report(&spec.name, |report| report.is_none()).await;
        }
    }
    // On a thread of its own: the endpoint is on this one.
    let read = tokio::task::spawn_blocking(move || {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        loop {
            // That is slow: the route would have gone by now.
            assert!(all.len() > BODY / 2 || is_local(), "{} bytes", all.len());
            match client.read(&mut some).unwrap() {
                0 => return (all, client),
                bytes => all.extend_from_slice(&some[..bytes]),
            }
        }
    });
    let (all, client) = within(read).await.unwrap();
    let body = all.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(all.len() - body, BODY);
    drop(client);
    until("the route is removed", || async { !is_local() }).await;
    running.stop().await;
}

#[tokio::test]
async fn a_slow_reader_has_every_byte_when_the_process_ends() {
    if in_namespace("delivery::a_slow_reader_has_every_byte_when_the_process_ends") {
        every_byte(AppProtocol::Opaque, EndsFirst::Process).await;
    }
}

#[tokio::test]
async fn a_slow_reader_has_every_byte_when_its_service_goes() {
    if in_namespace("delivery::a_slow_reader_has_every_byte_when_its_service_goes") {
        every_byte(AppProtocol::Opaque, EndsFirst::Service).await;
    }
}

#[tokio::test]
async fn a_slow_reader_has_every_byte_of_http_when_the_process_ends() {
    if in_namespace("delivery::a_slow_reader_has_every_byte_of_http_when_the_process_ends") {
        every_byte(AppProtocol::Http, EndsFirst::Process).await;
    }
}

#[tokio::test]
async fn a_slow_reader_has_every_byte_of_http_when_its_service_goes() {
    if in_namespace("delivery::a_slow_reader_has_every_byte_of_http_when_its_service_goes") {
        every_byte(AppProtocol::Http, EndsFirst::Service).await;
    }
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_reset_after_the_time_to_drain() {
    if !in_namespace("delivery::a_reader_that_is_too_slow_is_reset_after_the_time_to_drain") {
        return;
    }
    for app in [AppProtocol::Opaque, AppProtocol::Http] {
        let (running, _, mut client) = answered(app, Duration::from_millis(300)).await;
        let port = running.gateway.ports().remove(0).1;
        running.stop().await;
        let counters = &port.counters;
        assert_eq!((counters.completed.get(), counters.failed.get()), (0, 1));
        let error = client.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{app:?}");
    }
}
