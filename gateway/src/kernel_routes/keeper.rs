//! The second process: it removes the routes once it does not hear the gateway any more.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

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

/// What the keeper is asked for, as the byte that it hears. Any other byte says that the process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum KeeperRequest {
    /// The descriptor of the interface: another keeper is to have it as well.
    Interface = 1,
    /// Another keeper is there: end, and leave the routes alone.
    End = 2,
}

/// How long the keeper of another process may take to give the interface, and how often it is asked.
const GIVEN: Duration = Duration::from_secs(2);
const ASKED: Duration = Duration::from_millis(5);

/// Starts it, with an interface of its own. Returns the socket by which it hears us and answers.
///
/// # Errors
/// There is no such interface, or no such process. The text is the end of a sentence.
pub(super) fn start() -> Result<(Child, UnixStream), String> {
    start_with(device::open()?)
}

/// The same with this interface.
///
/// # Errors
/// As [`start`].
pub(super) fn start_with(device: OwnedFd) -> Result<(Child, UnixStream), String> {
    let socket =
        UnixStream::pair().and_then(|(ours, its)| ours.set_nonblocking(true).map(|()| (ours, its)));
    let (ours, its) = socket.map_err(|error| format!("there is no socket: {error}"))?;
    let child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(its)))
        // What the descriptor is called does not matter, as long as it is open.
        .stdout(Stdio::from(device))
        .spawn()
        .map_err(|error| format!("the keeper's process can't be started: {error}"))?;
    Ok((child, ours))
}

/// Asks a keeper for something. Where it does not hear it, it has ended.
pub(super) fn request(mut socket: &UnixStream, request: KeeperRequest) {
    let _ = socket.write(&[request as u8]);
}

/// Asks the keeper of another process for the interface. It is asked again and again: that process reads the same
/// socket until it has handed over, and answers get lost there.
///
/// # Errors
/// It has ended, or does not give it. The text is the end of a sentence.
pub(super) async fn interface(socket: &UnixStream) -> Result<OwnedFd, String> {
    let until = tokio::time::Instant::now() + GIVEN;
    while tokio::time::Instant::now() < until {
        request(socket, KeeperRequest::Interface);
        tokio::time::sleep(ASKED).await;
        let mut bytes = [0; 1];
        loop {
            let mut room = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(1))];
            let mut with = RecvAncillaryBuffer::new(&mut room);
            let mut bytes = [IoSliceMut::new(&mut bytes)];
            match recvmsg(socket, &mut bytes, &mut with, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) if received.bytes == 0 => {
                    return Err("the keeper of the former process has ended".to_owned());
                }
                Ok(_) => {
                    for message in with.drain() {
                        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                            && let Some(device) = descriptors.next()
                        {
                            return Ok(device);
                        }
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                Err(error) => return Err(format!("the former process's keeper: {error}")),
            }
        }
    }
    Err("the keeper of the former process does not give the interface".to_owned())
}

/// Gives the interface to who has asked for it. Where there is no room, it has answers to read, and asks again.
fn give_interface(socket: impl AsFd) {
    let device = io::stdout();
    let device = [device.as_fd()];
    let mut room = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut room);
    if with.push(SendAncillaryMessage::ScmRights(&device)) {
        let _ = sendmsg(
            socket,
            &[IoSlice::new(&[0])],
            &mut with,
            SendFlags::NOSIGNAL,
        );
    }
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
                    Ok(Ok(count)) if count > 0 => {
                        let heard = bytes.get(..count).unwrap_or_default();
                        let asks = |request| heard.contains(&(request as u8));
                        if asks(KeeperRequest::End) {
                            return Ok(());
                        }
                        match asks(KeeperRequest::Interface) {
                            true => give_interface(&gateway),
                            // Where there is no room, it has answers to read.
                            false => _ = gateway.try_write(&[0]),
                        }
                    }
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
