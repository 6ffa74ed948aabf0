//! The connections of the admin and the metrics address, and the order in which they are answered.
//!
//! `/livez` and `/readyz` are answered at once. Expensive answers (metrics, the API, the page) are made one at a time,
//! on a thread of their own, and only a few may be under way. A client that takes no byte of its answer makes room for
//! the next one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::own_http::{self, OwnConnection, OwnConnections};

/// The most connections of a listener.
const CONNECTIONS: usize = 64;
/// The most expensive answers that are under way. Each may hold megabytes.
const ANSWERS: usize = 8;
/// How long a client may take no byte of its answer before it makes room for another one.
const STALLED: Duration = Duration::from_secs(2);
/// How often a waiting request looks for such clients.
const LOOK: Duration = Duration::from_millis(250);
/// How long a request waits for its answer to be made.
const TURN: Duration = Duration::from_secs(10);
/// The pause where accept(2) fails, as when the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// The far end of a connection; each request has it among its extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerAddress {
    pub(super) peer: SocketAddr,
    /// The near end; none: the connection has ended already.
    pub(super) local: Option<SocketAddr>,
}

/// Serves `router` until `shutdown`, and returns when the last connection is gone.
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let connections = OwnConnections::new(CONNECTIONS);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "the admin address can't accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = connections.admit();
        let local = stream.local_addr().ok();
        let (router, shutdown) = (router.clone(), shutdown.clone());
        tasks.spawn(async move {
            let router = TowerToHyperService::new(router);
            let answer = |mut request: hyper::Request<_>| {
                request.extensions_mut().insert(PeerAddress { peer, local });
                let answered = router.call(request);
                async {
                    let Ok(response) = answered.await;
                    response
                }
            };
            own_http::carry(stream, connection, &shutdown, answer).await;
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// The expensive answers of a listener.
#[derive(Clone, Debug)]
pub(super) struct CostlyAnswers {
    under_way: Arc<Semaphore>,
    made: Arc<Semaphore>,
}

impl CostlyAnswers {
    pub(super) fn new() -> Self {
        Self {
            under_way: Arc::new(Semaphore::new(ANSWERS)),
            made: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits for a permit to have an answer under way; none where that takes too long.
    async fn turn(&self, connections: &OwnConnections) -> Option<OwnedSemaphorePermit> {
        let turn = async {
            loop {
                connections.end_stalled(STALLED);
                let acquired = self.under_way.clone().acquire_owned();
                if let Ok(acquired) = tokio::time::timeout(LOOK, acquired).await {
                    // It is never closed.
                    return acquired.ok();
                }
            }
        };
        tokio::time::timeout(TURN, turn).await.ok().flatten()
    }
}

/// Makes an expensive answer when it is its turn.
pub(super) async fn in_turn(
    State(answers): State<CostlyAnswers>,
    request: Request,
    next: Next,
) -> Response {
    if let Some(connection) = request.extensions().get::<Arc<OwnConnection>>().cloned() {
        let Some(turn) = answers.turn(connection.all()).await else {
            return busy();
        };
        connection.hold(turn);
    }
    let Ok(made) = answers.made.acquire_owned().await else {
        return busy();
    };
    let runtime = Handle::current();
    let making = tokio::task::spawn_blocking(move || {
        let response = runtime.block_on(next.run(request));
        drop(made);
        response
    });
    // This fails where the handler panics, or the process ends.
    making
        .await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn busy() -> Response {
    let text = "too many answers are under way; ask again\n";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    (status, [(RETRY_AFTER, "1")], text).into_response()
}
