//! Reads and writes of one side, as far as they go at once.

use std::io::{self, IoSlice};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::connection_use::{ConnectionUse, PROBES};
use crate::engine::side::Side;

/// What a read has brought.
#[derive(Debug)]
pub(super) enum ReadResult {
    /// So many bytes.
    Bytes(usize),
    /// Nothing has come.
    Nothing,
    /// The end of the stream.
    End,
    /// The connection is broken.
    Failed(io::Error),
}

/// Reads once. A read that brings less than there is room for is the last of its edge.
pub(super) fn read(side: &mut Side, room: &mut [u8]) -> ReadResult {
    if !side.readable {
        return ReadResult::Nothing;
    }
    loop {
        match rustix::net::recv(&side.socket, &mut *room, RecvFlags::empty()) {
            Ok((_, 0)) => {
                side.ended = true;
                return ReadResult::End;
            }
            Ok((_, read)) => {
                side.readable = read == room.len() || side.ended || side.urgent;
                return ReadResult::Bytes(read);
            }
            Err(Errno::AGAIN) => {
                side.readable = false;
                return ReadResult::Nothing;
            }
            Err(Errno::INTR) => {}
            Err(error) => {
                side.failed = true;
                return ReadResult::Failed(error.into());
            }
        }
    }
}

/// What waits at a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peeked {
    Nothing,
    /// Bytes, the end of the stream, or an error.
    Something,
}

/// Looks whether anything waits, and leaves it there.
pub(super) fn peek(side: &mut Side) -> Peeked {
    match rustix::net::recv(&side.socket, &mut [0], RecvFlags::PEEK) {
        Err(Errno::AGAIN) => {
            side.readable = false;
            Peeked::Nothing
        }
        _ => Peeked::Something,
    }
}

/// Writes the first bytes and then the second ones, as many as the socket takes.
///
/// # Errors
/// The connection is broken.
pub(super) fn write(side: &mut Side, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let all = first.len() + second.len();
    let mut written = 0;
    while side.writable && written < all {
        let rest = first.get(written..).unwrap_or_default();
        let sent = if rest.is_empty() {
            let rest = second
                .get(written.saturating_sub(first.len())..)
                .unwrap_or_default();
            rustix::net::send(&side.socket, rest, SendFlags::NOSIGNAL)
        } else if second.is_empty() {
            rustix::net::send(&side.socket, rest, SendFlags::NOSIGNAL)
        } else {
            let both = [IoSlice::new(rest), IoSlice::new(second)];
            let mut none = SendAncillaryBuffer::default();
            rustix::net::sendmsg(&side.socket, &both, &mut none, SendFlags::NOSIGNAL)
        };
        match sent {
            Ok(sent) => written += sent,
            Err(Errno::AGAIN) => side.writable = false,
            Err(Errno::INTR) => {}
            Err(error) => {
                side.failed = true;
                return Err(error.into());
            }
        }
    }
    Ok(written)
}

/// The rest of the first bytes and of the second ones, after so many of them.
pub(super) fn rest(first: &[u8], second: &[u8], written: usize) -> Vec<u8> {
    let of_first = first.get(written..).unwrap_or_default();
    let of_second = second
        .get(written.saturating_sub(first.len())..)
        .unwrap_or_default();
    [of_first, of_second].concat()
}

/// Sets `TCP_NODELAY` before the second write. Nagle's algorithm (RFC 896) holds a segment back only while another one
/// is not acknowledged, so the first write needs no system call for that.
pub(super) fn hurry(side: &mut Side) {
    if !side.prompt {
        side.prompt = true;
        // It can't fail on a TCP socket, and a connection works without it.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&side.socket, true);
    }
}

/// Has the kernel find out that an endpoint's machine is gone.
pub(super) fn probe(side: &Side, kind: ConnectionUse) {
    use rustix::net::sockopt;
    let times = kind.times();
    let timeout = u32::try_from(times.user_timeout.as_millis()).unwrap_or(u32::MAX);
    // They can't fail on a TCP socket, and a connection works without them.
    let _ = sockopt::set_socket_keepalive(&side.socket, true);
    let _ = sockopt::set_tcp_keepidle(&side.socket, times.idle);
    let _ = sockopt::set_tcp_keepintvl(&side.socket, times.interval);
    let _ = sockopt::set_tcp_keepcnt(&side.socket, PROBES);
    if timeout > 0 {
        let _ = sockopt::set_tcp_user_timeout(&side.socket, timeout);
    }
}
