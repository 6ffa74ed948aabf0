#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fairway_config::annotations::HEALTH_CHECK;
use fairway_config::annotations::options::set_options;
use fairway_config::health_check::EndpointCheck;
use fairway_config::names::ServiceName;
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::port_options::ProxyVersion;
use fairway_config::service::{PortKey, ServicePort};
use fairway_gateway_core::build::RouteSettings;
use fairway_gateway_core::checks::rise_fall::CheckOutcome;
use fairway_gateway_core::checks::targets::{CheckProbe, asked_at};
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort};
use fairway_gateway_core::source_pool::SourcePool;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::tls::AnyServer;
use super::{CheckThread, probe};
use crate::clock::Clock;
use crate::port::Port;
use crate::settings::GatewaySettings;
use crate::shared::GatewayShared;
use crate::source_address::SourceFallback;

/// What the annotation says of a port.
fn check(text: &str) -> Arc<EndpointCheck> {
    let mut ports = [ServicePort::new(Protocol::Tcp, 80)];
    let notices = set_options(&BTreeMap::from([(HEALTH_CHECK, text)]), &mut ports);
    assert!(notices.is_empty(), "{notices:?}");
    let [port] = ports;
    port.options.health_check.expect(text)
}

async fn listen() -> (TcpListener, EndpointAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = EndpointAddr(listener.local_addr().unwrap());
    (listener, addr)
}

/// A server that does this with each connection.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> EndpointAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let (listener, addr) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

