//! Servers that speak HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::plain::{accept, listen, owned};
use crate::lab::{Host, Served};

/// Answers HTTP/1.1 and HTTP/2 without TLS with a JSON object of what it saw:
/// `{"server", "connection", "version", "method", "path", "headers": {…}, "peer"}`. `connection` counts the
/// connections that this server has had.
pub fn named_http(host: &Host, servers: &[(&str, SocketAddr)]) -> Result<Served> {
    let servers = owned(servers);
    host.serve(move || {
        for (name, at) in servers {
            let listener = listen(at)?;
            let connections = AtomicU64::new(0);
            let name: Arc<str> = name.into();
            tokio::spawn(accept(listener, move |stream| {
                let number = connections.fetch_add(1, Ordering::Relaxed) + 1;
                serve_http(stream, name.clone(), number)
            }));
        }
        Ok(std::future::pending())
    })
}

/// Sends back every WebSocket message.
pub fn websocket_echo(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, |stream| async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                return;
            };
            while let Some(Ok(message)) = socket.next().await {
                let echo = message.is_text() || message.is_binary();
                if echo && socket.send(message).await.is_err() {
                    return;
                }
            }
        }))
    })
}

/// How a server answers that takes its time.
#[derive(Clone, Copy, Debug)]
pub struct SlowAnswer {
    /// How long it is silent.
    pub thinks: Duration,
    /// How many parts the body has.
    pub parts: usize,
    /// How many bytes each of them has, all of them `#`.
    pub part: usize,
    /// The time behind each.
    pub every: Duration,
}

/// Answers one request of each connection, whatever it says.
pub fn slow_http(host: &Host, at: SocketAddr, answer: SlowAnswer) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, move |stream| async move {
            let _ = answer_slowly(stream, answer).await;
        }))
    })
}

async fn answer_slowly(mut stream: TcpStream, answer: SlowAnswer) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 4096]).await?;
    tokio::time::sleep(answer.thinks).await;
    let length = answer.parts * answer.part;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..answer.parts {
        stream.write_all(&vec![b'#'; answer.part]).await?;
        tokio::time::sleep(answer.every).await;
    }
    Ok(())
}

async fn serve_http(stream: TcpStream, name: Arc<str>, connection: u64) {
    let peer: Option<Arc<str>> = stream.peer_addr().map(|peer| peer.to_string().into()).ok();
    let service =
        service_fn(move |request| answer_request(request, name.clone(), connection, peer.clone()));
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer_request(
    request: Request<Incoming>,
    name: Arc<str>,
    connection: u64,
    peer: Option<Arc<str>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = seen(&request, &name, connection, peer.as_deref());
    // Hyper closes a connection whose request was not read to its end when the answer was sent.
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(answer)
}

fn seen(
    request: &Request<Incoming>,
    server: &str,
    connection: u64,
    peer: Option<&str>,
) -> Response<Full<Bytes>> {
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into(),
            )
        })
        .collect();
    let body = serde_json::json!({
        "server": server,
        "connection": connection,
        "version": format!("{:?}", request.version()),
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "headers": headers,
        "peer": peer,
    });
    Response::new(Full::from(body.to_string()))
}
