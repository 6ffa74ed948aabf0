//! The admin address: health, metrics, the API that `fairway get` asks, the status page.
//!
//! It runs on a runtime of its own, so that a scrape takes no time from the workers. It changes nothing but the level
//! of the log (`PUT /api/v1/log`, which a page in a browser can't send to another origin) and whether the gateway hands
//! its addresses over or keeps new connections away from endpoints (`drain`), which the user that it runs as and root may
//! ask for alone (`peer_user`). On the full admin address a
//! `Host` header with a name other than `localhost` is refused, so that no page in a browser can read it by DNS
//! rebinding.
//!
//! Reading order: [`Views`], the data that is shown; [`serve`] and [`serve_metrics`]; `connections`, the limits of
//! connections and answers; `scrape`, the formats of metrics; `page`, the status page.

mod connections;
mod drain;
mod page;
mod peer_user;
mod scrape;
#[cfg(test)]
mod tests;
mod views;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use fairway_config::names::ServiceName;
use fairway_config::view::{List, Readiness};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::connections::CostlyAnswers;
pub use self::views::Views;

/// Serves everything on `listener` until `shutdown`.
pub async fn serve(listener: TcpListener, views: Arc<dyn Views>, shutdown: CancellationToken) {
    connections::serve(listener, admin(views), shutdown).await;
}

/// Serves metrics and health alone on `listener` until `shutdown`: for a scraper from outside.
pub async fn serve_metrics(
    listener: TcpListener,
    views: Arc<dyn Views>,
    shutdown: CancellationToken,
) {
    let answers = CostlyAnswers::new();
    let costly = costly().layer(from_fn_with_state(answers, connections::in_turn));
    let router = costly.merge(health()).with_state(views);
    let router = router
        .fallback(not_found)
        .layer(axum::middleware::map_response(sign));
    connections::serve(listener, router, shutdown).await;
}

type ViewsState = State<Arc<dyn Views>>;

fn admin(views: Arc<dyn Views>) -> Router {
    let answers = CostlyAnswers::new();
    costly()
        .route("/", get(status_page))
        .route("/api/v1/services", get(services))
        .route("/api/v1/endpoints", get(endpoints))
        .route(
            "/api/v1/pools",
            get(async |State(views): ViewsState| list(&*views, views.pools())),
        )
        .route(
            "/api/v1/gateways",
            get(async |State(views): ViewsState| list(&*views, views.gateways())),
        )
        .route(
            "/api/v1/addresses",
            get(async |State(views): ViewsState| list(&*views, views.addresses())),
        )
        .route("/api/v1/listeners", get(listeners))
        .route(
            "/api/v1/peers",
            get(async |State(views): ViewsState| list(&*views, views.peers())),
        )
        .route("/api/v1/problems", get(problems))
        .route("/api/v1/explain/{namespace}/{name}", get(explain))
        .route("/api/v1/log", get(log).put(set_log))
        .route("/api/v1/drain", post(drain::drain))
        .layer(from_fn_with_state(answers, connections::in_turn))
        .merge(health())
        .with_state(views)
        .fallback(not_found)
        .layer(from_fn(check_host))
        .layer(axum::middleware::map_response(sign))
}

/// Adds the header `Server: fairway`, so that a client that asks another program by mistake can tell.
async fn sign(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        axum::http::header::SERVER,
        HeaderValue::from_static("fairway"),
    );
    response
}

/// The routes of probes, which are answered at once.
fn health() -> Router<Arc<dyn Views>> {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
}

/// The routes whose answers take time to make.
fn costly() -> Router<Arc<dyn Views>> {
    Router::new().route("/metrics", get(metrics))
}

/// `?verbose`, with or without a value, as Kubernetes' own health endpoints take it.
#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(views): ViewsState, Query(query): Query<Verbose>) -> Response {
    let Readiness { ready, missing } = views.readiness();
    let mut text = String::new();
    if query.verbose.is_some() {
        let rows = tokio::task::spawn_blocking(move || views.gateways());
        for row in rows.await.unwrap_or_default() {
            text += &format!(
                "gateway {}: {} listening, {} failed, {} connections, {} flows\n",
                row.name, row.listening, row.failed, row.connections, row.flows
            );
        }
    }
    for sentence in &missing {
        text += sentence;
        text.push('\n');
    }
    if ready {
        text += "ready\n";
        (StatusCode::OK, text).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics(State(views): ViewsState, headers: HeaderMap) -> Response {
    scrape::answer(views.metrics(), &headers)
}

/// `?namespace=`: rows of one namespace.
#[derive(Deserialize)]
struct Filter {
    namespace: Option<String>,
}

impl Filter {
    fn admits(&self, namespace: &str) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|wanted| wanted == namespace)
    }
}

async fn services(State(views): ViewsState, Query(filter): Query<Filter>) -> Response {
    let mut rows = views.services();
    rows.retain(|row| filter.admits(&row.namespace));
    list(&*views, rows)
}

async fn endpoints(State(views): ViewsState, Query(filter): Query<Filter>) -> Response {
    let mut rows = views.endpoints();
    rows.retain(|row| filter.admits(&row.namespace));
    list(&*views, rows)
}

async fn listeners(State(views): ViewsState, Query(filter): Query<Filter>) -> Response {
    let mut rows = views.listeners();
    rows.retain(|row| filter.admits(&row.namespace));
    list(&*views, rows)
}

/// A problem that belongs to no namespace (a file that is not YAML, a pool) is in each.
async fn problems(State(views): ViewsState, Query(filter): Query<Filter>) -> Response {
    let mut rows = views.problems();
    rows.retain(|problem| {
        let name = problem.object.split_once(' ').map_or("", |(_, name)| name);
        name.split_once('/')
            .is_none_or(|(namespace, _)| filter.admits(namespace))
    });
    list(&*views, rows)
}

fn list<T: Serialize>(views: &dyn Views, items: Vec<T>) -> Response {
    let note = views.note();
    Json(List { items, note }).into_response()
}

async fn explain(
    State(views): ViewsState,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let service = ServiceName::new(namespace, name);
    match views.explain(&service) {
        Some(explanation) => Json(explanation).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            format!("there is no Service {service}\n"),
        )
            .into_response(),
    }
}

/// Which lines the log has.
#[derive(Serialize)]
struct LogLevels {
    filter: String,
}

async fn log(State(views): ViewsState) -> Response {
    let filter = views.log_filter();
    Json(LogLevels { filter }).into_response()
}

/// The body is the filter alone: `curl -X PUT -d debug …`.
async fn set_log(State(views): ViewsState, filter: String) -> Response {
    match views.set_log_filter(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "the level of the log was changed");
            log(State(views)).await
        }
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

async fn status_page(State(views): ViewsState) -> Response {
    // The page has no script and loads nothing. This policy makes a slip in the page harmless.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                  form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (headers, Html(page::render(&*views))).into_response()
}

async fn not_found() -> Response {
    let text = "there is nothing here; see /livez, /readyz and /metrics, and on the admin address \
                / and /api/v1/services, endpoints, pools, gateways, addresses, \
                listeners, peers, problems, \
                log, drain and explain/NAMESPACE/NAME\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

/// Refuses requests whose `Host` is a name: the DNS of somebody else may point it here.
async fn check_host(request: Request, next: Next) -> Response {
    if is_local(request.headers()) {
        return next.run(request).await;
    }
    let text = "the admin address is asked for by an IP address or as localhost, not by a name\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

fn is_local(headers: &HeaderMap) -> bool {
    // HTTP/1.0 needs no Host, and a browser always sends one.
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        // Behind the last colon is a port, except in an IPv6 address without brackets.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}
