//! The demo's backends: small servers on loopback that answer with their names.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// The names, one backend each.
pub(super) const NAMES: [&str; 3] = ["apple", "banana", "cherry"];

/// How many connections a backend has at most.
const CONNECTIONS: usize = 1024;
/// How long a connection may be without a request.
const IDLE: Duration = Duration::from_secs(120);
/// Before accepting again where the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A backend that answers over HTTP and, on the same port, over UDP.
pub(super) struct Backend {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Ends it when dropped.
    _tasks: JoinSet<()>,
}

impl Backend {
    /// Starts one on a free port.
    pub(super) async fn start(name: &'static str) -> io::Result<Self> {
        // The kernel picks a free TCP port; the same UDP port is free nearly always, and a few more
        // tries make it always.
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..16 {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = tcp.local_addr()?;
            match UdpSocket::bind(address).await {
                Ok(udp) => {
                    let mut tasks = JoinSet::new();
                    tasks.spawn(serve_http(tcp, name));
                    tasks.spawn(serve_udp(udp, name));
                    return Ok(Self {
                        address,
                        _tasks: tasks,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn serve_http(listener: TcpListener, name: &'static str) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, or a client that went away: neither ends the backend.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            // The demo is asked through Fairway, which keeps fewer.
            continue;
        }
        connections.spawn(async move {
            let answer = service_fn(move |_: Request<hyper::body::Incoming>| async move {
                let body = Full::new(Bytes::from(format!("{name}\n")));
                Ok::<_, Infallible>(Response::new(body))
            });
            // A client that breaks off is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn serve_udp(socket: UdpSocket, name: &'static str) {
    let mut datagram = [0; 1500];
    loop {
        if let Ok((_, client)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(name.as_bytes(), client).await;
        }
    }
}
