//! One direction of a connection: bytes from one side to the other, in bounded memory.
//!
//! It reads only what it can write at once or hold, and reads again when that is written. So a slow
//! receiver slows the sender down, and costs at most the memory of one read: 64 KiB, or a pipe of one
//! mebibyte, of which a worker has at most 128. All connections of a worker read into one shared buffer;
//! what the other side does not take at once is copied to a buffer of exactly that size. A long stream is
//! spliced (splice(2)): its bytes pass from socket to socket through a pipe and never enter this process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use rustix::pipe::SpliceFlags;

use super::side::Side;
use crate::counters::Counter;
use crate::descriptors::Descriptors;
use crate::handed::HandedDirection;
use crate::pipes::{self, Pipe};

/// The most bytes of one read.
pub(super) const BUFFER: usize = 64 << 10;

/// The most bytes that are read before an endpoint has answered: they take memory until then.
const EARLY: usize = 2 << 10;

/// How many reads a direction makes before other connections go on.
const READS_PER_ROUND: u32 = 4;

/// A direction is spliced when it has carried this many bytes.
const SPLICE_AFTER: u64 = 128 << 10;

/// A splice takes a second system call, which is not worth it for fewer bytes than this: after a smaller read
/// the direction is copied, until one read brings as much again.
const WORTHWHILE: usize = 16 << 10;

/// `SIOCATMARK` of asm-generic/sockios.h.
const SIOCATMARK: Opcode = 0x8905;

/// Bytes that were spliced, over the whole process. A test checks that it grows: without splicing everything
/// works too, only slower.
static SPLICED: AtomicU64 = AtomicU64::new(0);

/// How many bytes were spliced, over the whole process.
pub(crate) fn spliced() -> u64 {
    SPLICED.load(Ordering::Relaxed)
}

/// What a direction needs to carry bytes.
pub(super) struct Tools<'a> {
    /// The buffer that bytes are read into, of [`BUFFER`] bytes.
    pub(super) buffer: &'a mut [u8],
    /// The budget that a pipe comes out of.
    pub(super) descriptors: &'a Arc<Descriptors>,
}

/// How far a direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CarryProgress {
    /// It waits for one of the sockets.
    Waits,
    /// It has made its reads of this round, and there are more bytes.
    More,
    /// The last byte is written.
    Ended,
}

/// A side was reset, or failed.
#[derive(Debug)]
pub(super) enum SideError {
    /// The one that is read from.
    Reader(io::Error),
    /// The one that is written to.
    Writer(io::Error),
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Direction {
    holds: Holds,
    /// Bytes written so far.
    total: u64,
    /// The last read was [`WORTHWHILE`].
    large: bool,
    /// The end of the stream was read.
    ended: bool,
}

/// What a direction has read and not yet written.
#[derive(Debug, Default)]
enum Holds {
    #[default]
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        from: usize,
        /// How many of them, at the beginning, the gateway says itself.
        header: usize,
    },
    Piped {
        pipe: Pipe,
        bytes: usize,
    },
}

