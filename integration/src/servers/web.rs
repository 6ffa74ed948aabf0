//! Servers that speak HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use super::plain::{accept, listen, owned};
use crate::lab::{Host, Served};

/// Answers HTTP/1.1 and HTTP/2 without TLS with a JSON object of what it saw:
/// `{"server", "connection", "version", "method", "path", "headers": {…}}`. `connection` counts the
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

async fn serve_http(stream: TcpStream, name: Arc<str>, connection: u64) {
    let service = service_fn(move |request: Request<Incoming>| {
        let name = name.clone();
        async move { Ok::<_, Infallible>(seen(&request, &name, connection)) }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn seen(request: &Request<Incoming>, server: &str, connection: u64) -> Response<Full<Bytes>> {
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
    });
    Response::new(Full::from(body.to_string()))
}
