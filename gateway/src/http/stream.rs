//! The client's side of a connection: a TCP stream with the deadlines that pingora does not have.
//!
//! pingora's timeouts are between two reads, so a head that comes one byte a minute would never time out (slowloris).
//! This stream notes when the head began, and ends the connection when the head takes too long or grows too large. It
//! also tells h2 from HTTP/1.1 at the first byte that differs: pingora's own stream waits for 24 bytes, and
//! `GET / HTTP/1.0` with two line ends has only 18.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{ClientConnection, Phase};
use super::failure::ErrorResponse;
use super::limits::HEAD_BYTES;
use super::send_buffer::SendBuffer;
use super::unwritten::AllWritten;

/// The first bytes of an h2 client with prior knowledge (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes of one read while h2 is told from HTTP/1.1; most heads fit.
const FIRST_READ: usize = 2048;

/// The client's side of a connection.
#[derive(Debug)]
pub(super) struct Downstream {
    socket: OwnedReadHalf,
    sending: Arc<SendBuffer>,
    connection: Arc<ClientConnection>,
    digest: Option<Arc<ProxyDigest>>,
    socket_digest: Arc<SocketDigest>,
    /// The phase that `deadline` is for.
    timed: Phase,
    deadline: Option<Instant>,
    /// Set only while a read waits.
    timer: Option<Pin<Box<Sleep>>>,
    /// How many bytes of the head have come.
    head: usize,
    /// Bytes that were read to tell h2 from HTTP/1.1, and not returned by a read yet.
    peeked: BytesMut,
    /// How the client's side has ended, until pingora is told.
    end: Option<io::Result<()>>,
    all_written: AllWritten,
}

impl Downstream {
    /// The stream of a connection of which these bytes were read already, and its send buffer.
    pub(super) fn new(
        socket: TcpStream,
        first: Vec<u8>,
        connection: Arc<ClientConnection>,
    ) -> (Self, Arc<SendBuffer>) {
        let timed = connection.phase();
        let descriptor = socket.as_raw_fd();
        let (socket, sending) = socket.into_split();
        let sending = Arc::new(SendBuffer::new(sending));
        let stream = Self {
            sending: sending.clone(),
            digest: connection.digest(),
            socket_digest: Arc::new(SocketDigest::from_raw_fd(descriptor)),
            timed,
            deadline: timed.limit().map(|limit| Instant::now() + limit),
            timer: None,
            head: 0,
            peeked: BytesMut::from(first.as_slice()),
            end: None,
            all_written: AllWritten::default(),
            socket,
            connection,
        };
        (stream, sending)
    }

    /// Restarts the deadline when the connection has entered another phase.
    fn follow_phase(&mut self) {
        let phase = self.connection.phase();
        if phase != self.timed {
            self.timed = phase;
            self.deadline = phase.limit().map(|limit| Instant::now() + limit);
            self.timer = None;
            self.head = 0;
        }
    }

    /// Sends the error response, as far as the socket takes it at once, and returns the error that ends the stream.
    fn give_up(&mut self, why: ErrorResponse) -> io::Error {
        let _ = self.socket.as_ref().try_write(&why.raw_response());
        self.connection.set_failed();
        io::Error::new(io::ErrorKind::TimedOut, why.code())
    }

    /// Reads from the socket. Returns the end only when all that came before it is written to endpoints, because
    /// pingora drops at the end what it has not written.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            let before = buf.filled().len();
            let read = ready!(self.poll_read_socket(cx, buf));
            if read.is_ok() && (buf.filled().len() > before || buf.remaining() == 0) {
                return Poll::Ready(read);
            }
            self.end = Some(read);
        }
        // The streams of h2 have tasks of their own.
        let other_tasks = self.timed == Phase::Streams;
        let unwritten = &self.connection.unwritten;
        ready!(self.all_written.poll(unwritten, other_tasks, cx));
        Poll::Ready(self.end.take().unwrap_or(Ok(())))
    }

    /// Reads from the socket within the deadline of the phase.
    fn poll_read_socket(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.follow_phase();
        if self.timed == Phase::Head && self.head >= HEAD_BYTES {
            return Poll::Ready(Err(self.give_up(ErrorResponse::HeadTooLarge)));
        }
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.socket).poll_read(cx, buf);
        if let Some(deadline) = self.deadline {
            let overdue = match poll {
                Poll::Ready(_) => Instant::now() >= deadline,
                Poll::Pending => {
                    let timer = self
                        .timer
                        .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
                    timer.as_mut().poll(cx).is_ready()
                }
            };
            if overdue {
                let why = match self.timed {
                    // A client that has sent nothing gets no answer: browsers open connections in advance.
                    Phase::New => {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    Phase::Upgrading => ErrorResponse::UpstreamTimeout,
                    _ => ErrorResponse::RequestTimeout,
                };
                return Poll::Ready(Err(self.give_up(why)));
            }
        }
        ready!(poll)?;
        let read = buf.filled().len() - before;
        self.connection.port.counters.received.add(read as u64);
        if read > 0 && matches!(self.timed, Phase::New | Phase::Idle) {
            self.connection.set_phase(Phase::Head);
            self.follow_phase();
        }
        self.head += read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Downstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.peeked.is_empty() {
            return self.poll_socket(cx, buf);
        }
        let amount = self.peeked.len().min(buf.remaining());
        buf.put_slice(&self.peeked.copy_to_bytes(amount));
        if self.peeked.is_empty() {
            self.peeked = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match ready!(self.sending.poll_write(cx, buf)) {
            // The client is gone. pingora hears of it from a read, when the uploads are written.
            Err(_) if self.end.is_some() => return Poll::Ready(Ok(buf.len())),
            written => written?,
        };
        self.connection
            .port
            .counters
            .transmitted
            .add(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.sending.poll_send(cx)) {
            Err(_) if self.end.is_some() => Poll::Ready(Ok(())),
            sent => Poll::Ready(sent),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sending.poll_shutdown(cx)
    }
}

#[async_trait]
impl Peek for Downstream {
    /// Returns as many of the first bytes as are needed to tell h2 from HTTP/1.1.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        while self.peeked.len() < PREFACE.len() && PREFACE.starts_with(&self.peeked) {
            let mut first = [0; FIRST_READ];
            let mut first = ReadBuf::new(&mut first);
            std::future::poll_fn(|cx| self.poll_socket(cx, &mut first)).await?;
            if first.filled().is_empty() {
                break;
            }
            self.peeked.extend_from_slice(first.filled());
        }
        if self.peeked.starts_with(PREFACE) {
            self.connection.set_phase(Phase::Streams);
        }
        for (out, byte) in buf.iter_mut().zip(&self.peeked) {
            *out = *byte;
        }
        Ok(true)
    }
}

#[async_trait]
impl Shutdown for Downstream {
    async fn shutdown(&mut self) {
        // This fails where the client is gone already.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> UniqueIDType {
        let fd: RawFd = self.socket.as_ref().as_raw_fd();
        fd
    }
}

impl Ssl for Downstream {}

impl GetTimingDigest for Downstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Downstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.digest.clone()
    }
}

impl GetSocketDigest for Downstream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket_digest.clone())
    }
}
