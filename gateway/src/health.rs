//! `healthCheckNodePort`: an external load balancer asks whether this gateway has local endpoints.
//!
//! The answer is the same as kube-proxy's: 200 or 503, the weight in a header (KEP-3836), and a small JSON body.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::own_http::{self, OwnConnections};
use crate::slot::Health;

/// The most connections of one Service's health check port.
const CONNECTIONS: usize = 64;

/// Answers one connection.
pub(crate) async fn serve(stream: TcpStream, health: &Health, stopping: &CancellationToken) {
    let connection = health.connections.admit();
    let answer = |_| std::future::ready(answer(health));
    own_http::carry(stream, connection, stopping, answer).await;
}

/// The connections of one Service's health check port; none yet.
pub(crate) fn connections() -> Arc<OwnConnections> {
    OwnConnections::new(CONNECTIONS)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBody<'a> {
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
    let body = HealthBody {
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
