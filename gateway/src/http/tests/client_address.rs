//! What an endpoint is told of a client, by a PROXY protocol header and by headers of HTTP.

use fairway_config::port_options::ProxyVersion;
use fairway_gateway_core::proxy_protocol::{self, HeaderProgress, ProxyHeaderSays};

use super::*;

/// What one connection to an endpoint began with, and the requests that it carried.
type Told = (SocketAddr, SocketAddr);

/// A server behind a PROXY protocol header. It answers with the number of the connection, and says what each one began
/// with.
async fn told(h2: bool) -> (SocketAddr, mpsc::UnboundedReceiver<Told>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::spawn(async move {
                tell.send(header(&mut stream).await).unwrap();
                let service = service_fn(move |request: Request<Incoming>| async move {
                    let host = request.headers().get("x-forwarded-for").cloned();
                    Ok::<_, Infallible>(
                        Response::builder()
                            .header("connection-number", connection)
                            .header("forwarded-for", host.unwrap())
                            .body(Full::new(Bytes::from_static(b"hello")))
                            .unwrap(),
                    )
                });
                let stream = TokioIo::new(stream);
                // A connection that is broken off is an end, too.
                let _ = if h2 {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.serve_connection(stream, service).await
                } else {
                    let server = hyper::server::conn::http1::Builder::new();
                    server.serve_connection(stream, service).await
                };
            });
        }
    });
    (addr, told)
}

/// Reads a header: source and destination.
async fn header(stream: &mut TcpStream) -> Told {
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.unwrap());
        match proxy_protocol::read(&bytes).unwrap() {
            HeaderProgress::Incomplete => {}
            HeaderProgress::Complete { says, .. } => {
                let ProxyHeaderSays::Client(client) = says else {
                    panic!("{says:?}");
                };
                return (client.source, client.destination);
            }
        }
    }
}

async fn edge(app: AppProtocol, backend: SocketAddr, version: ProxyVersion) -> Edge {
    let mut route = route(app, &[backend], None);
    route.options.proxy_protocol = Some(version);
    Edge::of(route).await
}

#[tokio::test]
async fn each_request_of_http1_has_a_connection_that_begins_with_the_clients_header() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let (backend, mut told) = told(false).await;
        let edge = edge(AppProtocol::Http, backend, version).await;
        for _ in 0..2 {
            let stream = TcpStream::connect(edge.addr).await.unwrap();
            let from = stream.local_addr().unwrap();
            let (mut client, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            // The client's own connection is kept.
            for _ in 0..3 {
                client.ready().await.unwrap();
                let response = client.send_request(get("/")).await.unwrap();
                assert_eq!(parts(response, "").await.2, "hello");
                assert_eq!(told.recv().await.unwrap(), (from, edge.addr), "{version}");
            }
        }
        assert!(told.try_recv().is_err());
    }
}

#[tokio::test]
async fn streams_of_one_client_share_a_connection_and_those_of_others_do_not() {
    let (backend, mut told) = told(true).await;
    let edge = edge(AppProtocol::H2c, backend, ProxyVersion::V2).await;
    let mut froms = Vec::new();
    for number in 0..2 {
        let stream = TcpStream::connect(edge.addr).await.unwrap();
        froms.push(stream.local_addr().unwrap());
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        for _ in 0..3 {
            client.ready().await.unwrap();
            let response = client.send_request(get("/")).await.unwrap();
            let (_, connection, _) = parts(response, "connection-number").await;
            assert_eq!(connection, number.to_string());
        }
    }
    for from in froms {
        assert_eq!(told.recv().await.unwrap(), (from, edge.addr));
    }
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_websocket_begins_with_the_header_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let edge = edge(AppProtocol::Http, backend, ProxyVersion::V1).await;
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let told = header(&mut stream).await;
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let message = futures::StreamExt::next(&mut socket)
            .await
            .unwrap()
            .unwrap();
        futures::SinkExt::send(&mut socket, message).await.unwrap();
        told
    });
    let stream = TcpStream::connect(edge.addr).await.unwrap();
    let from = stream.local_addr().unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop.example/", stream)
        .await
        .unwrap();
    futures::SinkExt::send(&mut socket, "hello".into())
        .await
        .unwrap();
    let answer = futures::StreamExt::next(&mut socket)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.into_text().unwrap().as_str(), "hello");
    assert_eq!(serving.await.unwrap(), (from, edge.addr));
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_and_one_that_hangs_is_given_up() {
    let (backend, mut told) = told(false).await;
    let refusing = refusing();
    let mut route = route(AppProtocol::Http, &[backend, refusing.addr], None);
    route.options.proxy_protocol = Some(ProxyVersion::V2);
    let edge = Edge::of(route).await;
    for _ in 0..4 {
        let response = edge.http1().await.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        told.recv().await.unwrap();
    }
    assert!(edge.port.counters.connect_errors()["refused"] > 0);
}

#[tokio::test]
async fn headers_of_a_trusted_proxy_are_kept() {
    for (trusted, wanted) in [
        ("127.0.0.0/8", "x-forwarded-for: 203.0.113.99, 127.0.0.1"),
        ("10.0.0.0/8", "x-forwarded-for: 127.0.0.1"),
    ] {
        let backend = Backend::http1("a").await;
        let mut route = route(AppProtocol::Http, &[backend.addr], None);
        route.options.trusted_proxies = vec![trusted.parse().unwrap()];
        let edge = Edge::of(route).await;
        let mut request = get("/headers");
        for name in ["x-forwarded-for", "x_forwarded_for"] {
            let value = "203.0.113.99".parse().unwrap();
            request.headers_mut().insert(name, value);
        }
        let response = edge.http1().await.send_request(request).await.unwrap();
        let (_, _, headers) = parts(response, "").await;
        assert!(
            headers.lines().any(|line| line == wanted),
            "{trusted}: {headers}"
        );
        assert!(!headers.contains('_'), "{headers}");
    }
}
