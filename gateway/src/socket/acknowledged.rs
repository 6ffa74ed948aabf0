//! What the kernel knows of the acknowledgements of a connection that another part of the process has.

#![expect(
    unsafe_code,
    reason = "no safe wrapper has TCP_INFO, or takes a bare descriptor"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use fairway_gateway_core::acknowledgement::AcknowledgementState;

/// A second descriptor of a socket that pingora has, which shows only its number. To be called while pingora has it: in
/// one of its callbacks that get the number.
///
/// # Errors
/// The process has no descriptors left.
pub(crate) fn second_descriptor(socket: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: pingora's callback has the number of a descriptor that is open until the callback returns. Where it were not,
    // dup(2) would say so.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    socket.try_clone_to_owned()
}

/// None where the kernel does not say.
pub(crate) fn acknowledgements(socket: &OwnedFd) -> Option<AcknowledgementState> {
    // SAFETY: all of its fields are numbers, for which zeroes are good.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: tcp(7): the kernel writes at most so many bytes of a `struct tcp_info`, whose layout only grows at its end.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            ptr::from_mut(&mut info).cast(),
            &raw mut length,
        )
    };
    let needed = mem::offset_of!(libc::tcp_info, tcpi_last_ack_recv) + mem::size_of::<u32>();
    let is_told = result == 0 && length as usize >= needed;
    is_told.then(|| AcknowledgementState {
        has_unacknowledged: info.tcpi_unacked > 0,
        retransmits: info.tcpi_retransmits,
        probes: info.tcpi_probes,
        last: Duration::from_millis(info.tcpi_last_ack_recv.into()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn who_answers_has_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let second = second_descriptor(client.as_raw_fd()).unwrap();
        client.write_all(b"a").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let state = acknowledgements(&second).unwrap();
        assert!(!state.has_unacknowledged && state.probes == 0, "{state:?}");
        assert!(state.last < Duration::from_secs(5), "{state:?}");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(acknowledgements(&file.into()), None);
    }
}
