//! An event loop: sockets by number, and which of them are ready.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// Events that are taken at once.
const EVENTS: usize = 256;

/// Sockets that are watched.
pub(super) struct Poll {
    epoll: OwnedFd,
}

/// The event of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    /// The number that it was given.
    pub(super) number: usize,
    pub(super) writable: bool,
    /// Its other end has closed, or has shut down its writing.
    pub(super) last: bool,
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches this socket for reading and writing, edge-triggered.
    pub(super) fn watch(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(number as u64),
            flags,
        )?)
    }

    /// Watches this socket for reading, level-triggered.
    pub(super) fn watch_level(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(number as u64),
            epoll::EventFlags::IN,
        )?)
    }

    /// Waits for something, at most so long; moves what there is to `ready`.
    pub(super) fn wait(&self, ready: &mut Vec<Ready>, limit: Duration) -> io::Result<()> {
        ready.clear();
        let limit = Timespec {
            tv_sec: limit.as_secs().cast_signed(),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut room = [MaybeUninit::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut room, Some(&limit)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        ready.extend(events.iter().map(|event| Ready {
            number: event.data.u64() as usize,
            writable: { event.flags }.contains(epoll::EventFlags::OUT),
            last: { event.flags }.contains(epoll::EventFlags::RDHUP),
        }));
        Ok(())
    }
}
