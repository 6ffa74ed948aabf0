//! What a worker does on a runtime: HTTP, health checks, UDP. A thread beside that of its
//! connections, with a single-threaded runtime, on the same processor.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::{ClientAddr, ListenAddr};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::binding::Part;
use crate::context::Context;
use crate::descriptors::Permit;
use crate::flows::Flows;
use crate::health;
use crate::hops::Hops;
use crate::port::Open;
use crate::shared::Shared;
use crate::slot::{Health, Slot};
use crate::udp;
use crate::worker::pin;

/// How often UDP flows that are idle for too long are looked for.
const EXPIRY: Duration = Duration::from_secs(1);

/// Something to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Carry a connection.
    Connection(OwnedFd, Permit, Accepted),
    /// Receive there.
    Udp(UdpSocket, Arc<Slot>, Part),
    /// The Service behind a UDP listener changed: end the flows whose endpoint is not eligible any
    /// more.
    Sweep(Arc<Slot>),
}

/// What a connection is that was accepted and admitted.
#[derive(Debug)]
pub(crate) enum Accepted {
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
    },
    /// A probe of a `healthCheckNodePort`.
    Probe {
        /// What it is told.
        health: Arc<Health>,
    },
}

/// Who takes tasks.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    runtime: Handle,
    tasks: mpsc::UnboundedSender<Task>,
}

impl Tasks {
    /// Starts the thread of the worker of that number. It ends when the last [`Tasks`] of it is
    /// dropped.
    ///
    /// # Errors
    /// The system has no more threads, or no more file descriptors.
    pub(crate) fn start(
        number: usize,
        shared: Arc<Shared>,
        flows: usize,
    ) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Bounded by the file descriptors that what is in it holds.
        let (tasks, received) = mpsc::unbounded_channel();
        let context = Arc::new(Context::new(shared, Flows::new(number as u64, flows)));
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name(format!("fairway-task-{number}"))
            .spawn(move || {
                pin(number);
                runtime.block_on(run(received, context));
                // What still runs has had its time.
                runtime.shutdown_background();
            })?;
        let tasks = Self {
            runtime: handle,
            tasks,
        };
        Ok((tasks, thread))
    }

    /// Makes a socket one of the runtime's. By whoever made it: a failure is then that of the
    /// listener, and is known at once.
    ///
    /// # Errors
    /// The kernel can't watch more sockets; see epoll_ctl(2).
    pub(crate) fn register(&self, socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        let _runtime = self.runtime.enter();
        UdpSocket::from_std(socket)
    }

    /// Gives it something to do.
    pub(crate) fn send(&self, task: Task) {
        // The thread ends with the gateway alone.
        let _ = self.tasks.send(task);
    }

    /// Hands it a connection.
    pub(crate) fn hand(&self, socket: OwnedFd, permit: Permit, accepted: Accepted) {
        self.send(Task::Connection(socket, permit, accepted));
    }
}

async fn run(mut tasks: mpsc::UnboundedReceiver<Task>, context: Arc<Context>) {
    let mut expiry = tokio::time::interval(EXPIRY);
    loop {
        let task = tokio::select! {
            task = tasks.recv() => task,
            _ = expiry.tick() => {
                context.flows.expire(context.shared.clock.now());
                context.shared.descriptors.observe();
                continue;
            }
        };
        match task {
            None => return,
            Some(Task::Connection(socket, permit, accepted)) => {
                connection(socket, permit, accepted, &context);
            }
            Some(Task::Udp(socket, slot, part)) => {
                let listen = udp::listen(socket, slot, context.clone(), part.binding.clone());
                tokio::spawn(part.track(listen));
            }
            Some(Task::Sweep(slot)) => context.flows.sweep(&slot),
        }
    }
}

/// Starts what a connection is for.
fn connection(socket: OwnedFd, permit: Permit, accepted: Accepted, context: &Arc<Context>) {
    let stream = match TcpStream::from_std(socket.into()) {
        Ok(stream) => stream,
        // It is closed.
        Err(error) => return tracing::warn!(%error, "a connection can't be watched"),
    };
    let context = context.clone();
    match accepted {
        Accepted::Probe { health } => {
            tokio::spawn(async move {
                health::serve(stream, &health, &context.probes).await;
                drop(permit);
            });
        }
        Accepted::Http {
            from,
            listen,
            hops,
            port,
        } => {
            let tracker = context.shared.connections.clone();
            tokio::spawn(tracker.track_future(async move {
                let clock = context.shared.clock;
                context
                    .http()
                    .serve(stream, listen, from, hops, port, clock)
                    .await;
                drop(permit);
            }));
        }
    }
}
