//! `POST /api/v1/drain`: the gateway in this process hands its addresses over, or keeps new connections away from
//! endpoints, or ends that.
//!
//! It moves traffic, so it is taken from processes of this host alone, of the user that Fairway runs as or root's (another
//! user of the host may look at everything, and move nothing), and from no page in a browser: a page sends an
//! `Origin` with each POST, and can't send JSON to another origin without asking first (Fetch standard, CORS
//! preflight), which is answered with 405.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use fairway_config::drained::{DrainTarget, EndpointPlace};
use fairway_config::names::ClusterName;
use serde::Deserialize;

use super::connections::PeerAddress;
use super::peer_user::user_of;
use super::views::Views;

/// The body: which gateway or which endpoints, one of the three, and whether to drain.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DrainRequest {
    /// The gateway of that node.
    node: Option<String>,
    endpoint: Option<EndpointPlace>,
    /// The endpoints on that node.
    endpoints_on: Option<ClusterName>,
    drain: bool,
}

/// It is written to a disk, and waited for.
async fn drain_endpoints(
    views: Arc<dyn Views>,
    target: DrainTarget,
    is_drained: bool,
) -> Result<(), String> {
    let work = move || views.set_drained(target, is_drained);
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("Fairway stops".to_owned()))
}

/// Whether who asks is the user that Fairway runs as, or root.
fn may_drain(peer: SocketAddr, local: SocketAddr) -> Result<(), String> {
    let user = user_of(peer, local);
    let user =
        user.map_err(|error| format!("the kernel does not say whose connection this is: {error}"))?;
    let own = rustix::process::geteuid().as_raw();
    if user == own || user == 0 {
        return Ok(());
    }
    Err(format!(
        "user {user} may not move traffic: root and user {own}, whom Fairway runs as, may"
    ))
}

pub(super) async fn drain(
    State(views): State<Arc<dyn Views>>,
    Extension(PeerAddress { peer, local }): Extension<PeerAddress>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let refuse = |status: StatusCode, text: &str| (status, format!("{text}\n")).into_response();
    if !peer.ip().to_canonical().is_loopback() {
        let text = "a gateway is drained from its own host, by the loopback address";
        return refuse(StatusCode::FORBIDDEN, text);
    }
    if let Err(why) = local
        .ok_or_else(|| "the connection has ended".to_owned())
        .and_then(|local| may_drain(peer, local))
    {
        return refuse(StatusCode::FORBIDDEN, &why);
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
    let DrainRequest {
        node,
        endpoint,
        endpoints_on,
        drain,
    } = request;
    let outcome = match (node, endpoint, endpoints_on) {
        (Some(node), None, None) => views.set_draining(&node, drain),
        (None, Some(place), None) => drain_endpoints(views, DrainTarget::Place(place), drain).await,
        (None, None, Some(node)) => drain_endpoints(views, DrainTarget::Node(node), drain).await,
        _ => {
            let text = "the body names one of node, endpoint and endpointsOn";
            return refuse(StatusCode::BAD_REQUEST, text);
        }
    };
    match outcome {
        Ok(()) => "ok\n".into_response(),
        Err(why) => refuse(StatusCode::CONFLICT, &why),
    }
}
