//! System calls that are made together, by io_uring(7).
//!
//! The way into the kernel and back costs time for each system call. A batch pays that once for all its calls.
//! Nothing else of io_uring is used: no call waits (`MSG_DONTWAIT`), so each is done when the kernel has
//! taken it, and no call is under way between two batches.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

/// The most calls in one batch.
pub(super) const SLOTS: usize = 64;

/// The most bytes that one call reads or writes.
pub(super) const SLOT: usize = 16 << 10;

/// A batch of calls. Each has a slot below [`SLOTS`], with [`SLOT`] bytes that it reads into or writes
/// from.
pub(super) struct Ring {
    // First, so that it is closed before the bytes that it points to are freed.
    ring: IoUring,
    bytes: Box<[u8]>,
    /// The result of each call, by slot; none where it was not made.
    results: Vec<Option<i32>>,
    asked: usize,
}

impl Ring {
    /// # Errors
    /// The kernel has no io_uring (Linux 5.6), or the process may not use it (`kernel.io_uring_disabled`, a seccomp
    /// profile), or there are no file descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::new(SLOTS as u32)?;
        let mut probe = Probe::new();
        // Both calls came with Linux 5.6, and so did the probe.
        ring.submitter().register_probe(&mut probe)?;
        if !(probe.is_supported(opcode::Recv::CODE) && probe.is_supported(opcode::Send::CODE)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Self {
            ring,
            bytes: vec![0; SLOTS * SLOT].into_boxed_slice(),
            results: vec![None; SLOTS],
            asked: 0,
        })
    }

    /// Adds a read from this socket to the batch.
    pub(super) fn receive(&mut self, slot: usize, socket: &OwnedFd) {
        let Some(bytes) = slot_of(&mut self.bytes, slot) else {
            return;
        };
        let call = opcode::Recv::new(
            types::Fd(socket.as_raw_fd()),
            bytes.as_mut_ptr(),
            SLOT as u32,
        );
        self.ask(slot, call.flags(libc::MSG_DONTWAIT).build());
    }

    /// Adds a write of the slot's first `length` bytes to this socket to the batch.
    pub(super) fn send(&mut self, slot: usize, socket: &OwnedFd, length: usize) {
        let Some(bytes) = slot_of(&mut self.bytes, slot) else {
            return;
        };
        let length = length.min(SLOT) as u32;
        let call = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), length);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        self.ask(slot, call.flags(flags).build());
    }

    /// Makes the calls of the batch.
    ///
    /// # Errors
    /// The kernel did not take all calls. Those have no result, and the ring must not be used any more.
    pub(super) fn run(&mut self) -> io::Result<()> {
        while self.asked > 0 {
            let taken = self.ring.submit()?;
            let mut done = 0;
            for completion in self.ring.completion() {
                done += 1;
                let slot = usize::try_from(completion.user_data()).unwrap_or(SLOTS);
                if let Some(result) = self.results.get_mut(slot) {
                    *result = Some(completion.result());
                }
            }
            self.asked = self.asked.saturating_sub(done);
            if taken == 0 && done == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(())
    }

    /// The result of the slot's call; none where it was not made.
    pub(super) fn result(&self, slot: usize) -> Option<Result<usize, Errno>> {
        let result = self.results.get(slot).copied().flatten()?;
        Some(usize::try_from(result).map_err(|_negative| Errno::from_raw_os_error(-result)))
    }

    /// The first bytes of a slot.
    pub(super) fn bytes(&self, slot: usize, length: usize) -> &[u8] {
        let from = slot * SLOT;
        self.bytes.get(from..from + length).unwrap_or_default()
    }

    #[expect(unsafe_code, reason = "the kernel is told where the bytes are")]
    fn ask(&mut self, slot: usize, call: Entry) {
        if let Some(result) = self.results.get_mut(slot) {
            *result = None;
        }
        let call = call.user_data(slot as u64);
        // SAFETY: the bytes are this ring's own, of the length that the call says, and live longer than
        // the ring. A call does not wait: it is over when the kernel has taken it.
        if unsafe { self.ring.submission().push(&call) }.is_ok() {
            self.asked += 1;
        }
    }
}

fn slot_of(bytes: &mut [u8], slot: usize) -> Option<&mut [u8]> {
    let from = slot.checked_mul(SLOT)?;
    bytes.get_mut(from..from.checked_add(SLOT)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;

    /// A ring. What goes on without one is tested in `tests/data_plane/carrying.rs`.
    fn ring() -> Ring {
        Ring::new().expect(
            "io_uring is there (kernel.io_uring_disabled is 0, no seccomp profile forbids it)",
        )
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        (near, far)
    }

    /// Waits until there is something to read, or the end, or an error.
    fn wait(socket: &TcpStream) {
        let mut room = [0];
        let _ = socket.peek(&mut room);
    }

    #[test]
    fn what_sockets_have_to_say_is_read_by_one_call_and_what_is_wrong_is_told_of_each() {
        let mut ring = ring();
        let (says, mut said) = pair();
        said.write_all(b"hello").unwrap();
        wait(&says);
        let (silent, _silent) = pair();
        let (ended, gone) = pair();
        drop(gone);
        wait(&ended);
        let (reset, resets) = pair();
        SockRef::from(&resets)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
        drop(resets);
        // A peek would take the error away.
        while SockRef::from(&reset).peer_addr().is_ok() {
            std::thread::yield_now();
        }
        let sockets: Vec<OwnedFd> = [says, silent, ended, reset].map(OwnedFd::from).into();
        for (slot, socket) in sockets.iter().enumerate() {
            ring.receive(slot, socket);
        }
        ring.run().unwrap();
        let results: Vec<_> = (0..5).map(|slot| ring.result(slot)).collect();
        assert_eq!(
            results,
            [
                Some(Ok(5)),
                Some(Err(Errno::AGAIN)),
                Some(Ok(0)),
                Some(Err(Errno::CONNRESET)),
                None
            ]
        );
        assert_eq!(ring.bytes(0, 5), b"hello");
    }

    #[test]
    fn what_was_read_is_written_from_where_it_stands_and_a_full_socket_takes_a_part_or_nothing() {
        let mut ring = ring();
        let (from, mut says) = pair();
        says.write_all(&[7; SLOT]).unwrap();
        let from = OwnedFd::from(from);
        let mut read = 0;
        while read < SLOT {
            ring.receive(3, &from);
            ring.run().unwrap();
            // All of it may not have come at once.
            read = match ring.result(3).unwrap() {
                Ok(more) if read + more == SLOT => SLOT,
                Ok(more) => read + more,
                Err(_) => read,
            };
        }
        let (to, mut hears) = pair();
        let to = OwnedFd::from(to);
        let (mut written, mut parts) = (0, Vec::new());
        while let Ok(part) = {
            ring.send(3, &to, SLOT);
            ring.run().unwrap();
            ring.result(3).unwrap()
        } {
            written += part;
            parts.push(part);
        }
        assert_eq!(ring.result(3), Some(Err(Errno::AGAIN)), "{parts:?}");
        drop(to);
        let mut all = Vec::new();
        hears.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), written);

        // Nobody is there any more, and the process is not killed for it.
        let (to, hears) = pair();
        let to = OwnedFd::from(to);
        drop(hears);
        while ring.result(3) != Some(Err(Errno::PIPE)) {
            ring.send(3, &to, 1);
            ring.run().unwrap();
            let result = ring.result(3).unwrap();
            assert!(
                matches!(result, Ok(1) | Err(Errno::PIPE | Errno::CONNRESET)),
                "{result:?}"
            );
        }
    }
}
