//! The send buffer of a client's connection: it collects what pingora writes at once into one segment.
//!
//! pingora writes an answer in pieces, the head and each part of the body, and flushes only at the end of a body whose
//! length is known. If each piece were sent at once, a short answer would take two segments. If all were sent at the
//! end, a part that is here would wait for one that comes seconds later or never. So pieces are collected, and sent as
//! soon as pingora waits for something.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

/// The most bytes that are collected: what fits into one segment.
const SEGMENT: usize = 1460;

/// The writing side of a client's connection. pingora writes to it, and `HttpServer::serve` sends what is left. Both
/// are in one task, so the lock is always free.
#[derive(Debug)]
pub(super) struct SendBuffer(Mutex<SendState>);

#[derive(Debug)]
struct SendState {
    socket: OwnedWriteHalf,
    /// Bytes that were written and not sent yet. Holds no memory while it is empty.
    unsent: Vec<u8>,
    /// Sending has failed. No further bytes can be sent.
    failed: bool,
}

impl SendBuffer {
    /// An empty buffer.
    pub(super) fn new(socket: OwnedWriteHalf) -> Self {
        Self(Mutex::new(SendState {
            socket,
            unsent: Vec::new(),
            failed: false,
        }))
    }

    /// Takes bytes. Sends them at once only where they do not fit into one segment.
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

    /// Sends the collected bytes.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(cx)
    }

    /// Sends the collected bytes, and then the end of the stream.
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
