//! Frames as they are on a wire.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Instant, SystemTime};

use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socket_with};

use super::sys;

/// So many bytes may wait for a reader that is late.
const QUEUE: usize = 8 << 20;

/// A socket that gets every frame that comes in on an interface, and sends frames as they are.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// On an interface of the host that the calling thread is in.
    pub fn open(interface: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let index = name_to_index(&socket, interface)?;
        // Without the right to more it has the usual length.
        let _ = set_socket_recv_buffer_size_force(&socket, QUEUE);
        sys::bind_packet(socket.as_fd(), index)?;
        Ok(Self(socket))
    }

    /// Sends a frame, its Ethernet header included.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(&self.0, frame, SendFlags::empty())?;
        Ok(())
    }

    /// A frame that has come in from elsewhere, and when; nothing where there is none. Does not wait.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(&'a [u8], Instant)>> {
        loop {
            let frame = match sys::receive_stamped(self.0.as_fd(), buffer) {
                Ok(frame) if frame.is_own => continue,
                Ok(frame) => frame,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            // The kernel's time is the time of day.
            let age = SystemTime::now().duration_since(frame.at);
            let now = Instant::now();
            let at = now.checked_sub(age.unwrap_or_default()).unwrap_or(now);
            return Ok(buffer.get(..frame.length).map(|frame| (frame, at)));
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
