//! Bytes between a client and its endpoint: both ways, with half-close, in bounded memory.
//!
//! Each direction reads only what it can hold and reads on once that is written, so a reader that
//! is slow slows its writer down and costs at most one buffer. Buffers are borrowed when bytes are
//! there and given back when all are written. A stream that grows is spliced: its bytes pass from
//! socket to socket through a pipe and never enter this process.

use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use rustix::pipe::SpliceFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::buffers::{self, Pipe};
use crate::counters::Counter;
use crate::descriptors::Descriptors;

/// From how many bytes on a direction is spliced.
const GROWN: u64 = 128 << 10;

/// A splice that moves less than this is not worth its second system call: the direction goes back
/// to copying until it fills a buffer again.
const WORTHWHILE: usize = 8 << 10;

/// Bytes that were spliced, over the whole process.
pub(crate) static SPLICED: Spliced = Spliced(AtomicU64::new(0));

/// Counts spliced bytes. A test holds it above zero: a splice that never happens costs nothing but
/// speed, so nobody would notice.
pub(crate) struct Spliced(AtomicU64);

impl Spliced {
    /// How many there were.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whose fault the end of a relay was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Endpoint,
}

/// Carries bytes until both directions have ended, counting those from the client in `received`
/// and those to it in `transmitted`. Pipes come out of `descriptors`.
///
/// # Errors
/// One side was reset or failed; the side that is still there is to be reset too.
pub(crate) async fn relay(
    client: &TcpStream,
    endpoint: &TcpStream,
    received: &Counter,
    transmitted: &Counter,
    descriptors: &Arc<Descriptors>,
) -> Result<(), (Side, io::Error)> {
    let mut up = Direction::new(descriptors);
    let mut down = Direction::new(descriptors);
    let copy = poll_fn(|cx| {
        let up = up.poll(cx, client, endpoint, received);
        let up = up.map_err(|error| error.blame(Side::Client, Side::Endpoint))?;
        let down = down.poll(cx, endpoint, client, transmitted);
        let down = down.map_err(|error| error.blame(Side::Endpoint, Side::Client))?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    });
    tokio::select! {
        biased;
        end = copy => end,
        // A reset is seen at once, even where nothing is read from that side just now.
        error = reset(client) => Err((Side::Client, error)),
        error = reset(endpoint) => Err((Side::Endpoint, error)),
    }
}

/// Waits until a connection is reset.
pub(crate) async fn reset(stream: &TcpStream) -> io::Error {
    loop {
        match stream.ready(Interest::ERROR).await {
            Ok(_) => match stream.take_error() {
                Ok(Some(error)) | Err(error) => return error,
                // Nothing is wrong (someone looked before us), or not any more.
                Ok(None) => {
                    let _ = stream.try_io(Interest::ERROR, || {
                        Err::<(), _>(io::ErrorKind::WouldBlock.into())
                    });
                }
            },
            Err(error) => return error,
        }
    }
}

/// What went wrong in one direction.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

impl Failure {
    fn blame(self, reader: Side, writer: Side) -> (Side, io::Error) {
        match self {
            Self::Read(error) => (reader, error),
            Self::Write(error) => (writer, error),
        }
    }
}

/// One direction of a relay.
struct Direction<'a> {
    /// Leave to open a pipe.
    descriptors: &'a Arc<Descriptors>,
    holds: Holds,
    /// Bytes written so far.
    total: u64,
    /// The last read filled its buffer: the next one gets a larger one.
    full: bool,
    ended: bool,
}

/// What a direction has read and not yet written.
#[derive(Default)]
enum Holds {
    #[default]
    Nothing,
    Bytes {
        buffer: Box<[u8]>,
        from: usize,
        to: usize,
    },
    Piped {
        pipe: Pipe,
        bytes: usize,
    },
}

