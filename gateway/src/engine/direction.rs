//! One direction of a connection: bytes from one side to the other, in bounded memory.
//!
//! It reads only what it can write on at once or hold, and reads on once that is written: a reader
//! that is slow slows its writer down and costs at most what was read last: 64 KiB, or a pipe of a
//! mebibyte, of which a worker has 128. Bytes are read into a buffer that all connections of a worker
//! share; what the other side does not take at once is kept in one of its own size. A stream that grows is
//! spliced: its bytes pass from socket to socket through a pipe and never enter this process.

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
use crate::pipes::{self, Pipe};

/// What is read at once at most.
pub(super) const BUFFER: usize = 64 << 10;

/// What is read at most before there is an endpoint: it takes memory that long.
const EARLY: usize = 2 << 10;

/// How often a direction may read before others have their turn.
const TURNS: u32 = 4;

/// From how many bytes on a direction is spliced.
const GROWN: u64 = 128 << 10;

/// A read that moves less than this is not worth a splice's second system call: the direction is
/// copied until one brings as much again.
const WORTHWHILE: usize = 16 << 10;

/// `SIOCATMARK` of asm-generic/sockios.h.
const SIOCATMARK: Opcode = 0x8905;

/// Bytes that were spliced, over the whole process. A test holds it above zero: a splice that never
/// happens costs nothing but speed, so nobody would notice.
static SPLICED: AtomicU64 = AtomicU64::new(0);

/// How many bytes were spliced.
pub(crate) fn spliced() -> u64 {
    SPLICED.load(Ordering::Relaxed)
}

/// What a direction works with.
pub(super) struct Tools<'a> {
    /// Where bytes are read into: of [`BUFFER`] bytes.
    pub(super) buffer: &'a mut [u8],
    /// Leave to open a pipe.
    pub(super) descriptors: &'a Arc<Descriptors>,
}

/// How far a direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CarryProgress {
    /// One of the sides has to do something.
    Waits,
    /// It has had its turns, and there is more.
    More,
    /// The reader's last byte is written.
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
    /// The reader says no more.
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
    },
    Piped {
        pipe: Pipe,
        bytes: usize,
    },
}

