//! The HTTP server under the admin address: few connections, none of them for long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many connections there may be; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// For a request's head to arrive, and for the next one on a kept connection.
const HEAD: Duration = Duration::from_secs(30);
/// How long a connection may last: a client that does not read holds one of [`CONNECTIONS`].
const LIFETIME: Duration = Duration::from_secs(300);
/// For an answer under way, once a connection is told to end.
const FINISH: Duration = Duration::from_secs(5);
/// Before accepting again where the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `shutdown`, and returns when the last connection is gone.
pub(super) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => match accepted {
                Some((place, Ok((stream, _)))) => (place, stream),
                Some((_, Err(error))) => {
                    tracing::debug!(%error, "the admin address can't accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                None => break,
            },
        };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        connections.spawn(async move {
            carry(stream, router, shutdown).await;
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn carry(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    // How a client's connection ends is of no interest to anyone.
    tokio::select! {
        _ = &mut connection => return,
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(LIFETIME) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(FINISH, connection).await;
}
