//! Workers. Each has a thread for TCP connections and UDP flows (`engine`), and a second one for what needs a runtime
//! (`tasks`). A connection stays with the worker that accepted it. With `--pin-workers` both threads are bound to one
//! processor.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::engine::{Engine, Mailbox, WorkerCommand};
use crate::heartbeat::Heartbeat;
use crate::pinning::pin;
use crate::shared::GatewayShared;
use crate::tasks::Tasks;

/// A worker as the control task sees it.
#[derive(Debug)]
pub(crate) struct WorkerThreads {
    mailbox: Arc<Mailbox>,
    beat: Heartbeat,
    threads: [JoinHandle<()>; 2],
}

impl WorkerThreads {
    /// Starts the worker of that number.
    ///
    /// # Errors
    /// The system has no more threads, or no more file descriptors.
    pub(crate) fn start(number: usize, shared: Arc<GatewayShared>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let pinned = shared.pin_workers;
        let beat = Heartbeat::default();
        let (tasks, running) = Tasks::start(number, shared.clone(), beat.clone())?;
        let engine = Engine::new(shared, mailbox.clone(), tasks);
        let carrying = std::thread::Builder::new()
            .name(format!("fairway-work-{number}"))
            .spawn(move || {
                if pinned {
                    pin(number);
                }
                let run = std::panic::AssertUnwindSafe(|| engine.run());
                if std::panic::catch_unwind(run).is_err() {
                    // Its listeners would accept clients that nobody serves. A restart of the process is better.
                    tracing::error!("a worker panicked, which is a bug; the process ends");
                    std::process::abort();
                }
            })?;
        Ok(Self {
            mailbox,
            beat,
            threads: [carrying, running],
        })
    }

    /// Its mailbox.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// The heartbeat of its runtime.
    pub(crate) fn beat(&self) -> &Heartbeat {
        &self.beat
    }

    /// Ends the worker with all connections.
    pub(crate) fn stop(self) {
        self.mailbox.send(WorkerCommand::Stop);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
