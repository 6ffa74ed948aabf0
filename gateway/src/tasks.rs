//! The tasks of a worker: connections of h2 and health checks, which need a runtime. They run on a second thread of
//! the worker, with a single-threaded tokio runtime.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use fairway_config::net::ListenAddr;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::client_origin::ClientOrigin;
use crate::descriptors::Permit;
use crate::health;
use crate::heartbeat::Heartbeat;
use crate::hops::Hops;
use crate::http::BegunStream;
use crate::open_connection::OpenConnection;
use crate::pinning::pin;
use crate::shared::GatewayShared;
use crate::slot::Health;
use crate::task_context::TaskContext;

/// A connection that a task is to serve.
#[derive(Debug)]
struct Task {
    socket: OwnedFd,
    permit: Permit,
    accepted: TaskKind,
}

/// What an accepted connection is for.
#[derive(Debug)]
pub(crate) enum TaskKind {
    /// A port that is balanced by request.
    Http {
        /// The client.
        origin: ClientOrigin,
        /// Where it was accepted.
        listen: ListenAddr,
        /// The hops that its connections to endpoints start with.
        hops: Option<Hops>,
        /// The port.
        port: OpenConnection,
        /// What was read of it already.
        first: Vec<u8>,
        /// Held from the accept on: the process ends when no connection has one any more.
        open: TaskTrackerToken,
    },
    /// A probe of a `healthCheckNodePort`.
    Probe {
        /// The Service's health check.
        health: Arc<Health>,
    },
}

/// A handle that starts tasks on the thread.
#[derive(Clone, Debug)]
pub(crate) struct Tasks(mpsc::UnboundedSender<Task>);

impl Tasks {
    /// Starts the thread of the worker of that number. It ends when the last [`Tasks`] of it is
    /// dropped.
    ///
    /// # Errors
    /// The system has no more threads, or no more file descriptors.
    pub(crate) fn start(
        number: usize,
        shared: Arc<GatewayShared>,
        beat: Heartbeat,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Each task in it holds file descriptors, so their budget bounds it.
        let (tasks, received) = mpsc::unbounded_channel();
        let pinned = shared.pin_workers;
        let context = Arc::new(TaskContext::new(shared));
        let thread = std::thread::Builder::new()
            .name(format!("fairway-task-{number}"))
            .spawn(move || {
                if pinned {
                    pin(number);
                }
                runtime.spawn(beat.answer());
                runtime.block_on(run(received, context));
                // The time to drain of tasks that still run is over.
                runtime.shutdown_background();
            })?;
        Ok((Self(tasks), thread))
    }

    /// Hands a connection to the thread.
    pub(crate) fn hand(&self, socket: OwnedFd, permit: Permit, accepted: TaskKind) {
        // This does not fail: the thread ends only with the gateway.
        let _ = self.0.send(Task {
            socket,
            permit,
            accepted,
        });
    }
}

async fn run(mut tasks: mpsc::UnboundedReceiver<Task>, context: Arc<TaskContext>) {
    while let Some(task) = tasks.recv().await {
        carry(task, &context);
    }
}

/// Starts the task of a connection.
fn carry(task: Task, context: &Arc<TaskContext>) {
    let Task {
        socket,
        permit,
        accepted,
    } = task;
    let stream = match TcpStream::from_std(socket.into()) {
        Ok(stream) => stream,
        // The socket was dropped, which closes the connection.
        Err(error) => {
            return tracing::warn!(%error, "a connection was closed: the runtime can't watch it");
        }
    };
    let context = context.clone();
    match accepted {
        TaskKind::Probe { health } => {
            tokio::spawn(async move {
                health::serve(stream, &health, &context.shared.draining).await;
                drop(permit);
            });
        }
        TaskKind::Http {
            origin,
            listen,
            hops,
            port,
            first,
            open,
        } => {
            let stream = BegunStream {
                socket: stream,
                first,
            };
            tokio::spawn(async move {
                let clock = context.shared.clock;
                context
                    .http()
                    .serve(stream, listen, origin, hops, port, clock)
                    .await;
                drop((permit, open));
            });
        }
    }
}
