//! Signals: those that stop a process, and those that do not. Without a handler each of these would end it, without a
//! drain.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The handlers of SIGHUP, SIGUSR1 and SIGUSR2.
pub(crate) struct OtherSignals {
    hangup: Signal,
    user: [Signal; 2],
}

impl OtherSignals {
    /// Begins to listen. Needs a Tokio runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: [
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        })
    }

    /// Handles them until `stop` is cancelled. SIGHUP calls `reload`; the others do nothing.
    pub(crate) async fn answer(mut self, reload: impl Fn(), stop: CancellationToken) {
        let [user_1, user_2] = &mut self.user;
        loop {
            let ignored = tokio::select! {
                () = stop.cancelled() => return,
                _ = self.hangup.recv() => {
                    reload();
                    continue;
                }
                _ = user_1.recv() => "SIGUSR1",
                _ = user_2.recv() => "SIGUSR2",
            };
            tracing::info!(
                signal = ignored,
                "ignored: this signal means nothing to Fairway"
            );
        }
    }
}

/// SIGINT, SIGTERM and SIGQUIT.
pub(crate) struct StopSignal {
    quit: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to listen for the signals that stop a process. Needs a Tokio runtime.
pub(crate) fn stop_signal() -> anyhow::Result<StopSignal> {
    Ok(StopSignal {
        quit: signal(SignalKind::quit())?,
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

impl StopSignal {
    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Whether one has come already.
    pub(crate) async fn has_come(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.recv() => true,
            () = std::future::ready(()) => false,
        }
    }
}