impl Direction {
    /// Whether the reader has ended and all of it is written.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && matches!(self.holds, Holds::Nothing)
    }

    /// Whether the reader has said all, and all of it was read.
    pub(super) fn has_read_all(&self) -> bool {
        self.ended
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> u64 {
        self.total
    }

    /// Whether nothing is on its way, and what comes is as a rule little.
    pub(super) fn is_brief(&self) -> bool {
        !self.large && !self.ended && matches!(self.holds, Holds::Nothing)
    }

    /// So many bytes were read where there was so much room, to be written at once; false where there
    /// is more to it than that.
    pub(super) fn heard(
        &mut self,
        read: usize,
        room: usize,
        reader: &mut Side,
        writer: &mut Side,
    ) -> bool {
        if read == 0 {
            // A read says so again.
            reader.ended = true;
            return false;
        }
        self.note_read(read, room, reader);
        self.hurry(writer);
        true
    }

    /// It was tried to write these bytes; what is left of them is kept. Returns whether the direction has
    /// more to do.
    pub(super) fn said(
        &mut self,
        bytes: &[u8],
        result: Option<rustix::io::Result<usize>>,
        reader: &Side,
        writer: &mut Side,
        counter: &Counter,
    ) -> bool {
        // An error is met again.
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

    /// Reads what the reader has said already, a little of it, before there is somebody to write it to;
    /// false where it has said nothing.
    pub(super) fn read_early(&mut self, reader: &Side, tools: &mut Tools<'_>) -> bool {
        if !matches!(self.holds, Holds::Nothing) {
            return true;
        }
        let Some(room) = tools.buffer.get_mut(..EARLY) else {
            return false;
        };
        // What is wrong is met again when there is somebody.
        let Ok((_, read @ 1..)) = rustix::net::recv(&reader.socket, &mut *room, RecvFlags::empty())
        else {
            return false;
        };
        self.holds = Holds::Bytes {
            bytes: room.get(..read).unwrap_or_default().into(),
            from: 0,
        };
        true
    }

    /// Carries what there is. Once it is ended, the writer has to be told so at once: what was written
    /// last waits for that.
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
        let mut turns = TURNS;
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
            if turns == 0 {
                return Ok(CarryProgress::More);
            }
            turns -= 1;
            if reader.urgent
                && !self
                    .pass_urgent(reader, writer)
                    .map_err(SideError::Writer)?
            {
                return Ok(CarryProgress::Waits);
            }
            let spliced = if self.large && self.total >= GROWN && !reader.urgent {
                reader.put_in_line();
                self.splice(reader, tools).map_err(SideError::Reader)?
            } else {
                false
            };
            if !spliced {
                self.copy(reader, writer, counter, tools)?;
            }
        }
    }

    /// Passes an urgent byte on as one, where it is the next (RFC 6093; what comes before it was
    /// read, as no read crosses it). False where the writer does not take it yet. (splice(2) would
    /// not get past it.) One that a client says before anything else, and before its connection is
    /// watched, is read as any other byte.
    fn pass_urgent(&mut self, reader: &mut Side, writer: &mut Side) -> io::Result<bool> {
        if !at_mark(&reader.socket) {
            return Ok(true);
        }
        reader.put_in_line();
        let mut byte = [0];
        let Ok((_, 1)) = rustix::net::recv(&reader.socket, &mut byte, RecvFlags::PEEK) else {
            // It is not here yet.
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

    /// Says to the writer that no more comes. It may be gone, which the other direction finds out.
    pub(super) fn shut(writer: &Side) {
        let _ = rustix::net::shutdown(&writer.socket, Shutdown::Write);
    }

    /// Reads once, and writes what was read as far as the writer takes it.
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
        // What is last waits for the end, so that both go in one segment; after an error none comes.
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

    /// So many bytes were read where there was so much room.
    fn note_read(&mut self, read: usize, room: usize, reader: &mut Side) {
        self.large = read >= WORTHWHILE;
        if read < room {
            // All that had come was read, and with it the end if that had come too: the socket's
            // queue is in order. Only urgent data makes a read stop before the queue is empty.
            self.ended = read == 0 || (reader.ended && !reader.urgent);
            reader.readable = reader.urgent || reader.ended;
        } else {
            reader.readable = true;
            reader.put_in_line();
        }
    }

    /// Keeps what is not written of it.
    fn hold(&mut self, bytes: &[u8], written: usize) {
        self.holds = Holds::Bytes {
            bytes: bytes.get(written..).unwrap_or_default().into(),
            from: 0,
        };
    }

    /// Reads into a pipe; false where there is none to be had.
    fn splice(&mut self, reader: &mut Side, tools: &mut Tools<'_>) -> io::Result<bool> {
        let Some(pipe) = pipes::take(tools.descriptors) else {
            return Ok(false);
        };
        match splice(&reader.socket, &pipe.write, pipes::SIZE) {
            Ok(0) => {
                // It stops at an urgent byte, too, which nobody may have told of yet.
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

    /// Writes what is held; true where nothing is left of it.
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
            let written = match &mut self.holds {
                Holds::Nothing => return Ok(true),
                Holds::Bytes { bytes, from } => {
                    let rest = bytes.get(*from..).unwrap_or_default();
                    let sent = send(writer, rest, false);
                    sent.inspect(|sent| *from += sent)
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
                Ok(written) => self.count(written, counter),
                Err(Errno::AGAIN) => writer.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.holds = match std::mem::take(&mut self.holds) {
                Holds::Bytes { bytes, from } if from == bytes.len() => Holds::Nothing,
                Holds::Piped { pipe, bytes: 0 } => {
                    pipes::give(pipe);
                    Holds::Nothing
                }
                other => other,
            };
        }
    }

    /// Only what is written while something else is under way would wait for company (Nagle's
    /// algorithm, RFC 896): so the first write of a connection needs no word about it.
    fn hurry(&self, writer: &mut Side) {
        if self.total > 0 && !writer.prompt {
            writer.prompt = true;
            // It can't fail on a TCP socket, and a connection works without.
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

/// Where `more` is to come at once, the kernel waits for it before it sends what is no full segment.
fn send(writer: &Side, bytes: &[u8], more: bool) -> rustix::io::Result<usize> {
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, more);
    rustix::net::send(&writer.socket, bytes, flags)
}

/// The length is capped: a larger one than a pipe holds brings nothing, and `usize::MAX` is EINVAL.
fn splice(from: impl AsFd, to: impl AsFd, bytes: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    rustix::pipe::splice(from, None, to, None, bytes, flags)
}
