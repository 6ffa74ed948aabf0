//! Workers: a thread for connections that are carried as they are, and one beside it for what needs a
//! runtime. A connection lives where it was accepted. Where the settings say so, both are bound to one
//! processor.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::beat::Beat;
use crate::engine::{Engine, Mailbox, WorkerCommand};
use crate::pinning::pin;
use crate::shared::Shared;
use crate::tasks::Tasks;

/// A worker, from outside.
#[derive(Debug)]
pub(crate) struct WorkerThreads {
    mailbox: Arc<Mailbox>,
    beat: Beat,
    threads: [JoinHandle<()>; 2],
}

impl WorkerThreads {
    /// Starts the worker of that number.
    ///
    /// # Errors
    /// The system has no more threads, or no more file descriptors.
    pub(crate) fn start(number: usize, shared: Arc<Shared>) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let pinned = shared.pin_workers;
        let beat = Beat::default();
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
                    // Its listeners would take clients that nobody carries: better to be started anew.
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

    /// What tells it something.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Shows that what it does on a runtime goes on.
    pub(crate) fn beat(&self) -> &Beat {
        &self.beat
    }

    /// Ends the worker and what it still does.
    pub(crate) fn stop(self) {
        self.mailbox.send(WorkerCommand::Stop);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}
