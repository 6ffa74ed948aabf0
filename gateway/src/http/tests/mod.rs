//! Real sockets on loopback: clients, an edge of one worker, and backends. What is HTTP/1 on both sides goes by way of
//! the engine (`engine/http`), all else by way of pingora; a client does not notice which.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bodies;
mod client_address;
mod deadlines;
mod endings;
mod http1;
mod http2;
mod uploads;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairway_config::exchange::ClaimKind;
use fairway_config::names::ServiceName;
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::service::{AppProtocol, PortKey};
use fairway_gateway_core::build::RouteSettings;
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::engine::{Cut, Listening, WorkerCommand};
use crate::http::limits::HttpTimes;
use crate::port::Port;
use crate::settings::GatewaySettings;
use crate::shared::GatewayShared;
use crate::slot::{Slot, Target};
use crate::worker::WorkerThreads;

/// For a connection to a backend to stand.
const CONNECT: Duration = Duration::from_secs(5);

/// A worker that serves one port.
struct Edge {
    addr: SocketAddr,
    port: Arc<Port>,
    shared: Arc<GatewayShared>,
    worker: Option<WorkerThreads>,
    /// How many connections have ended that [`Edge::ended`] has told of.
    told: u64,
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }
}

impl Edge {
    async fn start(app: AppProtocol, backends: &[SocketAddr]) -> Self {
        Self::with_affinity(app, backends, None).await
    }

    async fn with_affinity(
        app: AppProtocol,
        backends: &[SocketAddr],
        affinity: Option<Duration>,
    ) -> Self {
        Self::of(route(app, backends, affinity)).await
    }

    async fn of(route: RoutePort) -> Self {
        Self::with_times(route, HttpTimes::default()).await
    }

    async fn with_times(route: RoutePort, times: HttpTimes) -> Self {
        let port = Arc::new(Port::new(Arc::new(route), 0));
        let mut settings = GatewaySettings::new("edge".into(), RouteSettings::new("edge".into()));
        settings.workers = 1;
        settings.connect_timeout = CONNECT;
        let mut shared = GatewayShared::new(&settings, Clock::start(), CancellationToken::new());
        shared.http_times = times;
        let shared = Arc::new(shared);
        let worker = WorkerThreads::start(0, shared.clone()).unwrap();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        // What is accepted inherits it, as from the sockets of listeners.
        socket2::SockRef::from(&socket)
            .set_tcp_nodelay(true)
            .unwrap();
        let addr = socket.local_addr().unwrap();
        let target = Target::Port {
            port: port.clone(),
            kind: ClaimKind::Vip,
        };
        let slot = Arc::new(Slot::new(ListenAddr(addr), target));
        worker.mailbox().register_tcp(&socket, 1).unwrap();
        let listening = Listening {
            socket,
            slot: Some(slot),
            arrival: None,
            _token: None,
        };
        let listen = WorkerCommand::Listen(1, Box::new(listening));
        worker.mailbox().send(listen);
        Self {
            addr,
            port,
            shared,
            worker: Some(worker),
            told: 0,
        }
    }

    /// The process stops: connections are to end.
    fn stop(&self) {
        self.shared.draining.cancel();
        if let Some(worker) = &self.worker {
            worker.mailbox().send(WorkerCommand::Drain);
        }
    }

    /// Has the worker look for what is cut.
    fn cut(&self) {
        if let Some(worker) = &self.worker {
            let cut = Cut::Port(self.port.number);
            worker.mailbox().send(WorkerCommand::Cut(cut));
        }
    }

    /// A connection of a client, and hyper's HTTP/1.1 on it.
    async fn http1(&self) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }

    /// The same with h2 prior knowledge.
    async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Sends these bytes and returns all that comes until the edge closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    /// Waits for the end of one connection.
    async fn ended(&mut self) {
        let counters = &self.port.counters;
        let told = self.told;
        eventually("a connection ends", || {
            counters.completed.get() + counters.failed.get() > told
        })
        .await;
        self.told += 1;
    }
}