/// A server that says these bytes, one piece after the other, once it has been asked, and holds the connection.
async fn says(pieces: &'static [&'static [u8]]) -> EndpointAddr {
    server(move |mut stream| async move {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        for piece in pieces {
            let _ = stream.write_all(piece).await;
            let _ = stream.flush().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = stream.read(&mut request).await;
    })
    .await
}

/// A server that says the first, and the second again and again.
async fn says_without_end(first: &'static [u8], again: &'static [u8]) -> EndpointAddr {
    server(move |mut stream| async move {
        let mut sent = stream.write_all(first).await;
        while sent.is_ok() {
            sent = stream.write_all(again).await;
        }
    })
    .await
}

/// A server that says nothing.
async fn silent() -> EndpointAddr {
    server(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

/// An address where nobody listens. No other test has a server on it, so it stays so.
async fn nobody_at(ip: &str) -> EndpointAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    EndpointAddr(listener.local_addr().unwrap())
}

async fn nobody() -> EndpointAddr {
    nobody_at("127.77.0.1").await
}

/// The outcome: empty where the probe passes.
async fn ask(addr: EndpointAddr, text: &str) -> String {
    ask_with(None, addr, text).await
}

/// The same of an endpoint that expects this header.
async fn ask_with(header: Option<ProxyVersion>, addr: EndpointAddr, text: &str) -> String {
    let check = check(text);
    let probe = CheckProbe {
        addr: asked_at(addr, &check),
        check,
        header,
        is_forwarded: false,
    };
    let begun = probe::begin(
        &probe,
        &mut SourceFallback::default(),
        &SourcePool::default(),
    );
    match probe::make(&probe, begun, &AnyServer::new()).await {
        CheckOutcome::Passed => String::new(),
        CheckOutcome::Failed(why) => why.to_string(),
        CheckOutcome::NotMade(why) => panic!("not made: {why}"),
    }
}

#[track_caller]
fn assert_outcome(found: &str, wanted: &str, what: &str) {
    let is_as_wanted = match wanted {
        "" => found.is_empty(),
        _ => found.starts_with(wanted),
    };
    assert!(is_as_wanted, "{what}: '{found}', wanted '{wanted}'");
}

#[tokio::test]
async fn by_tcp() {
    let quick = "tcp;timeout=200ms;send=PING\\r\\n;expect=+PONG";
    let table = [
        (silent().await, "tcp", ""),
        (nobody().await, "tcp", "connection refused"),
        (says(&[b"+PONG\r\n"]).await, quick, ""),
        (says(&[b"..+P", b"ON", b"G"]).await, quick, ""),
        (says(&[b"-ERR\r\n"]).await, quick, "no answer within 200ms"),
        (silent().await, quick, "no answer within 200ms"),
        (
            says_without_end(b"", b"+PON").await,
            quick,
            "another answer",
        ),
        (says_without_end(b"x+PONG", b"y").await, quick, ""),
        (
            server(|mut stream| async move {
                let _ = stream.read(&mut [0; 64]).await;
            })
            .await,
            quick,
            "closed without an answer",
        ),
        (
            server(|mut stream| async move {
                let _ = stream.read(&mut [0; 64]).await;
                let _ = stream.write_all(b"-ERR\r\n").await;
            })
            .await,
            quick,
            "another answer",
        ),
        (
            server(|mut stream| async move {
                let mut asked = [0; 6];
                let _ = stream.read_exact(&mut asked).await;
                let _ = stream.write_all(&asked).await;
            })
            .await,
            "tcp;send=a\\x2cb\\x3bc\\n;expect=a\\x2cb\\x3bc",
            "",
        ),
    ];
    for (addr, text, wanted) in table {
        assert_outcome(&ask(addr, text).await, wanted, text);
    }
}

#[tokio::test]
async fn an_endpoint_that_expects_the_proxy_protocol_is_asked_with_a_header_of_the_gateways_own() {
    for (version, wanted) in [
        (ProxyVersion::V1, &b"PROXY UNKNOWN\r\nping"[..]),
        (ProxyVersion::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0ping"),
    ] {
        let addr = server(move |mut stream| async move {
            let mut asked = vec![0; wanted.len()];
            stream.read_exact(&mut asked).await.unwrap();
            let answer = if asked == wanted { "well" } else { "what?" };
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let outcome = ask_with(Some(version), addr, "tcp;send=ping;expect=well").await;
        assert_eq!(outcome, "", "{version}");
    }
}

#[tokio::test]
async fn another_port_is_asked_where_the_check_names_one() {
    let addr = silent().await;
    let elsewhere = EndpointAddr((addr.0.ip(), 9).into());
    assert_outcome(
        &ask(elsewhere, &format!("tcp;port={}", addr.0.port())).await,
        "",
        "port",
    );
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn by_http() {
    let table = [
        (says(&[OK]).await, "http:/", ""),
        (says(&[b"HTTP/1.0 200 OK\r\n\r\n"]).await, "http:/", ""),
        (
            says(&[b"HTTP/1.1 100 Continue\r\n\r\n", OK]).await,
            "http:/",
            "",
        ),
        (
            says(&[b"HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n"]).await,
            "http:/",
            "",
        ),
        (
            says(&[b"HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n"]).await,
            "http:/;status=200",
            "HTTP 301",
        ),
        (
            says(&[b"HTTP/1.1 503 No\r\n\r\n"]).await,
            "http:/",
            "HTTP 503",
        ),
        (
            says(&[b"HTTP/1.1 503 No\r\n\r\n"]).await,
            "http:/;status=503",
            "",
        ),
        (
            says(&[b"SSH-2.0-OpenSSH\r\n"]).await,
            "http:/",
            "no answer by HTTP",
        ),
        (
            says(&[b"HTTP/1.1 20"]).await,
            "http:/;timeout=200ms",
            "no answer within 200ms",
        ),
        (
            silent().await,
            "http:/;timeout=200ms",
            "no answer within 200ms",
        ),
        (nobody().await, "http:/", "connection refused"),
        // A body without end is nobody's concern; a head without end is no answer.
        (
            says_without_end(b"HTTP/1.1 200 OK\r\n\r\n", b"x").await,
            "http:/",
            "",
        ),
        (
            says_without_end(b"HTTP/1.1 200 OK\r\n", b"X: yyyyyyyy\r\n").await,
            "http:/",
            "no answer by HTTP",
        ),
        (
            server(|stream| async move { drop(stream) }).await,
            "http:/",
            "no answer by HTTP",
        ),
    ];
    for (addr, text, wanted) in table {
        assert_outcome(&ask(addr, text).await, wanted, text);
    }
}

#[tokio::test]
async fn a_request_names_path_and_host() {
    let addr = server(|mut stream| async move {
        let mut request = vec![0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
        let is_well = request.starts_with("get /a/b?c=d http/1.1\r\n")
            && request.contains("\r\nhost: a.example:81\r\n")
            && request.contains("\r\nuser-agent: fairway-health-check/");
        let status = if is_well { "200" } else { "400" };
        let answer = format!("HTTP/1.1 {status} X\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let text = "http:/a/b?c=d;host=a.example:81";
    assert_outcome(&ask(addr, text).await, "", text);
    assert_outcome(&ask(addr, "http:/a").await, "HTTP 400", "another");
}

/// A TLS server with a certificate that nobody trusts.
fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn by_https_whatever_the_certificate_is() {
    let acceptor = acceptor();
    let addr = server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
            let _ = stream.read(&mut [0; 1024]).await;
            let status = if name == "-" { "503" } else { "204" };
            let answer = format!("HTTP/1.1 {status} X\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.flush().await;
        }
    })
    .await;
    for (text, wanted) in [
        ("https:/;host=a.example", ""),
        ("https:/;host=a.example:443", ""),
        ("https:/", "HTTP 503"),
        ("http:/;timeout=200ms", "no answer"),
    ] {
        assert_outcome(&ask(addr, text).await, wanted, text);
    }
    let plain = says(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await;
    assert_outcome(&ask(plain, "https:/").await, "no TLS", "plain");
    let text = "https:/;timeout=200ms";
    assert_outcome(
        &ask(silent().await, text).await,
        "no answer within 200ms",
        text,
    );
}

/// What a gRPC server answers.
#[derive(Clone, Copy)]
enum Answer {
    /// This message, and then this status.
    Message(&'static [u8], &'static str),
    /// A status at once.
    Status(&'static str),
    /// This message again and again.
    WithoutEnd(&'static [u8]),
    /// A head and nothing else.
    Head,
}

async fn answer_grpc(stream: impl AsyncRead + AsyncWrite + Unpin, answer: Answer) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        tokio::spawn(async move {
            let head = http::Response::builder().header("content-type", "application/grpc");
            if let Answer::Status(status) = answer {
                let head = head.header("grpc-status", status).body(()).unwrap();
                let _ = respond.send_response(head, true);
                return;
            }
            let Ok(mut body) = respond.send_response(head.body(()).unwrap(), false) else {
                return;
            };
            match answer {
                Answer::Status(_) => {}
                Answer::Head => std::future::pending().await,
                Answer::Message(message, status) => {
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    let _ = body.send_data(Bytes::from_static(message), false);
                    let _ = body.send_trailers(trailers);
                }
                Answer::WithoutEnd(message) => {
                    while body.send_data(Bytes::from_static(message), false).is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        });
    }
}

async fn grpc_server(answer: Answer) -> EndpointAddr {
    server(move |stream| answer_grpc(stream, answer)).await
}

#[tokio::test]
async fn by_grpc() {
    let quick = "grpc:shop.v1.Cart;timeout=300ms";
    let table = [
        (
            grpc_server(Answer::Message(&[0, 0, 0, 0, 2, 8, 1], "0")).await,
            quick,
            "",
        ),
        (
            grpc_server(Answer::Message(&[0, 0, 0, 0, 2, 8, 2], "0")).await,
            quick,
            "NOT_SERVING",
        ),
        (
            grpc_server(Answer::Message(&[0, 0, 0, 0, 2, 8, 1], "14")).await,
            quick,
            "gRPC status 14",
        ),
        (
            grpc_server(Answer::Message(b"garbage", "0")).await,
            quick,
            "an answer that is not",
        ),
        (
            grpc_server(Answer::Status("12")).await,
            quick,
            "gRPC status 12",
        ),
        (
            grpc_server(Answer::Status("5")).await,
            quick,
            "gRPC status 5",
        ),
        (
            grpc_server(Answer::Status("x")).await,
            quick,
            "a gRPC status that is no number",
        ),
        (
            grpc_server(Answer::Status("0")).await,
            quick,
            "an empty answer",
        ),
        (
            grpc_server(Answer::WithoutEnd(&[0; 100])).await,
            quick,
            "an answer that is not",
        ),
        (
            grpc_server(Answer::Head).await,
            quick,
            "no answer within 300ms",
        ),
        (silent().await, quick, "no answer within 300ms"),
        (nobody().await, quick, "connection refused"),
        (
            says(&[b"HTTP/1.1 200 OK\r\n\r\n"]).await,
            quick,
            "no answer by gRPC",
        ),
        (
            says_without_end(b"", b"garbage").await,
            quick,
            "no answer by gRPC",
        ),
    ];
    for (addr, text, wanted) in table {
        assert_outcome(&ask(addr, text).await, wanted, wanted);
    }
}

/// Waits until the endpoints of a port that get traffic are so many, and says whether checks are ignored.
async fn until_available(port: &Port, count: usize, ignores_checks: bool) {
    let began = Instant::now();
    loop {
        let route = port.route();
        let available = port.available(&route);
        let found = (available.endpoints.len(), available.ignores_checks);
        if found == (count, ignores_checks) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{found:?}");
        drop(route);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn route(text: &str, endpoints: &[EndpointAddr]) -> Arc<RoutePort> {
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let mut eligible: Vec<_> = endpoints.iter().map(|it| Endpoint::new(*it)).collect();
    eligible.sort_unstable_by_key(|it| it.addr);
    let endpoints = EndpointSet::new(eligible, Vec::new());
    let mut route = RoutePort::new(ServiceName::new("web", "shop"), key, endpoints);
    route.options.health_check = (!text.is_empty()).then(|| check(text));
    Arc::new(route)
}

#[tokio::test]
async fn an_endpoint_is_out_while_it_fails_and_where_all_fail_none_is() {
    let well = silent().await;
    let failing = nobody_at("127.77.0.2").await;
    let settings = GatewaySettings::new("test".into(), RouteSettings::new("test".into()));
    let shared = Arc::new(GatewayShared::new(
        &settings,
        Clock::start(),
        CancellationToken::new(),
    ));
    let mut thread = CheckThread::default();
    let text = "tcp;interval=100ms";
    let port = Arc::new(Port::new(route(text, &[well, failing]), 1));
    thread.set(&port, false, &shared);
    until_available(&port, 1, false).await;
    let route_now = port.route().clone();
    assert!(port.available(&route_now).is_out(failing));

    // It comes back once somebody listens there.
    let listener = TcpListener::bind(failing.0).await.unwrap();
    until_available(&port, 2, false).await;
    drop(listener);
    until_available(&port, 1, false).await;

    // Nobody is left: then all have traffic, and it is known that checks are ignored.
    port.set_route(route(text, &[failing]));
    thread.set(&port, true, &shared);
    until_available(&port, 1, true).await;

    // Without checks nothing is said against any.
    port.set_route(route("", &[well, failing]));
    thread.set(&port, true, &shared);
    until_available(&port, 2, false).await;
    shared.draining.cancel();
}
