//! Sending the datagrams of one flow together (GSO).

use std::io;
use std::os::fd::OwnedFd;

use socket2::SockAddr;

use super::packets::{self, BATCH, Segments};

/// What became of datagrams that were sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// How many were sent.
    pub(super) datagrams: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// How many were not sent.
    pub(super) dropped: u64,
    /// The last error.
    pub(super) error: Option<io::Error>,
}

impl Sent {
    /// The endpoint refuses: what is left goes elsewhere.
    pub(super) fn is_refused(&self) -> bool {
        let refused = io::ErrorKind::ConnectionRefused;
        self.error
            .as_ref()
            .is_some_and(|error| error.kind() == refused)
    }
}

/// Sends datagrams in as few messages as the kernel lets them be; with GSO those of one length go as
/// segments of one message.
pub(super) fn send_all<'a>(
    socket: &OwnedFd,
    to: Option<&SockAddr>,
    messages: impl Iterator<Item = Segments<'a>>,
    gso: bool,
) -> Sent {
    let mut outgoing = Outgoing {
        socket,
        to,
        sent: Sent::default(),
    };
    // Datagrams that came one by one and could go as one message.
    let mut waiting: [&[u8]; BATCH] = [&[]; BATCH];
    let mut count = 0;
    for message in messages {
        if message.count() > 1 {
            outgoing.segments(waiting.get(..count).unwrap_or_default());
            count = 0;
            if gso {
                let length = u16::try_from(message.length).ok();
                outgoing.message(&[message.bytes], message.count(), length);
            } else {
                message
                    .datagrams()
                    .for_each(|datagram| outgoing.message(&[datagram], 1, None));
            }
            continue;
        }
        if count == waiting.len() {
            outgoing.segments(&waiting);
            count = 0;
        }
        if let Some(place) = waiting.get_mut(count) {
            *place = message.bytes;
        }
        count += 1;
        let pieces = waiting.get(..count).unwrap_or_default();
        if count > 1 && !(gso && packets::are_segments(pieces)) {
            outgoing.segments(pieces.get(..count - 1).unwrap_or_default());
            waiting.swap(0, count - 1);
            count = 1;
        }
    }
    outgoing.segments(waiting.get(..count).unwrap_or_default());
    outgoing.sent
}

struct Outgoing<'a> {
    socket: &'a OwnedFd,
    to: Option<&'a SockAddr>,
    sent: Sent,
}

impl Outgoing<'_> {
    /// Sends no datagram, one, or several as segments of one message.
    fn segments(&mut self, pieces: &[&[u8]]) {
        match pieces {
            [] => {}
            [_] => self.message(pieces, 1, None),
            [first, ..] => {
                self.message(pieces, pieces.len(), u16::try_from(first.len()).ok());
            }
        }
    }

    fn message(&mut self, pieces: &[&[u8]], count: usize, segment: Option<u16>) {
        if self.sent.is_refused() {
            self.sent.dropped += count as u64;
            return;
        }
        let send = || packets::send(self.socket, self.to, pieces, segment);
        // An error may be about an earlier datagram; then this one was not sent. A socket tells it once.
        let sent = match send() {
            Err(error) if segment.is_none() && !is_of_the_peer(&error) => send(),
            sent => sent,
        };
        match sent {
            Ok(()) => {
                self.sent.datagrams += count as u64;
                self.sent.bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            }
            // A network device, a tunnel or a path with a smaller MTU can't take it as one message.
            Err(error) if segment.is_some() && !is_of_the_peer(&error) => {
                let segment = usize::from(segment.unwrap_or(1)).max(1);
                for datagram in pieces.iter().flat_map(|piece| piece.chunks(segment)) {
                    self.message(&[datagram], 1, None);
                }
            }
            Err(error) => {
                self.sent.dropped += count as u64;
                self.sent.error = Some(error);
            }
        }
    }
}

/// Whether the same error would come again, however the datagrams are sent.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
    )
}
