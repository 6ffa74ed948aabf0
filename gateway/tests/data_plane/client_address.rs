//! The PROXY protocol: what endpoints are told of their clients, and what trusted peers announce.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fairway_config::net::Protocol;
use fairway_config::port_options::{PortOptions, ProxyVersion};
use fairway_config::service::AppProtocol;
use fairway_gateway_core::proxy_protocol::{
    self, AnnouncedClient, HeaderProgress, ProxyHeaderSays, SentHeader,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

const PORT: u16 = 4020;
const VERSIONS: [ProxyVersion; 2] = [ProxyVersion::V1, ProxyVersion::V2];

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A Service whose port has these options, and its address.
fn with_options(of: &str, options: PortOptions) -> (Spec, SocketAddr) {
    let vip = vip();
    let mut spec = service(of, vip, PORT, Protocol::Tcp);
    spec.service.ports[0].options = options;
    (spec, SocketAddr::new(vip, PORT))
}

fn tells(version: ProxyVersion) -> PortOptions {
    PortOptions {
        proxy_protocol: Some(version),
        ..PortOptions::default()
    }
}

/// Peers of these ranges announce their clients.
fn believes(ranges: &[&str]) -> PortOptions {
    PortOptions {
        accept_proxy_protocol: ranges.iter().map(|it| it.parse().unwrap()).collect(),
        ..PortOptions::default()
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// The header of a connection, read byte by byte.
async fn told(stream: &mut TcpStream) -> AnnouncedClient {
    let mut bytes = Vec::new();
    loop {
        bytes.push(within(stream.read_u8()).await.unwrap());
        match proxy_protocol::read(&bytes).unwrap() {
            HeaderProgress::Incomplete => {}
            HeaderProgress::Complete { says, .. } => {
                let ProxyHeaderSays::Client(client) = says else {
                    panic!("{says:?}");
                };
                return client;
            }
        }
    }
}

/// The header that a proxy before us sends for a client.
fn announcing(version: ProxyVersion, source: &str) -> Vec<u8> {
    let header = SentHeader {
        source: at(source),
        destination: at("203.0.113.1:443"),
        authority: Some(b"shop.example"),
        unique_id: b"of-the-proxy",
    };
    proxy_protocol::write(version, &header)
}

/// Whether a connection is reset, or ends without a byte.
async fn is_refused(stream: &mut TcpStream) -> bool {
    match within(stream.read(&mut [0])).await {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn rejected(running: &Running) -> u64 {
    let port = running.gateway.ports().remove(0).1;
    port.counters.rejected()["proxy_protocol"]
}

#[tokio::test]
async fn an_endpoint_is_told_the_client_before_its_first_byte() {
    for version in VERSIONS {
        let (spec, vip) = with_options("told", tells(version));
        let (listener, backend) = listener().await;
        let running = Running::start(settings(), spec.with(&[backend])).await;
        running.listening(vip).await;
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        let from = client.local_addr().unwrap();
        // The server speaks first: the header does not wait for the client.
        let (mut server, _) = within(listener.accept()).await.unwrap();
        let header = told(&mut server).await;
        assert_eq!((header.source, header.destination), (from, vip));
        let id = header.unique_id.map(|id| id.len());
        assert_eq!(id, (version == ProxyVersion::V2).then_some(32));
        server.write_all(b"hello").await.unwrap();
        let mut hello = [0; 5];
        within(client.read_exact(&mut hello)).await.unwrap();
        // What follows is the client's, whole, whatever way it goes.
        let sent: Vec<u8> = (0..4_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            client.write_all(&copy).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        let mut got = Vec::new();
        within(server.read_to_end(&mut got)).await.unwrap();
        let _client = writing.await.unwrap();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        let port = running.gateway.ports().remove(0).1;
        until("all bytes are counted, and the header is not", || async {
            port.counters.received.get() == sent.len() as u64
        })
        .await;
        running.stop().await;
    }
}

#[tokio::test]
async fn the_header_goes_to_the_endpoint_that_is_reached_and_without_a_byte_of_the_client_too() {
    let (spec, vip) = with_options("retried", tells(ProxyVersion::V2));
    let (listener, backend) = listener().await;
    let running = Running::start(settings(), spec.with(&[backend, dead()])).await;
    running.listening(vip).await;
    for _ in 0..4 {
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut server, _) = within(listener.accept()).await.unwrap();
        assert_eq!(told(&mut server).await.source, client.local_addr().unwrap());
        assert_eq!(within(server.read(&mut [0])).await.unwrap(), 0);
    }
    running.stop().await;
}

/// The header and the first bytes of the client, which came before the endpoint was dialled, are one packet.
#[tokio::test]
async fn the_header_is_no_packet_of_its_own() {
    let options = PortOptions {
        proxy_protocol: Some(ProxyVersion::V2),
        ..believes(&["127.0.0.0/8"])
    };
    let (spec, vip) = with_options("packet", options);
    let (listener, backend) = listener().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    for _ in 0..10 {
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        let bytes = [
            announcing(ProxyVersion::V2, "192.0.2.7:5"),
            b"hello".to_vec(),
        ]
        .concat();
        client.write_all(&bytes).await.unwrap();
        let (mut server, _) = within(listener.accept()).await.unwrap();
        within(server.readable()).await.unwrap();
        let mut first = [0; 2048];
        let length = server.read(&mut first).await.unwrap();
        assert!(
            first[..length].ends_with(b"hello"),
            "{:?}",
            &first[..length]
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn a_trusted_peer_announces_its_client_however_its_bytes_come() {
    let options = PortOptions {
        proxy_protocol: Some(ProxyVersion::V2),
        ..believes(&["10.0.0.0/8", "127.0.0.0/8"])
    };
    let (spec, vip) = with_options("announced", options);
    let (listener, backend) = listener().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    for version in VERSIONS {
        for source in ["192.0.2.7:1024", "[2001:db8::7]:1024"] {
            let header = announcing(version, source);
            let bytes = [header.as_slice(), b"hello"].concat();
            // Every split would take long: a part of each kind, and all at once.
            for split in [0, 1, 5, 13, 16, header.len() - 1, header.len(), bytes.len()] {
                let mut client = within(TcpStream::connect(vip)).await.unwrap();
                client.set_nodelay(true).unwrap();
                let (first, second) = bytes.split_at(split);
                client.write_all(first).await.unwrap();
                // Each part is a segment, and the first one is looked at before the second one comes, or not.
                tokio::task::yield_now().await;
                client.write_all(second).await.unwrap();
                client.shutdown().await.unwrap();
                let (mut server, _) = within(listener.accept()).await.unwrap();
                let told = told(&mut server).await;
                assert_eq!(told.source, at(source), "{version}, split at {split}");
                if version == ProxyVersion::V2 {
                    // What the proxy says is passed on.
                    assert_eq!(told.destination, at("203.0.113.1:443"));
                    assert_eq!(told.unique_id.as_deref(), Some(b"of-the-proxy".as_slice()));
                    assert_eq!(told.authority.as_deref(), Some(b"shop.example".as_slice()));
                }
                let mut rest = Vec::new();
                within(server.read_to_end(&mut rest)).await.unwrap();
                assert_eq!(rest, b"hello", "{version}, split at {split}");
            }
        }
    }
    assert_eq!(rejected(&running), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_header_of_anybody_else_is_payload() {
    let (spec, vip) = with_options("forged", believes(&["10.0.0.0/8"]));
    let (listener, backend) = listener().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    for version in VERSIONS {
        let forged = announcing(version, "192.0.2.7:1024");
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        client.write_all(&forged).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut server, _) = within(listener.accept()).await.unwrap();
        let mut got = Vec::new();
        within(server.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, forged);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_header_that_does_not_count_costs_its_own_connection() {
    let (spec, vip) = with_options("garbage", believes(&["127.0.0.0/8"]));
    let backend = echo().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let mut good = within(TcpStream::connect(vip)).await.unwrap();
    good.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    let mut greeting = [0];
    within(good.read_exact(&mut greeting)).await.unwrap();
    let mut damaged = announcing(ProxyVersion::V2, "192.0.2.7:1024");
    damaged[20] ^= 1;
    let cases: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 0.0.0.0 203.0.113.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 203.0.113.1 1\r\n",
        &[b'P'; 200],
        &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\x00\x0c",
        &damaged,
    ];
    for (refused, case) in (1..).zip(cases) {
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        // It may be refused before all of it is written.
        let _ = client.write_all(case).await;
        assert!(is_refused(&mut client).await, "{case:?}");
        until("it is counted", || async { rejected(&running) == refused }).await;
    }
    // One that looks whether somebody listens has done nothing wrong.
    let silent = within(TcpStream::connect(vip)).await.unwrap();
    drop(silent);
    // Slow ones are waited for, and no longer than is allowed.
    let begun = Instant::now();
    let mut slow = within(TcpStream::connect(vip)).await.unwrap();
    slow.write_all(b"PROXY TCP4").await.unwrap();
    let mut mute = within(TcpStream::connect(vip)).await.unwrap();
    assert!(is_refused(&mut slow).await);
    assert!(is_refused(&mut mute).await);
    assert!(
        begun.elapsed() >= Duration::from_millis(4900),
        "{:?}",
        begun.elapsed()
    );
    until("they are counted", || async { rejected(&running) == 10 }).await;
    // Whoever was there before goes on.
    good.write_all(b"x").await.unwrap();
    good.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within(good.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.ends_with(b"xbye"), "{rest:?}");
    let port = running.gateway.ports().remove(0).1;
    until("nothing is left open", || async {
        port.counters.active.get() == 0
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn source_ranges_judge_the_announced_client() {
    let (mut spec, vip) = with_options("judged", believes(&["127.0.0.0/8"]));
    let parse = |range: &str| range.parse().unwrap();
    spec.service.source_ranges = vec![parse("192.0.2.0/24"), parse("2001:db8::/64")];
    spec.service.asks.deny_source_ranges = vec![parse("192.0.2.99/32")];
    let backend = echo().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let own = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        proxy_protocol::write_own(ProxyVersion::V2),
    ];
    let mut cases: Vec<(Vec<u8>, bool)> = own.into_iter().map(|own| (own, false)).collect();
    for version in VERSIONS {
        for (source, is_let_in) in [
            ("192.0.2.7:1", true),
            ("[::ffff:192.0.2.7]:1", true),
            ("192.0.2.99:1", false),
            ("198.51.100.7:1", false),
            ("127.0.0.1:1", false),
            ("[2001:db8::7]:1", true),
            ("[2001:db8:1::7]:1", false),
        ] {
            cases.push((announcing(version, source), is_let_in));
        }
    }
    for (header, is_let_in) in &cases {
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        client.write_all(header).await.unwrap();
        assert_eq!(!is_refused(&mut client).await, *is_let_in, "{header:?}");
    }
    // The proxy's own connections are judged by its own address.
    spec.service.source_ranges.push(parse("127.0.0.0/8"));
    running.send(vec![spec.change()]).await;
    until("a health check of the proxy is let in", || async {
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        client.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
        !is_refused(&mut client).await
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn what_can_not_be_read_lets_nobody_in() {
    let options = PortOptions {
        closed: true,
        ..PortOptions::default()
    };
    let (mut spec, vip) = with_options("closed", options);
    let backend = echo().await;
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    // The reset may come before connect(2) is looked at.
    let greeting = || async { TcpStream::connect(vip).await?.read_u8().await };
    let error = within(greeting()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(rejected(&running), 1);
    spec.service.ports[0].options.closed = false;
    running.send(vec![spec.change()]).await;
    until("the client is let in", || async {
        greeting().await.is_ok()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn an_announced_client_stays_with_its_endpoint() {
    let (mut spec, vip) = with_options("affinity", believes(&["127.0.0.0/8"]));
    spec.service.client_ip_affinity = Some(Duration::from_secs(600));
    let backends = [echo().await, echo().await, echo().await];
    let running = Running::start(settings(), spec.with(&backends)).await;
    running.listening(vip).await;
    let endpoint_of = async |client: u8| {
        let mut stream = within(TcpStream::connect(vip)).await.unwrap();
        let header = announcing(ProxyVersion::V2, &format!("192.0.2.{client}:7"));
        stream.write_all(&header).await.unwrap();
        let mut line = Vec::new();
        loop {
            match within(stream.read_u8()).await.unwrap() {
                b'\n' => return line,
                byte => line.push(byte),
            }
        }
    };
    let mut seen = BTreeSet::new();
    for client in 1..=12 {
        let first = endpoint_of(client).await;
        assert_eq!(endpoint_of(client).await, first, "client {client}");
        seen.insert(first);
    }
    assert!(seen.len() > 1, "all clients are on one endpoint");
    running.stop().await;
}

#[tokio::test]
async fn http_ports_believe_the_header_too() {
    let (mut spec, vip) = with_options("http", believes(&["127.0.0.0/8"]));
    spec.service.ports[0].app = AppProtocol::Http;
    let (listener, backend) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
            let answer = [answer.as_bytes(), &head].concat();
            stream.write_all(&answer).await.unwrap();
        }
    });
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(vip).await;
    let request = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    for version in VERSIONS {
        // What follows the header may come with it, or later.
        for is_split in [false, true] {
            let mut client = within(TcpStream::connect(vip)).await.unwrap();
            client
                .write_all(&announcing(version, "192.0.2.7:5"))
                .await
                .unwrap();
            if is_split {
                tokio::task::yield_now().await;
            }
            client.write_all(request).await.unwrap();
            let mut answer = String::new();
            within(client.read_to_string(&mut answer)).await.unwrap();
            assert!(
                answer.contains("x-forwarded-for: 192.0.2.7\r\n"),
                "{answer}"
            );
        }
    }
    let mut client = within(TcpStream::connect(vip)).await.unwrap();
    client.write_all(request).await.unwrap();
    assert!(is_refused(&mut client).await);
    until("it is counted", || async { rejected(&running) == 1 }).await;
    let port = running.gateway.ports().remove(0).1;
    until("nothing is left open", || async {
        port.counters.active.get() == 0
    })
    .await;
    running.stop().await;
}