impl Direction {
    /// Whether the end of the stream was read and all bytes are written.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && matches!(self.holds, Holds::Nothing)
    }

    /// Whether the end of the stream was read.
    pub(super) fn has_read_all(&self) -> bool {
        self.ended
    }

    /// Whether any bytes were read.
    pub(super) fn has_begun(&self) -> bool {
        self.total > 0 || !matches!(self.holds, Holds::Nothing)
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.total
    }

    /// Whether the direction holds no bytes, and its last read was small.
    pub(super) fn is_brief(&self) -> bool {
        !self.large && !self.ended && matches!(self.holds, Holds::Nothing)
    }

    /// Takes the result of a read of a batch: `read` bytes, where there was `room`. Returns whether they can
    /// be written at once, and nothing else is to be done.
    pub(super) fn batch_read(
        &mut self,
        read: usize,
        room: usize,
        reader: &mut Side,
        writer: &mut Side,
    ) -> bool {
        if read == 0 {
            // The next read finds the end again.
            reader.ended = true;
            return false;
        }
        self.note_read(read, room, reader);
        self.hurry(writer);
        true
    }

    /// Takes the result of a write of a batch, and keeps the bytes that were not written. Returns whether the
    /// direction has more to do.
    pub(super) fn batch_written(
        &mut self,
        bytes: &[u8],
        result: Option<rustix::io::Result<usize>>,
        reader: &Side,
        writer: &mut Side,
        counter: &Counter,
    ) -> bool {
        // The next write meets an error again.
        let written = match result {
            Some(Ok(written)) => written.min(bytes.len()),
            Some(Err(_)) | None => 0,
        };
        self.count(written, counter);
        if written == bytes.len() {
            return reader.readable;
        }
        self.hold(bytes, written);
        if result == Some(Err(Errno::AGAIN)) {
            writer.writable = false;
        }
        true
    }

    /// A direction that holds these bytes.
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        let mut direction = Self::default();
        if !bytes.is_empty() {
            direction.hold(&bytes, 0);
        }
        direction
    }

    /// Says this before the first byte. To be called before there is one.
    pub(super) fn begin_with(&mut self, header: Vec<u8>) {
        self.holds = Holds::Bytes {
            from: 0,
            header: header.len(),
            bytes: header.into(),
        };
    }

    /// Whether it holds what the gateway says itself, and nothing else yet.
    pub(super) fn holds_header_alone(&self) -> bool {
        matches!(&self.holds, Holds::Bytes { bytes, header, .. } if bytes.len() == *header)
    }

    /// Reads the first bytes of a client, up to [`EARLY`], while its endpoint is dialled. Returns whether there
    /// are bytes to be written.
    pub(super) fn read_early(&mut self, reader: &Side, tools: &mut Tools<'_>) -> bool {
        let held = match &self.holds {
            Holds::Nothing => None,
            Holds::Bytes { bytes, .. } if self.holds_header_alone() => Some(bytes),
            Holds::Bytes { .. } | Holds::Piped { .. } => return true,
        };
        let Some(room) = tools.buffer.get_mut(..EARLY) else {
            return held.is_some();
        };
        // An error is met again when there is an endpoint.
        let Ok((_, read @ 1..)) = rustix::net::recv(&reader.socket, &mut *room, RecvFlags::empty())
        else {
            return held.is_some();
        };
        let read = room.get(..read).unwrap_or_default();
        let header = held.map_or(0, |held| held.len());
        self.holds = Holds::Bytes {
            bytes: match held {
                None => read.into(),
                Some(held) => [held.as_ref(), read].concat().into(),
            },
            from: 0,
            header,
        };
        true
    }

    /// Reads what is in its pipe into memory: the other process gets bytes.
    ///
    /// # Errors
    /// As read(2). The kernel has no reason for one.
    pub(super) fn take_out_of_pipe(&mut self) -> io::Result<()> {
        let Holds::Piped { pipe, bytes } = &self.holds else {
            return Ok(());
        };
        let mut whole = vec![0; *bytes];
        let mut room = whole.as_mut_slice();
        while !room.is_empty() {
            match rustix::io::read(&pipe.read, &mut *room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => room = room.get_mut(read..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let bytes = Holds::Bytes {
            bytes: whole.into(),
            from: 0,
            header: 0,
        };
        if let Holds::Piped { pipe, .. } = std::mem::replace(&mut self.holds, bytes) {
            pipes::give(pipe);
        }
        Ok(())
    }

    /// The bytes that were read and are not written yet, apart from those in a pipe.
    pub(super) fn held(&self) -> &[u8] {
        match &self.holds {
            Holds::Bytes { bytes, from, .. } => bytes.get(*from..).unwrap_or_default(),
            Holds::Nothing | Holds::Piped { .. } => &[],
        }
    }

    /// What another process needs of it, apart from the bytes.
    pub(super) fn handed(&self) -> HandedDirection {
        let header = match &self.holds {
            Holds::Bytes { from, header, .. } => header.saturating_sub(*from),
            Holds::Nothing | Holds::Piped { .. } => 0,
        };
        HandedDirection {
            held: u32::try_from(self.held().len()).unwrap_or(u32::MAX),
            header: u32::try_from(header).unwrap_or(u32::MAX),
            total: self.total,
            large: self.large,
            ended: self.ended,
        }
    }

    /// A direction that another process has handed over, with the bytes that it holds.
    pub(super) fn taken(says: HandedDirection, bytes: Vec<u8>) -> Self {
        let header = says.header as usize;
        let holds = match bytes.is_empty() {
            true => Holds::Nothing,
            false => Holds::Bytes {
                from: 0,
                header: header.min(bytes.len()),
                bytes: bytes.into(),
            },
        };
        Self {
            holds,
            total: says.total,
            large: says.large,
            ended: says.ended,
        }
    }

    /// Carries the bytes that have come. When it returns [`CarryProgress::Ended`], [`Self::shut`] has to follow
    /// at once: the kernel holds the last segment back until then (`MSG_MORE`).
    ///
    /// # Errors
    /// One of the sides was reset or failed.
    pub(super) fn carry(
        &mut self,
        reader: &mut Side,
        writer: &mut Side,
        counter: &Counter,
        tools: &mut Tools<'_>,
    ) -> Result<CarryProgress, SideError> {
        let mut reads_left = READS_PER_ROUND;
        loop {
            if !self
                .write_held(writer, counter)
                .map_err(SideError::Writer)?
            {
                return Ok(CarryProgress::Waits);
            }
            if self.ended {
                return Ok(CarryProgress::Ended);
            }
            if !reader.readable {
                return Ok(CarryProgress::Waits);
            }
            if reads_left == 0 {
                return Ok(CarryProgress::More);
            }
            reads_left -= 1;
            if reader.urgent
                && !self
                    .pass_urgent(reader, writer)
                    .map_err(SideError::Writer)?
            {
                return Ok(CarryProgress::Waits);
            }
            let spliced = if self.large && self.total >= SPLICE_AFTER && !reader.urgent {
                reader.inline_urgent();
                self.splice(reader, tools).map_err(SideError::Reader)?
            } else {
                false
            };
            if !spliced {
                self.copy(reader, writer, counter, tools)?;
            }
        }
    }

    /// Where the next byte is urgent (RFC 6093), sends it as an urgent byte. (All bytes before it were read,
    /// because no read crosses it; and splice(2) would stop at it.) False where the writer does not take it
    /// yet. An urgent byte that a client sends first, before epoll watches it, is read as any other byte.
    fn pass_urgent(&mut self, reader: &mut Side, writer: &mut Side) -> io::Result<bool> {
        if !at_mark(&reader.socket) {
            return Ok(true);
        }
        reader.inline_urgent();
        let mut byte = [0];
        let Ok((_, 1)) = rustix::net::recv(&reader.socket, &mut byte, RecvFlags::PEEK) else {
            // The byte has not arrived yet.
            return Ok(true);
        };
        if !writer.writable {
            return Ok(false);
        }
        let flags = SendFlags::OOB | SendFlags::NOSIGNAL;
        match rustix::net::send(&writer.socket, &byte, flags) {
            Ok(_) => {
                let _ = rustix::net::recv(&reader.socket, &mut byte, RecvFlags::empty());
                Ok(true)
            }
            Err(Errno::AGAIN) => {
                writer.writable = false;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the end of the stream. Where that fails the peer is gone, which the other direction finds out.
    pub(super) fn shut(writer: &Side) {
        let _ = rustix::net::shutdown(&writer.socket, Shutdown::Write);
    }

    /// Reads once, and writes as many of the bytes as the writer takes.
    fn copy(
        &mut self,
        reader: &mut Side,
        writer: &mut Side,
        counter: &Counter,
        tools: &mut Tools<'_>,
    ) -> Result<(), SideError> {
        let room = tools.buffer.len();
        let read = rustix::net::recv(&reader.socket, &mut *tools.buffer, RecvFlags::empty());
        let read = match read {
            Ok((_, read)) => read,
            Err(Errno::AGAIN) => {
                reader.readable = false;
                return Ok(());
            }
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(SideError::Reader(error.into())),
        };
        self.note_read(read, room, reader);
        let bytes = tools.buffer.get(..read).unwrap_or_default();
        let mut written = 0;
        // The last bytes wait for the end of the stream, so that both go in one segment. After an error no end
        // is sent.
        let last = self.ended && !reader.failed;
        if read > 0 && !last {
            self.hurry(writer);
        }
        while writer.writable && written < read {
            let rest = bytes.get(written..).unwrap_or_default();
            match send(writer, rest, last) {
                Ok(sent) => written += sent,
                Err(Errno::AGAIN) => writer.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(SideError::Writer(error.into())),
            }
        }
        self.count(written, counter);
        if written < read {
            self.hold(bytes, written);
        }
        Ok(())
    }

    /// Notes that `read` bytes were read where there was `room`.
    fn note_read(&mut self, read: usize, room: usize, reader: &mut Side) {
        self.large = read >= WORTHWHILE;
        if read < room {
            // The socket's queue is empty, so the end of the stream was reached if it had arrived. Only urgent
            // data makes a read stop before the queue is empty.
            self.ended = read == 0 || (reader.ended && !reader.urgent);
            reader.readable = reader.urgent || reader.ended;
        } else {
            reader.readable = true;
            reader.inline_urgent();
        }
    }

    /// Keeps the bytes that are not written.
    fn hold(&mut self, bytes: &[u8], written: usize) {
        self.holds = Holds::Bytes {
            bytes: bytes.get(written..).unwrap_or_default().into(),
            from: 0,
            header: 0,
        };
    }

    /// Reads into a pipe. False where no pipe can be had.
    fn splice(&mut self, reader: &mut Side, tools: &mut Tools<'_>) -> io::Result<bool> {
        let Some(pipe) = pipes::take(tools.descriptors) else {
            return Ok(false);
        };
        match splice(&reader.socket, &pipe.write, pipes::SIZE) {
            Ok(0) => {
                // It stops at an urgent byte, too, which epoll may not have reported yet.
                if at_mark(&reader.socket) {
                    reader.urgent = true;
                } else {
                    self.ended = true;
                }
                pipes::give(pipe);
            }
            Ok(bytes) => {
                self.large = bytes >= WORTHWHILE;
                self.holds = Holds::Piped { pipe, bytes };
            }
            Err(error) => {
                pipes::give(pipe);
                match error {
                    Errno::AGAIN => reader.readable = false,
                    Errno::INTR => {}
                    _ => return Err(error.into()),
                }
            }
        }
        Ok(true)
    }

    /// Writes the bytes that are held. Returns whether all are written.
    ///
    /// # Errors
    /// The writer was reset or failed.
    pub(super) fn write_held(&mut self, writer: &mut Side, counter: &Counter) -> io::Result<bool> {
        loop {
            if matches!(self.holds, Holds::Nothing) {
                return Ok(true);
            }
            if !writer.writable {
                return Ok(false);
            }
            self.hurry(writer);
            let mut of_header = 0;
            let written = match &mut self.holds {
                Holds::Nothing => return Ok(true),
                Holds::Bytes {
                    bytes,
                    from,
                    header,
                } => {
                    let rest = bytes.get(*from..).unwrap_or_default();
                    let sent = send(writer, rest, false);
                    sent.inspect(|sent| {
                        of_header = header.saturating_sub(*from).min(*sent);
                        *from += sent;
                    })
                }
                Holds::Piped { pipe, bytes } => {
                    let spliced = splice(&pipe.read, &writer.socket, *bytes);
                    spliced.inspect(|spliced| {
                        *bytes -= spliced;
                        SPLICED.fetch_add(*spliced as u64, Ordering::Relaxed);
                    })
                }
            };
            match written {
                Ok(written) => {
                    // What the gateway says itself is no byte of a client.
                    self.total += of_header as u64;
                    self.count(written - of_header, counter);
                }
                Err(Errno::AGAIN) => writer.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.holds = match std::mem::take(&mut self.holds) {
                Holds::Bytes { bytes, from, .. } if from == bytes.len() => Holds::Nothing,
                Holds::Piped { pipe, bytes: 0 } => {
                    pipes::give(pipe);
                    Holds::Nothing
                }
                other => other,
            };
        }
    }

    /// Sets `TCP_NODELAY` before the second write. Nagle's algorithm (RFC 896) holds a segment back only while
    /// another one is not acknowledged, so the first write needs no system call for that.
    fn hurry(&self, writer: &mut Side) {
        if self.total > 0 && !writer.prompt {
            writer.prompt = true;
            // This can't fail on a TCP socket, and a connection works without it.
            let _ = rustix::net::sockopt::set_tcp_nodelay(&writer.socket, true);
        }
    }

    fn count(&mut self, written: usize, counter: &Counter) {
        self.total += written as u64;
        counter.add(written as u64);
    }
}

/// Whether the next byte to be read is an urgent one.
#[expect(unsafe_code, reason = "rustix has no function for this ioctl")]
fn at_mark(socket: &OwnedFd) -> bool {
    // SAFETY: sockatmark(3), tcp(7): SIOCATMARK takes a pointer to an int, which it writes.
    let at = unsafe { ioctl(socket, Getter::<SIOCATMARK, i32>::new()) };
    at.is_ok_and(|at| at != 0)
}

/// With `more` (`MSG_MORE`) the kernel holds an incomplete segment back until more bytes, or the end, follow.
fn send(writer: &Side, bytes: &[u8], more: bool) -> rustix::io::Result<usize> {
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, more);
    rustix::net::send(&writer.socket, bytes, flags)
}

/// A length above what a pipe holds brings nothing, and `usize::MAX` is EINVAL.
fn splice(from: impl AsFd, to: impl AsFd, bytes: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    rustix::pipe::splice(from, None, to, None, bytes, flags)
}
