//! `POST /api/v1/drain`: the gateway in this process hands its addresses over, or ends that.
//!
//! It moves traffic, so it is taken from processes of this host alone, and from no page in a browser: a page sends an
//! `Origin` with each POST, and can't send JSON to another origin without asking first (Fetch standard, CORS
//! preflight), which is answered with 405.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::connections::PeerAddress;
use super::views::Views;

/// The body: which gateway, and whether it is to drain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    node: String,
    drain: bool,
}

pub(super) async fn drain(
    State(views): State<Arc<dyn Views>>,
    Extension(PeerAddress(peer)): Extension<PeerAddress>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let refuse = |status: StatusCode, text: &str| (status, format!("{text}\n")).into_response();
    if !peer.ip().to_canonical().is_loopback() {
        let text = "a gateway is drained from its own host, by the loopback address";
        return refuse(StatusCode::FORBIDDEN, text);
    }
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return refuse(
            StatusCode::FORBIDDEN,
            "a page in a browser can't drain a gateway",
        );
    }
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
    if kind != Some(b"application/json".as_slice()) {
        let text = "the body has to be application/json";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let request: DrainRequest = match serde_json::from_str(&body) {
        Ok(request) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match views.set_draining(&request.node, request.drain) {
        Ok(()) => "ok\n".into_response(),
        Err(why) => refuse(StatusCode::CONFLICT, &why),
    }
}
