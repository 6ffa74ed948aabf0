//! Buffers and pipes, borrowed while bytes are on their way: an idle connection holds none.
//!
//! Each worker thread has its own store of them, so that lending takes no lock.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;

use crate::descriptors::{Descriptors, Permit};

/// What a connection starts with.
pub(crate) const SMALL: usize = 16 << 10;

/// What it gets once it fills those.
pub(crate) const LARGE: usize = 64 << 10;

/// How much a pipe holds where the kernel lets it: past 1,024 pipes, an unprivileged user gets
/// less (`/proc/sys/fs/pipe-user-pages-soft`).
pub(crate) const PIPE: usize = 256 << 10;

/// How many of each a thread keeps at most: 1 MiB of small and 1 MiB of large buffers.
const KEPT_SMALL: usize = 64;
const KEPT_LARGE: usize = 16;
const KEPT_PIPES: usize = 16;

#[derive(Default)]
struct Store {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    pipes: Vec<Pipe>,
}

thread_local! {
    static STORE: RefCell<Store> = RefCell::default();
}

/// A pipe: bytes spliced into `write` come out of `read`.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    _permit: Permit,
}

/// Borrows a buffer.
pub(crate) fn take(large: bool) -> Box<[u8]> {
    let kept = STORE.with_borrow_mut(|store| {
        if large {
            store.large.pop()
        } else {
            store.small.pop()
        }
    });
    kept.unwrap_or_else(|| vec![0; if large { LARGE } else { SMALL }].into_boxed_slice())
}

/// Gives a buffer back.
pub(crate) fn give(buffer: Box<[u8]>) {
    STORE.with_borrow_mut(|store| {
        let (kept, most) = if buffer.len() == LARGE {
            (&mut store.large, KEPT_LARGE)
        } else {
            (&mut store.small, KEPT_SMALL)
        };
        if kept.len() < most {
            kept.push(buffer);
        }
    });
}

/// Borrows a pipe; none where the process has no file descriptors to spare for one.
pub(crate) fn take_pipe(descriptors: &Arc<Descriptors>) -> Option<Pipe> {
    if let Some(pipe) = STORE.with_borrow_mut(|store| store.pipes.pop()) {
        return Some(pipe);
    }
    let permit = descriptors.take_spare(2)?;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    // A smaller pipe is one that works.
    let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
    Some(Pipe {
        read,
        write,
        _permit: permit,
    })
}

/// Gives an empty pipe back.
pub(crate) fn give_pipe(pipe: Pipe) {
    STORE.with_borrow_mut(|store| {
        if store.pipes.len() < KEPT_PIPES {
            store.pipes.push(pipe);
        }
    });
}
