//! The second process: it removes the routes once it does not hear the gateway any more.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::device;
use super::table::KernelTable;

/// The command of this binary that [`keep`] is to be called for.
pub const COMMAND: &str = "keep-kernel-routes";

/// After so long a silence the routes are removed.
const SILENCE: Duration = Duration::from_millis(300);

/// Starts it, with an interface of its own. Returns by what it hears us.
///
/// # Errors
/// There is no such interface, or no such process. The text is the end of a sentence.
pub(super) fn start() -> Result<(Child, OwnedFd), String> {
    let device = device::open()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|error| format!("there is no pipe: {error}"))?;
    let child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::from(reader))
        // What the descriptor is called does not matter, as long as it is open.
        .stdout(Stdio::from(device))
        .spawn()
        .map_err(|error| format!("the keeper's process can't be started: {error}"))?;
    Ok((child, writer))
}

/// What the second process does. Returns when it is over.
///
/// # Errors
/// The system refuses what it needs.
pub fn keep() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // A stop of all processes together is none of this one: it ends with the gateway.
        let mut signals = Signals::take()?;
        let beats = io::stdin().as_fd().try_clone_to_owned()?;
        let mut beats = pipe::Receiver::from_owned_fd(beats)?;
        let mut bytes = [0; 64];
        loop {
            tokio::select! {
                heard = tokio::time::timeout(SILENCE, beats.read(&mut bytes)) => match heard {
                    Ok(Ok(count)) if count > 0 => {}
                    _ => break,
                },
                () = signals.next() => {}
            }
        }
        clear().await.map_err(io::Error::other)
    })
}

/// Removes all routes.
async fn clear() -> Result<(), rtnetlink::Error> {
    let Ok(table) = KernelTable::open() else {
        return Ok(());
    };
    for address in table.list().await? {
        table.remove(address).await?;
    }
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
