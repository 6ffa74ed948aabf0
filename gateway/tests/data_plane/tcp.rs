//! TCP: what becomes of a connection.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use fairway_config::net::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

const PORT: u16 = 4000;

fn tcp(of: &str) -> (Spec, SocketAddr) {
    let vip = vip();
    (
        service(of, vip, PORT, Protocol::Tcp),
        SocketAddr::new(vip, PORT),
    )
}

#[tokio::test]
async fn carries_bytes_and_half_close_both_ways() {
    let (spec, vip) = tcp("echo");
    let backend = echo().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let (mut stream, from) = greeted(vip).await;
    assert_eq!(from, backend);
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    within(stream.read_to_string(&mut rest)).await.unwrap();
    // What was said before and after our end of the stream has come.
    assert_eq!(rest, "hellobye");
    running.stop().await;
}

#[tokio::test]
async fn the_endpoints_end_does_not_end_the_clients_half() {
    let (spec, vip) = tcp("halves");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let mut client = within(TcpStream::connect(vip)).await.unwrap();
    let (mut server, _) = within(listener.accept()).await.unwrap();
    server.write_all(b"first").await.unwrap();
    server.shutdown().await.unwrap();
    let mut said = String::new();
    within(client.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "first");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    within(server.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "still here");
    running.stop().await;
}

