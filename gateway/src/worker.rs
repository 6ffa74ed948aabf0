//! Workers: pinned threads, each with a single-threaded runtime. A connection lives where it was
//! accepted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::CpuSet;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::binding::Part;
use crate::context::Context;
use crate::flows::Flows;
use crate::shared::Shared;
use crate::slot::Slot;
use crate::{tcp, udp};

/// Commands that may wait for a worker: enough that a start with thousands of listeners does not
/// go in lockstep with it.
const COMMANDS: usize = 1024;

/// How often UDP flows that are idle for too long are looked for.
const EXPIRY: Duration = Duration::from_secs(1);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept there.
    Tcp(TcpListener, Arc<Slot>, Part),
    /// Receive there.
    Udp(UdpSocket, Arc<Slot>, Part),
    /// The Service behind a UDP listener changed: end the flows whose endpoint is not eligible any
    /// more.
    Sweep(Arc<Slot>),
}

/// A worker, from outside.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Where its sockets are registered. By whoever makes them: a failure is then that of the
    /// listener, and is known at once.
    runtime: Handle,
    commands: mpsc::Sender<Command>,
    thread: std::thread::JoinHandle<()>,
}

impl Worker {
    /// Starts the worker of that number.
    ///
    /// # Errors
    /// The system has no more threads, or no more file descriptors.
    pub(crate) fn start(number: usize, shared: Arc<Shared>, flows: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (commands, received) = mpsc::channel(COMMANDS);
        let context = Arc::new(Context::new(shared, Flows::new(number as u64, flows)));
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name(format!("fairway-work-{number}"))
            .spawn(move || {
                pin(number);
                runtime.block_on(run(received, context));
                // What still runs has had its time.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            commands,
            thread,
        })
    }

    /// Makes a listening socket one of the worker's.
    ///
    /// # Errors
    /// The kernel can't watch more sockets; see epoll_ctl(2).
    pub(crate) fn register_tcp(&self, socket: std::net::TcpListener) -> io::Result<TcpListener> {
        let _runtime = self.runtime.enter();
        TcpListener::from_std(socket)
    }

    /// The same of a UDP socket.
    ///
    /// # Errors
    /// As [`Self::register_tcp`].
    pub(crate) fn register_udp(&self, socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        let _runtime = self.runtime.enter();
        UdpSocket::from_std(socket)
    }

    /// Gives the worker a command.
    pub(crate) async fn command(&self, command: Command) {
        // A worker ends with the gateway alone.
        let _ = self.commands.send(command).await;
    }

    /// Ends the worker and what it still does.
    pub(crate) fn stop(self) {
        drop(self.commands);
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
}

async fn run(mut commands: mpsc::Receiver<Command>, context: Arc<Context>) {
    let mut expiry = tokio::time::interval(EXPIRY);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = expiry.tick() => {
                context.flows.expire(context.shared.clock.now());
                context.shared.descriptors.observe();
                continue;
            }
        };
        match command {
            None => return,
            Some(Command::Tcp(socket, slot, part)) => {
                let listen = tcp::listen(socket, slot, context.clone(), part.binding.stop());
                tokio::spawn(part.track(listen));
            }
            Some(Command::Udp(socket, slot, part)) => {
                let listen = udp::listen(socket, slot, context.clone(), part.binding.clone());
                tokio::spawn(part.track(listen));
            }
            Some(Command::Sweep(slot)) => context.flows.sweep(&slot),
        }
    }
}

/// Binds the calling thread to one of the processors that the process may use. A thread that can't
/// be bound works as well, with colder caches.
fn pin(number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return;
    };
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let Some(cpu) = number.checked_rem(usable.len()).and_then(|n| usable.get(n)) else {
        return;
    };
    let mut set = CpuSet::new();
    set.set(*cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::debug!(%error, "worker not pinned");
    }
}
