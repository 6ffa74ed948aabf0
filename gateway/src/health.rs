//! `healthCheckNodePort`: tells a load balancer in front whether this gateway has local endpoints.
//!
//! The answer is kube-proxy's, byte for byte where it matters: 200 or 503, the weight in a header
//! (KEP-3836), and a small JSON body.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::slot::Health;

/// How long one connection may take for all it wants: probes ask once and go.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many probes a worker answers at once; more are turned away.
const CONNECTIONS: usize = 128;

/// Answers one connection, where there is a permit left for it.
pub(crate) async fn serve(stream: TcpStream, health: &Health, permits: &Semaphore) {
    let Ok(_permit) = permits.try_acquire() else {
        return;
    };
    let answer =
        service_fn(|_: Request<Incoming>| std::future::ready(Ok::<_, Infallible>(answer(health))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(16 << 10)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, connection).await {
        tracing::debug!(%error, "health check connection");
    }
}

/// As many permits as a worker answers probes at once.
pub(crate) fn permits() -> Semaphore {
    Semaphore::new(CONNECTIONS)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Name<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Name<'a> {
    namespace: &'a str,
    name: &'a str,
}

fn answer(health: &Health) -> Response<Full<Bytes>> {
    let local_endpoints = health.local_endpoints.load(Ordering::Relaxed);
    let body = Body {
        service: Name {
            namespace: &health.service.namespace,
            name: &health.service.name,
        },
        local_endpoints,
        service_proxy_healthy: true,
    };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    if local_endpoints == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        "x-load-balancing-endpoint-weight",
        HeaderValue::from(local_endpoints),
    );
    response
}