#[tokio::test]
async fn a_large_stream_is_spliced_and_whole() {
    let (spec, vip) = tcp("large");
    let backend = echo().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let (stream, _) = greeted(vip).await;
    let sent: Vec<u8> = (0..32_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (mut read, mut write) = stream.into_split();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::with_capacity(expected.len());
    within(read.read_to_end(&mut got)).await.unwrap();
    writing.await.unwrap();
    assert!(got.strip_suffix(b"bye").is_some_and(|got| got == expected));
    assert!(running.gateway.spliced_bytes() > 0);
    running.stop().await;
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let (spec, vip) = tcp("retry");
    let (alive, dead) = (echo().await, dead());
    let running = Running::start(settings(), spec.with(&[alive, dead])).await;
    running.listening(vip).await;
    let seen = distinct(8, || async { greeted(vip).await.1 }).await;
    assert_eq!(seen, BTreeSet::from([alive]));
    running.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_passed_over() {
    let (spec, vip) = tcp("hangs");
    // A queue that is full: the kernel drops further SYNs, as a firewall would.
    let hangs = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    hangs
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    hangs.listen(0).unwrap();
    let silent = hangs.local_addr().unwrap().as_socket().unwrap();
    let _filler = std::net::TcpStream::connect(silent).unwrap();
    let alive = echo().await;
    let running = Running::start(settings(), spec.with(&[silent, alive])).await;
    running.listening(vip).await;
    for _ in 0..2 {
        assert_eq!(greeted(vip).await.1, alive);
    }
    let ports = running.gateway.ports();
    let errors = ports.first().unwrap().1.counters.connect_errors();
    assert_eq!(errors["timeout"], 1);
    running.stop().await;
}

#[tokio::test]
async fn connections_spread_over_the_endpoints() {
    let (spec, vip) = tcp("spread");
    let backends = [echo().await, echo().await, echo().await];
    let running = Running::start(settings(), spec.with(&backends)).await;
    running.listening(vip).await;
    let seen = distinct(12, || async { greeted(vip).await.1 }).await;
    assert_eq!(seen, BTreeSet::from(backends));
    running.stop().await;
}

#[tokio::test]
async fn a_client_outside_the_source_ranges_is_reset() {
    let (mut spec, vip) = tcp("ranges");
    let backend = echo().await;
    spec.service.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    // The reset may come before connect(2) is looked at.
    let greeting = || async { TcpStream::connect(vip).await?.read_u8().await };
    let error = within(greeting()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    spec.service.source_ranges = vec!["127.0.0.0/8".parse().unwrap()];
    running.send(vec![spec.change()]).await;
    until("the client is let in", || async {
        greeting().await.is_ok()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn without_endpoints_a_connection_is_refused_and_with_one_it_is_not() {
    let (spec, vip) = tcp("empty");
    let running = Running::start(settings(), spec.with(&[])).await;
    let error = within(TcpStream::connect(vip)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let backend = echo().await;
    running.send(spec.endpoints(&[backend])).await;
    running.listening(vip).await;
    greeted(vip).await;
    running.send(spec.endpoints(&[])).await;
    until("connections are refused again", || async {
        TcpStream::connect(vip).await.is_err()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_reset_passes_through_both_ways() {
    let (spec, vip) = tcp("reset");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let linger = Some(std::time::Duration::ZERO);

    let client = within(TcpStream::connect(vip)).await.unwrap();
    let (mut server, _) = within(listener.accept()).await.unwrap();
    socket2::SockRef::from(&client).set_linger(linger).unwrap();
    drop(client);
    let error = within(server.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let mut client = within(TcpStream::connect(vip)).await.unwrap();
    let (server, _) = within(listener.accept()).await.unwrap();
    socket2::SockRef::from(&server).set_linger(linger).unwrap();
    drop(server);
    let error = within(client.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    running.stop().await;
}

#[tokio::test]
async fn a_reader_that_is_slow_slows_the_writer_down() {
    let (spec, vip) = tcp("slow");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let client = within(TcpStream::connect(vip)).await.unwrap();
    let (server, _) = within(listener.accept()).await.unwrap();
    // The client never reads: the server may write what sockets and one buffer hold, and no more.
    let chunk = vec![7; 1 << 16];
    let mut written = 0_usize;
    loop {
        let room = tokio::time::timeout(std::time::Duration::from_millis(500), server.writable());
        if room.await.is_err() {
            break;
        }
        match server.try_write(&chunk) {
            Ok(bytes) => written += bytes,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(
            written < 64 << 20,
            "{written} bytes were taken for a client that never reads"
        );
    }
    // All of it arrives once the client reads.
    let reading = tokio::spawn(async move {
        let mut client = client;
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.map(|_| all.len())
    });
    drop(server);
    assert_eq!(within(reading).await.unwrap().unwrap(), written);
    running.stop().await;
}

/// Uses a connection to [`echo`] until it is reset.
async fn used_until_cut(stream: &mut TcpStream) {
    let error = within(async {
        loop {
            if let Err(error) = stream.write_all(b"x").await {
                break error;
            }
            match stream.read_u8().await {
                Ok(byte) => assert_eq!(byte, b'x'),
                Err(error) => break error,
            }
        }
    });
    assert_eq!(error.await.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_endpoint_that_goes_drains_and_is_cut_at_the_deadline() {
    let (spec, vip) = tcp("drain");
    let (old, new) = (echo().await, echo().await);
    let settings = settings();
    let drain = settings.drain_timeout;
    let running = Running::start(settings, spec.with(&[old])).await;
    running.listening(vip).await;
    let (mut stream, _) = greeted(vip).await;
    let began = Instant::now();
    running.send(spec.endpoints(&[new])).await;
    until("new connections go to the new endpoint", || async {
        greeted(vip).await.1 == new
    })
    .await;
    used_until_cut(&mut stream).await;
    assert!(began.elapsed() >= drain, "{:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_goes_closes_at_once_and_cuts_at_the_deadline() {
    let (spec, vip) = tcp("gone");
    let backend = echo().await;
    let settings = settings();
    let drain = settings.drain_timeout;
    let mut running = Running::start(settings, spec.with(&[backend])).await;
    running.listening(vip).await;
    running.report(&spec.name, |report| report.is_some()).await;
    let (mut stream, _) = greeted(vip).await;
    let began = Instant::now();
    running.send(vec![spec.gone()]).await;
    running.report(&spec.name, |report| report.is_none()).await;
    let error = within(TcpStream::connect(vip)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    used_until_cut(&mut stream).await;
    assert!(began.elapsed() >= drain, "{:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn shutdown_refuses_the_new_and_ends_with_the_last_connection() {
    let (spec, vip) = tcp("shutdown");
    let backend = echo().await;
    let patient = fairway_gateway::GatewaySettings {
        drain_timeout: PATIENCE * 2,
        ..settings()
    };
    let running = Running::start(patient, spec.with(&[backend])).await;
    running.listening(vip).await;
    let (mut stream, _) = greeted(vip).await;
    running.shutdown.cancel();
    until("connections are refused", || async {
        TcpStream::connect(vip).await.is_err()
    })
    .await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'x');
    drop(stream);
    // Long before the deadline.
    within(running.gateway.finished()).await;
}