impl<'a> Direction<'a> {
    fn new(descriptors: &'a Arc<Descriptors>) -> Self {
        Self {
            descriptors,
            holds: Holds::Nothing,
            total: 0,
            full: false,
            ended: false,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &TcpStream,
        writer: &TcpStream,
        counter: &Counter,
    ) -> Poll<Result<(), Failure>> {
        while !self.ended {
            ready!(self.poll_write(cx, writer, counter)).map_err(Failure::Write)?;
            if ready!(self.poll_read(cx, reader)).map_err(Failure::Read)? {
                self.ended = true;
                // The other side learns that no more comes; what it has to say still passes. It
                // may be gone, which the other direction finds out.
                let _ = SockRef::from(writer).shutdown(Shutdown::Write);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once; true at the end of the stream. Nothing is held before.
    fn poll_read(&mut self, cx: &mut Context<'_>, reader: &TcpStream) -> Poll<io::Result<bool>> {
        loop {
            ready!(reader.poll_read_ready(cx))?;
            let read = if self.full && self.total >= GROWN {
                self.splice(reader)
            } else {
                None
            };
            let read = match read {
                Some(read) => read,
                None => self.copy(reader),
            };
            match read {
                Ok(bytes) => return Poll::Ready(Ok(bytes == 0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn copy(&mut self, reader: &TcpStream) -> io::Result<usize> {
        let mut buffer = buffers::take(self.full);
        match reader.try_read(&mut buffer) {
            Ok(bytes) if bytes > 0 => {
                self.full = bytes == buffer.len();
                self.holds = Holds::Bytes {
                    buffer,
                    from: 0,
                    to: bytes,
                };
                Ok(bytes)
            }
            other => {
                buffers::give(buffer);
                other
            }
        }
    }

    /// Reads into a pipe; nothing where there is none to be had.
    fn splice(&mut self, reader: &TcpStream) -> Option<io::Result<usize>> {
        let pipe = buffers::take_pipe(self.descriptors)?;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let spliced = reader.try_io(Interest::READABLE, || {
            // The length is capped: a larger one than a pipe holds brings nothing, and
            // `usize::MAX` is EINVAL.
            Ok(rustix::pipe::splice(
                reader,
                None,
                &pipe.write,
                None,
                buffers::PIPE,
                flags,
            )?)
        });
        match spliced {
            Ok(bytes) if bytes > 0 => {
                self.full = bytes >= WORTHWHILE;
                self.holds = Holds::Piped { pipe, bytes };
            }
            _ => buffers::give_pipe(pipe),
        }
        Some(spliced)
    }

    /// Writes all that is held.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &TcpStream,
        counter: &Counter,
    ) -> Poll<io::Result<()>> {
        loop {
            let written = match &mut self.holds {
                Holds::Nothing => return Poll::Ready(Ok(())),
                Holds::Bytes { buffer, from, to } => {
                    ready!(writer.poll_write_ready(cx))?;
                    let written = writer.try_write(buffer.get(*from..*to).unwrap_or_default());
                    written.inspect(|bytes| *from += bytes)
                }
                Holds::Piped { pipe, bytes } => {
                    ready!(writer.poll_write_ready(cx))?;
                    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                    let written = writer.try_io(Interest::WRITABLE, || {
                        Ok(rustix::pipe::splice(
                            &pipe.read, None, writer, None, *bytes, flags,
                        )?)
                    });
                    written.inspect(|written| {
                        *bytes -= written;
                        SPLICED.0.fetch_add(*written as u64, Ordering::Relaxed);
                    })
                }
            };
            match written {
                Ok(bytes) => {
                    self.total += bytes as u64;
                    counter.add(bytes as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.give_back();
        }
    }

    /// Gives back what held bytes, once all are written.
    fn give_back(&mut self) {
        self.holds = match std::mem::take(&mut self.holds) {
            Holds::Bytes { buffer, from, to } if from == to => {
                buffers::give(buffer);
                Holds::Nothing
            }
            Holds::Piped { pipe, bytes: 0 } => {
                buffers::give_pipe(pipe);
                Holds::Nothing
            }
            other => other,
        };
    }
}

impl Drop for Direction<'_> {
    /// A buffer goes back to its store; a pipe with bytes in it is closed.
    fn drop(&mut self) {
        if let Holds::Bytes { buffer, .. } = std::mem::take(&mut self.holds) {
            buffers::give(buffer);
        }
    }
}
