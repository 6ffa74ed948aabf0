//! Uploads to a machine that vanishes: the kernel's own time-out can't find them, for it ends a connection whose reader
//! pauses, too (`reuse`). So it is looked once in a second whether anything was acknowledged.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairway_gateway_core::acknowledgement::AcknowledgementWatch;
use pingora_error::{Error, ErrorType};
use rustix::net::{Shutdown, shutdown};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::descriptors::Permit;
use crate::socket::acknowledged::{acknowledgements, second_descriptor};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// Ends a connection to an endpoint whose machine has vanished, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadWatch {
    has_vanished: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl UploadWatch {
    /// Begins. The permit is for one descriptor.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(super) fn begin(socket: RawFd, permit: Permit, clock: Clock) -> io::Result<Self> {
        let socket = second_descriptor(socket)?;
        let has_vanished = Arc::<AtomicBool>::default();
        let task = watch(socket, permit, clock, has_vanished.clone());
        Ok(Self {
            has_vanished,
            task: tokio::spawn(task),
        })
    }

    /// Whether the machine has vanished, so that the connection was ended.
    pub(super) fn has_vanished(&self) -> bool {
        self.has_vanished.load(Ordering::Acquire)
    }
}

impl Drop for UploadWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the kernel says of the other connections to a machine that has vanished.
pub(super) fn silence() -> Box<Error> {
    let cause = io::Error::from(io::ErrorKind::TimedOut);
    let why = "the endpoint's machine acknowledges nothing";
    Error::because(ErrorType::WriteError, why, cause).into_up()
}

async fn watch(socket: OwnedFd, permit: Permit, clock: Clock, has_vanished: Arc<AtomicBool>) {
    // It counts until the second descriptor is closed.
    let _permit = permit;
    let mut watch = AcknowledgementWatch::default();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(state) = acknowledgements(&socket) else {
            return;
        };
        if watch.look(state, clock.now()) {
            has_vanished.store(true, Ordering::Release);
            // pingora waits for this socket, and hears of it now.
            let _ = shutdown(&socket, Shutdown::Both);
            return;
        }
    }
}
