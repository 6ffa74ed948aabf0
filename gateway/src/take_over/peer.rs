//! The process at the other end of a Unix socket (unix(7), `SO_PEERCRED`).
//!
//! rustix has this, too, but takes the number of a process for one that is never 0: it is where that process is in a PID
//! namespace that this one does not see, as in another Pod.
#![expect(
    unsafe_code,
    reason = "the safe wrapper has no process without a number"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerProcess {
    /// Its number here; none: it has none.
    pub(crate) process: Option<u32>,
    /// Its effective user.
    pub(crate) user: u32,
}

/// Who has connected this socket, or listened for it.
///
/// # Errors
/// It is no Unix socket.
pub(crate) fn peer_process(socket: BorrowedFd<'_>) -> io::Result<PeerProcess> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let size = mem::size_of::<libc::ucred>();
    let mut length = libc::socklen_t::try_from(size).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes to `peer`, which has as many.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(length) != Ok(size) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let process = u32::try_from(peer.pid).ok();
    Ok(PeerProcess {
        process: process.filter(|it| *it != 0),
        user: peer.uid,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn this_process_is_at_both_ends_of_a_pair() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = PeerProcess {
            process: Some(std::process::id()),
            user: rustix::process::geteuid().as_raw(),
        };
        assert_eq!(peer_process(one.as_fd()).unwrap(), own);
    }

    #[test]
    fn another_socket_has_no_such_peer() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The kernel has process 0 and user -1 for it, or an error.
        let peer = peer_process(socket.as_fd());
        assert!(peer.is_err() || peer.unwrap().process.is_none());
    }
}