fn route(app: AppProtocol, backends: &[SocketAddr], affinity: Option<Duration>) -> RoutePort {
    let eligible = backends
        .iter()
        .map(|addr| Endpoint::new(EndpointAddr(*addr)));
    let mut eligible: Vec<_> = eligible.collect();
    eligible.sort_by_key(|endpoint| endpoint.addr);
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let endpoints = EndpointSet::new(eligible, Vec::new());
    RoutePort {
        app,
        affinity,
        ..RoutePort::new(ServiceName::new("web", "shop"), key, endpoints)
    }
}

/// An HTTP server that says its name in the header `backend`.
struct Backend {
    addr: SocketAddr,
    /// What `/wait` waits for.
    go_on: Arc<Notify>,
    /// How many connections had something on them that is no request where one should begin.
    garbled: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type BackendBody = BoxBody<Bytes, Infallible>;

impl Backend {
    async fn http1(name: &'static str) -> Self {
        Self::start(name, false).await
    }

    async fn http2(name: &'static str) -> Self {
        Self::start(name, true).await
    }

    async fn start(name: &'static str, h2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let go_on = Arc::new(Notify::new());
        let garbled = Arc::new(AtomicUsize::new(0));
        let counter = garbled.clone();
        let shared = go_on.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let go_on = shared.clone();
                let service = service_fn(move |request| answer(name, request, go_on.clone()));
                let garbled = counter.clone();
                tokio::spawn(async move {
                    let stream = TokioIo::new(stream);
                    let end = if h2 {
                        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        server.serve_connection(stream, service).await
                    } else {
                        let server = hyper::server::conn::http1::Builder::new();
                        server.serve_connection(stream, service).await
                    };
                    if end.is_err_and(|error| error.is_parse()) {
                        garbled.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self {
            addr,
            go_on,
            garbled,
            serving,
        }
    }
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
    go_on: Arc<Notify>,
) -> Result<Response<BackendBody>, Infallible> {
    let body = match request.uri().path() {
        "/headers" => {
            let mut lines = String::new();
            for (name, value) in request.headers() {
                lines += &format!("{name}: {}\n", value.to_str().unwrap());
            }
            Full::new(Bytes::from(lines)).boxed()
        }
        "/echo" => request
            .into_body()
            .map_err(|error| panic!("{error}"))
            .boxed(),
        "/count" => {
            // One that is broken off has no length, and nobody to tell it.
            let body = request.into_body().collect().await;
            let length = body.map_or(0, |body| body.to_bytes().len());
            Full::new(Bytes::from(length.to_string())).boxed()
        }
        "/large" => Full::new(Bytes::from(vec![b'x'; LARGE])).boxed(),
        "/wait" => {
            go_on.notified().await;
            Full::new(Bytes::from_static(b"done")).boxed()
        }
        "/begin" => {
            let first = Ok(Frame::data(Bytes::from_static(b"first")));
            let rest = async move {
                go_on.notified().await;
                Ok(Frame::data(Bytes::from_static(b"rest")))
            };
            let stream = futures::StreamExt::chain(
                futures::stream::once(std::future::ready(first)),
                futures::stream::once(rest),
            );
            let stream: std::pin::Pin<
                Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync>,
            > = Box::pin(stream);
            StreamBody::new(stream).boxed()
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let body = Full::new(Bytes::from_static(b"message"));
            body.with_trailers(std::future::ready(Some(Ok(trailers))))
                .boxed()
        }
        _ => Full::new(Bytes::from_static(b"hello")).boxed(),
    };
    Ok(Response::builder()
        .header("backend", name)
        .body(body)
        .unwrap())
}

const LARGE: usize = 20_000_000;

/// A place where connections are refused: its port is bound, and nobody listens there.
struct Refusing {
    addr: SocketAddr,
    _bound: socket2::Socket,
}

fn refusing() -> Refusing {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    Refusing {
        addr: socket.local_addr().unwrap().as_socket().unwrap(),
        _bound: socket,
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://shop.example{path}"))
        .header("host", "shop.example")
        .body(Full::default())
        .unwrap()
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(format!("http://shop.example{path}"))
        .header("host", "shop.example")
        .body(Full::new(body.into()))
        .unwrap()
}

/// Status, value of a header, body.
async fn parts(response: Response<Incoming>, header: &str) -> (u16, String, String) {
    let status = response.status().as_u16();
    let value = response
        .headers()
        .get(header)
        .map(|value| value.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        value.unwrap_or_default(),
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

/// Waits until it is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}
