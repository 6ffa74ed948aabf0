//! What a worker does on a runtime: HTTP and health checks. A thread beside that of its
//! connections, with a single-threaded runtime, on the same processor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use fairway_config::net::{ClientAddr, ListenAddr};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::beat::Beat;
use crate::context::Context;
use crate::descriptors::Permit;
use crate::health;
use crate::hops::Hops;
use crate::open::Open;
use crate::pinning::pin;
use crate::shared::Shared;
use crate::slot::Health;

/// A connection to carry.
#[derive(Debug)]
struct Task {
    socket: OwnedFd,
    permit: Permit,
    accepted: TaskKind,
}

/// What a connection is that was accepted and admitted.
#[derive(Debug)]
pub(crate) enum TaskKind {
    /// One of a port that is balanced by request.
    Http {
        /// Who.
        from: ClientAddr,
        /// Where it was accepted.
        listen: ListenAddr,
        /// The hops that its connections to endpoints have.
        hops: Option<Hops>,
        /// Which port.
        port: Open,
        /// Counts from its accept on: the process ends when the last one has.
        open: TaskTrackerToken,
    },
    /// A probe of a `healthCheckNodePort`.
    Probe {
        /// What it is told.
        health: Arc<Health>,
    },
}

/// Who takes tasks.
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
        shared: Arc<Shared>,
        beat: Beat,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Bounded by the file descriptors that what is in it holds.
        let (tasks, received) = mpsc::unbounded_channel();
        let pinned = shared.pin_workers;
        let context = Arc::new(Context::new(shared));
        let thread = std::thread::Builder::new()
            .name(format!("fairway-task-{number}"))
            .spawn(move || {
                if pinned {
                    pin(number);
                }
                runtime.spawn(beat.answer());
                runtime.block_on(run(received, context));
                // What still runs has had its time.
                runtime.shutdown_background();
            })?;
        Ok((Self(tasks), thread))
    }

    /// Hands it a connection.
    pub(crate) fn hand(&self, socket: OwnedFd, permit: Permit, accepted: TaskKind) {
        // The thread ends with the gateway alone.
        let _ = self.0.send(Task {
            socket,
            permit,
            accepted,
        });
    }
}

async fn run(mut tasks: mpsc::UnboundedReceiver<Task>, context: Arc<Context>) {
    while let Some(task) = tasks.recv().await {
        carry(task, &context);
    }
}

/// Starts what a connection is for.
fn carry(task: Task, context: &Arc<Context>) {
    let Task {
        socket,
        permit,
        accepted,
    } = task;
    let stream = match TcpStream::from_std(socket.into()) {
        Ok(stream) => stream,
        // It is closed.
        Err(error) => return tracing::warn!(%error, "a connection can't be watched"),
    };
    let context = context.clone();
    match accepted {
        TaskKind::Probe { health } => {
            tokio::spawn(async move {
                health::serve(stream, &health, &context.shared.stopping).await;
                drop(permit);
            });
        }
        TaskKind::Http {
            from,
            listen,
            hops,
            port,
            open,
        } => {
            tokio::spawn(async move {
                let clock = context.shared.clock;
                context
                    .http()
                    .serve(stream, listen, from, hops, port, clock)
                    .await;
                drop((permit, open));
            });
        }
    }
}
