//! Pipes, borrowed while bytes are on their way: an idle connection holds none.
//!
//! Each worker thread has its own store of them, so that lending takes no lock.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;

use crate::descriptors::{Descriptors, Permit};

/// How much a pipe holds where the kernel lets it: past 1,024 pipes, an unprivileged user gets
/// less (`/proc/sys/fs/pipe-user-pages-soft`).
pub(crate) const SIZE: usize = 256 << 10;

/// How many a thread keeps at most.
const KEPT: usize = 16;

thread_local! {
    static STORE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe: bytes spliced into `write` come out of `read`.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    _permit: Permit,
}

/// Borrows a pipe; none where the process has no file descriptors to spare for one.
pub(crate) fn take(descriptors: &Arc<Descriptors>) -> Option<Pipe> {
    if let Some(pipe) = STORE.with_borrow_mut(Vec::pop) {
        return Some(pipe);
    }
    let permit = descriptors.take_spare(2)?;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    // A smaller pipe is one that works.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, SIZE);
    Some(Pipe {
        read,
        write,
        _permit: permit,
    })
}

/// Gives an empty pipe back.
pub(crate) fn give(pipe: Pipe) {
    STORE.with_borrow_mut(|store| {
        if store.len() < KEPT {
            store.push(pipe);
        }
    });
}
