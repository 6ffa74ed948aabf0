//! Pipes, borrowed while bytes are on their way: an idle connection holds none.
//!
//! Each worker thread has its own store of them, so that lending takes no lock.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;

use crate::descriptors::{Descriptors, Permit};

/// How much a pipe holds where the kernel lets it: an unprivileged user gets less past 64 of them
/// (`fs.pipe-max-size`, `fs.pipe-user-pages-soft`; pipe(7)). The more, the less often a stream has to be
/// woken for: by these one stream had 1.14 to 1.17 times what HAProxy had, by reads of 256 KiB 1.08 to 1.11.
pub(crate) const SIZE: usize = 1 << 20;

/// How many a thread keeps at most.
const KEPT: usize = 16;

/// How many a thread has at most: who reads slowly keeps one, with all that is in it.
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
        // A thread that ends may have closed its count already.
        let _ = OPEN.try_with(|open| open.set(open.get().saturating_sub(1)));
    }
}

/// Borrows a pipe; none where the process has no file descriptors to spare for one, or
/// the thread has too many.
pub(crate) fn take(descriptors: &Arc<Descriptors>) -> Option<Pipe> {
    if let Some(pipe) = STORE.with_borrow_mut(Vec::pop) {
        return Some(pipe);
    }
    if OPEN.get() >= MOST {
        return None;
    }
    let permit = descriptors.take_spare(2)?;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    // A smaller pipe is one that works.
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
