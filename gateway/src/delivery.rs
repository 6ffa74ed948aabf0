//! The last bytes of a connection: it has ended when its client has them, not when they are
//! written.
//!
//! What is written waits in the kernel, for a slow reader perhaps long after the endpoint is done.
//! A socket that is closed meanwhile goes on sending, but only while its address is one of this
//! host's: the local route of a VIP, or the network namespace, may go once nobody is connected any
//! more. So a socket is kept until nothing of it is under way. That also leaves someone to reset
//! it, where its time is over before.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::ioctl::{Getter, Opcode, ioctl};

/// How soon it is looked again whether the client has all, doubled up to [`SELDOM`]. Most have it a
/// round trip later.
const SOON: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(500);

/// `SIOCOUTQ` of linux/sockios.h, with its number on all architectures that use asm-generic/ioctls.h;
/// see tcp(7).
const SIOCOUTQ: Opcode = 0x5411;

/// How much of what was written to a TCP socket its peer has not acknowledged, in bytes, the end of
/// the stream counting as one. None where the kernel does not say.
#[expect(unsafe_code, reason = "rustix has no function for this ioctl")]
pub(crate) fn unacknowledged(socket: &impl AsFd) -> usize {
    // SAFETY: tcp(7): SIOCOUTQ takes a pointer to an int, which it writes; what it does to any other
    // kind of socket or file (TIOCOUTQ) is the same.
    let queued = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) };
    queued.map_or(0, |bytes| usize::try_from(bytes).unwrap_or_default())
}

/// How it stands with what was written to a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Its peer has acknowledged all, the end of the stream included where that was said.
    Done,
    /// Some is under way.
    UnderWay,
    /// The connection is gone, and some was under way.
    Lost,
}

/// How it stands with what was written to a TCP socket.
///
/// Where nothing is under way, as after most connections, this is one system call.
pub(crate) fn state(socket: &impl AsFd) -> Delivery {
    if unacknowledged(socket) == 0 {
        return Delivery::Done;
    }
    // In this order: what has just ended well has nothing under way any more.
    if rustix::net::getpeername(socket).is_ok() {
        Delivery::UnderWay
    } else if unacknowledged(socket) == 0 {
        Delivery::Done
    } else {
        Delivery::Lost
    }
}

/// Waits until nothing that was written to a TCP socket is under way. False where its peer will never
/// have it: the connection is gone, it was `cut` before, or the peer has taken nothing for so long as
/// `stall`.
pub(crate) async fn delivered(
    socket: &impl AsFd,
    cut: impl Future<Output = ()>,
    stall: Duration,
) -> bool {
    let mut cut = std::pin::pin!(cut);
    let mut pause = SOON;
    let (mut left, mut since) = (usize::MAX, Instant::now());
    loop {
        match state(socket) {
            Delivery::Done => return true,
            Delivery::Lost => return false,
            Delivery::UnderWay => {}
        }
        let now_left = unacknowledged(socket);
        if now_left != left {
            (left, since) = (now_left, Instant::now());
        } else if since.elapsed() >= stall {
            return false;
        }
        tokio::select! {
            () = &mut cut => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(SELDOM);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use socket2::SockRef;
    use tokio_util::sync::CancellationToken;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A connection over loopback: the writer's end with so many bytes written and the end of the
    /// stream said, and the reader's, which takes little at once.
    fn pair(bytes: usize) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        writer.write_all(&vec![7; bytes]).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
        (writer, reader)
    }

    #[tokio::test]
    async fn it_waits_until_a_slow_reader_has_all() {
        let (writer, mut reader) = pair(100_000);
        assert!(unacknowledged(&writer) > 50_000);
        let cut = CancellationToken::new();
        let waiting = tokio::spawn(async move { delivered(&writer, cut.cancelled(), LONG).await });
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|bytes| (bytes, reader))
        });
        let (bytes, _reader) = read.await.unwrap().unwrap();
        assert_eq!(bytes, 100_000);
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn it_does_not_wait_for_what_will_never_be_delivered() {
        // The reader goes away with bytes unread, which resets the connection.
        let (writer, reader) = pair(100_000);
        let cut = CancellationToken::new();
        drop(reader);
        assert!(!delivered(&writer, cut.cancelled(), LONG).await);
        let (writer, _reader) = pair(100_000);
        cut.cancel();
        assert!(!delivered(&writer, cut.cancelled(), LONG).await);
    }

    #[tokio::test]
    async fn it_does_not_wait_for_a_reader_that_takes_nothing() {
        let (writer, _reader) = pair(100_000);
        let cut = CancellationToken::new();
        let stall = Duration::from_millis(100);
        assert!(!delivered(&writer, cut.cancelled(), stall).await);
        // It is there all the same.
        assert_eq!(state(&writer), Delivery::UnderWay);
    }
}
