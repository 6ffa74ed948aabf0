//! What goes to a client: collected as long as more is written at once, and then sent.
//!
//! pingora writes an answer in pieces, its head and each part of its body, and flushes at the end of
//! a body whose length is known. Sent piece by piece a short answer would take two segments; sent at
//! the end alone, a part that came would wait for one that comes seconds later or never. So pieces are
//! collected, and whoever polls pingora sends what there is as soon as pingora waits for something.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

/// How much is collected, at most, in bytes: what fits into one segment.
const SEGMENT: usize = 1460;

/// The writing side of a client's connection. pingora writes, and the worker sends what it left:
/// both are one task, so that the lock is always free.
#[derive(Debug)]
pub(super) struct SendBuffer(Mutex<SendState>);

#[derive(Debug)]
struct SendState {
    socket: OwnedWriteHalf,
    /// Written and not yet sent. Holds no memory while there is nothing in it.
    unsent: Vec<u8>,
    /// Something could not be sent, so that nothing can be from then on.
    failed: bool,
}

impl SendBuffer {
    /// A buffer in which there is nothing.
    pub(super) fn new(socket: OwnedWriteHalf) -> Self {
        Self(Mutex::new(SendState {
            socket,
            unsent: Vec::new(),
            failed: false,
        }))
    }

    /// Takes bytes and sends them at once only where they are more than a segment.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        if inner.failed || inner.unsent.len() + bytes.len() > SEGMENT {
            ready!(inner.poll_send(cx))?;
        }
        if bytes.len() > SEGMENT {
            return Pin::new(&mut inner.socket).poll_write(cx, bytes);
        }
        inner.unsent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Sends what was collected.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(cx)
    }

    /// The same, and then says that no more will come.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.socket).poll_shutdown(cx)
    }

    /// Calls `f` with the client's socket.
    pub(super) fn with_socket<T>(&self, f: impl FnOnce(&TcpStream) -> T) -> T {
        f(self.lock().socket.as_ref())
    }

    fn lock(&self) -> MutexGuard<'_, SendState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SendState {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        while !self.unsent.is_empty() {
            let sent = match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                sent => sent,
            };
            match sent {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) => {
                    self.failed = true;
                    self.unsent = Vec::new();
                    return Poll::Ready(Err(error));
                }
            }
        }
        self.unsent = Vec::new();
        Poll::Ready(Ok(()))
    }
}
