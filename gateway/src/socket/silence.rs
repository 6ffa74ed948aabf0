//! For how long a connection has been without a byte either way: the kernel knows.

#![expect(unsafe_code, reason = "no safe wrapper has TCP_INFO")]

use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

/// How long ago the last byte came from the peer of a TCP socket, or was sent to it (once more, too), whichever is less:
/// `tcpi_last_data_recv` and `tcpi_last_data_sent` of `TCP_INFO` (tcp(7)). None where the kernel does not say.
///
/// So carrying bytes costs nothing for it, and a connection needs no memory.
pub(crate) fn silence(socket: &impl AsFd) -> Option<Duration> {
    // SAFETY: all of its fields are numbers, for which zeroes are good.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    let socket = socket.as_fd().as_raw_fd();
    let to = ptr::from_mut(&mut info).cast();
    // SAFETY: tcp(7): the kernel writes at most so many bytes of a `struct tcp_info`, whose layout only grows at its end.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            to,
            &raw mut length,
        )
    };
    let needed = mem::offset_of!(libc::tcp_info, tcpi_last_data_recv) + mem::size_of::<u32>();
    let is_told = result == 0 && length as usize >= needed;
    let last = info.tcpi_last_data_recv.min(info.tcpi_last_data_sent);
    is_told.then(|| Duration::from_millis(last.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn it_is_the_time_since_the_last_byte_either_way() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let pause = || std::thread::sleep(Duration::from_millis(120));
        let least = Duration::from_millis(100);
        pause();
        assert!(silence(&server).unwrap() >= least);
        client.write_all(b"a").unwrap();
        server.read_exact(&mut [0]).unwrap();
        assert!(silence(&server).unwrap() < least);
        pause();
        assert!(silence(&server).unwrap() >= least);
        server.write_all(b"b").unwrap();
        assert!(silence(&server).unwrap() < least);
        assert!(silence(&client).unwrap() < least);
        assert_eq!(silence(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
