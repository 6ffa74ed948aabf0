//! The second process: it removes the routes once it does not hear the gateway any more.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal as ProcessSignal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::device;
use super::table::{KernelTable, TableError};
use crate::urgency;

/// The command of this binary that [`keep`] is to be called for.
pub const COMMAND: &str = "keep-kernel-routes";

/// After so long a silence the routes are removed.
const SILENCE: Duration = Duration::from_millis(300);

/// Starts it, with an interface of its own. Returns the socket by which it hears us and answers.
///
/// # Errors
/// There is no such interface, or no such process. The text is the end of a sentence.
pub(super) fn start() -> Result<(Child, UnixStream), String> {
    let device = device::open()?;
    let socket =
        UnixStream::pair().and_then(|(ours, its)| ours.set_nonblocking(true).map(|()| (ours, its)));
    let (ours, its) = socket.map_err(|error| format!("there is no socket: {error}"))?;
    let child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(its)))
        // What the descriptor is called does not matter, as long as it is open.
        .stdout(Stdio::from(device))
        .spawn()
        .map_err(|error| format!("the keeper's process can't be started: {error}"))?;
    Ok((child, ours))
}

/// What the second process does. Returns when it is over.
///
/// # Errors
/// The system refuses what it needs.
pub fn keep() -> io::Result<()> {
    urgency::raise();
    // One that is stopped while the gateway dies goes on then, and removes the routes.
    set_parent_process_death_signal(Some(ProcessSignal::CONT))?;
    keep_one_capability()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // A stop of all processes together is none of this one: it ends with the gateway.
        let mut signals = Signals::take()?;
        // Before the first answer: who answers can remove routes.
        let table = KernelTable::open()?;
        let gateway = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        gateway.set_nonblocking(true)?;
        let mut gateway = tokio::net::UnixStream::from_std(gateway)?;
        let mut bytes = [0; 64];
        loop {
            tokio::select! {
                heard = tokio::time::timeout(SILENCE, gateway.read(&mut bytes)) => match heard {
                    // Where there is no room, it has answers to read.
                    Ok(Ok(count)) if count > 0 => _ = gateway.try_write(&[0]),
                    _ => break,
                },
                () = signals.next() => {}
            }
        }
        clear(&table).await.map_err(io::Error::other)
    })
}

/// Routes are removed with CAP_NET_ADMIN.
fn keep_one_capability() -> io::Result<()> {
    let kept = capabilities(None)?.permitted & CapabilitySet::NET_ADMIN;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Removes all routes.
async fn clear(table: &KernelTable) -> Result<(), TableError> {
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
