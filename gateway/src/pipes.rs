//! Pipes for splice(2). A connection borrows one while bytes are in it; an idle connection holds none.
//!
//! Each worker thread has its own store of pipes, so that borrowing takes no lock.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;

use crate::descriptors::{Descriptors, Permit};

/// The size of a pipe, in bytes, where the kernel allows it: an unprivileged user gets smaller ones after the first
/// 64 (`fs.pipe-max-size`, `fs.pipe-user-pages-soft`; pipe(7)). The larger it is, the less often a stream wakes the
/// worker: with this size one stream had 1.14 to 1.17 times the throughput of HAProxy, with 256 KiB 1.08 to 1.11.
pub(crate) const SIZE: usize = 1 << 20;

/// The most unused pipes that a thread keeps.
const KEPT: usize = 16;

/// The most pipes that a thread has: a slow reader keeps one with all bytes that are in it.
const MOST: usize = 128;

thread_local! {
    static OPEN: Cell<usize> = const { Cell::new(0) };
    static STORE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe: bytes spliced into `write` come out of `read`.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    _permit: Permit,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Where the thread ends, its count may be gone already.
        let _ = OPEN.try_with(|open| open.set(open.get().saturating_sub(1)));
    }
}

/// Borrows a pipe; none where the process has no file descriptors to spare, or the thread has too many pipes.
pub(crate) fn take(descriptors: &Arc<Descriptors>) -> Option<Pipe> {
    if let Some(pipe) = STORE.with_borrow_mut(Vec::pop) {
        return Some(pipe);
    }
    if OPEN.get() >= MOST {
        return None;
    }
    let permit = descriptors.take_spare(2)?;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    // A smaller pipe works, too.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, SIZE);
    OPEN.set(OPEN.get() + 1);
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
