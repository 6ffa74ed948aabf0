//! Delivery of the last bytes: a connection has ended when its client has acknowledged all bytes, not
//! when they are written.
//!
//! Written bytes wait in the kernel, for a slow reader perhaps long after the endpoint has closed. The
//! kernel goes on sending the bytes of a closed socket, but only while its address is local: the local
//! route of a VIP, or the network namespace, may go when no connection is counted any more. So a socket
//! stays open until the peer has acknowledged all. Then the connection can also still be reset, where its
//! time to drain is over first.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::ioctl::{Getter, Opcode, ioctl};

/// The shortest interval between two checks whether a client has all bytes. Most have them a round trip
/// later.
pub(crate) const SOON: Duration = Duration::from_millis(10);
/// The longest interval.
pub(crate) const SELDOM: Duration = Duration::from_millis(500);

/// `SIOCOUTQ` of linux/sockios.h, with its number on all architectures that use asm-generic/ioctls.h;
/// see tcp(7).
const SIOCOUTQ: Opcode = 0x5411;

/// How many bytes that were written to a TCP socket its peer has not acknowledged (`SIOCOUTQ`). The end of
/// the stream counts as one. 0 where the kernel does not say.
#[expect(unsafe_code, reason = "rustix has no function for this ioctl")]
pub(crate) fn unacknowledged(socket: &impl AsFd) -> usize {
    // SAFETY: tcp(7): SIOCOUTQ takes a pointer to an int, which it writes. For any other kind of socket or
    // file (TIOCOUTQ) that is the same.
    let queued = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) };
    queued.map_or(0, |bytes| usize::try_from(bytes).unwrap_or_default())
}

/// Whether the bytes that were written to a TCP socket have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The peer has acknowledged all, with the end of the stream if that was sent.
    Done,
    /// Some bytes are not acknowledged yet.
    UnderWay,
    /// The connection is gone, and some bytes were not acknowledged.
    Lost,
}

/// Whether a peer still takes bytes.
#[derive(Debug)]
pub(crate) struct DeliveryProgress {
    amount: u64,
    since: Instant,
}

impl DeliveryProgress {
    /// Nothing was looked at yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            amount: u64::MAX,
            since: now,
        }
    }

    /// Takes an amount of bytes that changes with every byte that the peer takes. Returns whether it has
    /// been the same for `stall`.
    pub(crate) fn is_stalled(&mut self, amount: u64, now: Instant, stall: Duration) -> bool {
        if amount != self.amount {
            (self.amount, self.since) = (amount, now);
            return false;
        }
        now.duration_since(self.since) >= stall
    }
}

/// Whether the bytes that were written to a TCP socket have arrived.
///
/// Where all are acknowledged, as after most connections, this is one system call.
pub(crate) fn state(socket: &impl AsFd) -> Delivery {
    if unacknowledged(socket) == 0 {
        return Delivery::Done;
    }
    // In this order: a connection that ends well between the two calls has no unacknowledged bytes.
    if rustix::net::getpeername(socket).is_ok() {
        Delivery::UnderWay
    } else if unacknowledged(socket) == 0 {
        Delivery::Done
    } else {
        Delivery::Lost
    }
}

/// Waits until the peer of a TCP socket has acknowledged all bytes. False where it will never do so: the
/// connection is gone, `cut` came first, or the peer has taken no byte for `stall`.
pub(crate) async fn delivered(
    socket: &impl AsFd,
    cut: impl Future<Output = ()>,
    stall: Duration,
) -> bool {
    let mut cut = std::pin::pin!(cut);
    let mut pause = SOON;
    let mut progress = DeliveryProgress::new(Instant::now());
    loop {
        match state(socket) {
            Delivery::Done => return true,
            Delivery::Lost => return false,
            Delivery::UnderWay => {}
        }
        let left = unacknowledged(socket) as u64;
        if progress.is_stalled(left, Instant::now(), stall) {
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
        // The connection itself is still there.
        assert_eq!(state(&writer), Delivery::UnderWay);
    }
}
