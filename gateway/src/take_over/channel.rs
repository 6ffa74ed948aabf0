//! The Unix socket between two processes, and the descriptors that pass through it (unix(7), `SCM_RIGHTS`).

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::peer::{PeerProcess, peer_process};
use super::wire::{self, DESCRIPTORS, HEADER, HandoverMessage, WireError};

/// The name of the socket in a state directory.
const NAME: &str = "take-over.sock";

/// The longest path that fits into the address of a Unix socket.
const LONGEST: usize = 100;

/// How long the other process may take to say or to take something. It does nothing that takes longer meanwhile, or says
/// that it goes on.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Room for the descriptors of one message.
const ROOM: usize = rustix::cmsg_space!(ScmRights(253));

/// Why two processes can't speak.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A message is wrong.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The other process has ended, or has closed the socket.
    #[error("the other process has gone")]
    Gone,
    /// It has said nothing for too long.
    #[error("the other process does not answer")]
    Silent,
    /// It says what has no place here.
    #[error("the other process says what was not expected")]
    Unexpected,
}

/// A message with what comes with it.
#[derive(Debug)]
pub(crate) struct WholeMessage {
    /// None: of a kind that this version does not know.
    pub(crate) message: Option<HandoverMessage>,
    /// It wants an answer.
    pub(crate) asks: bool,
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// The socket of one process to the other.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    /// Descriptors that have come, and whose message is not read yet.
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            descriptors: VecDeque::new(),
        })
    }

    /// The other process may take so long from now on.
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// It is too large, or the other process does not take it.
    pub(crate) fn send(
        &mut self,
        message: &HandoverMessage,
        asks: bool,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let mut whole = wire::write(message, asks, bytes.len(), descriptors.len())?;
        whole.extend(bytes);
        let mut room = [const { MaybeUninit::uninit() }; ROOM];
        let mut with = SendAncillaryBuffer::new(&mut room);
        if !descriptors.is_empty() && !with.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(ChannelError::Unexpected);
        }
        let mut rest = whole.as_slice();
        while !rest.is_empty() {
            match sendmsg(
                &self.stream,
                &[IoSlice::new(rest)],
                &mut with,
                SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    // They have gone with the first byte.
                    with.clear();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(of_errno(error)),
            }
        }
        Ok(())
    }

    /// A message without anything that comes with it.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub(crate) fn say(&mut self, message: &HandoverMessage) -> Result<(), ChannelError> {
        self.send(message, false, &[], &[])
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// None comes, or it is wrong.
    pub(crate) fn receive(&mut self) -> Result<WholeMessage, ChannelError> {
        let mut header = [0; HEADER];
        self.read(&mut header)?;
        let size = wire::read_header(header)?;
        let mut text = vec![0; size.text];
        self.read(&mut text)?;
        let mut bytes = vec![0; size.bytes];
        self.read(&mut bytes)?;
        if self.descriptors.len() < size.descriptors {
            // The kernel leaves out those for which this process has no room.
            return Err(io::Error::from(rustix::io::Errno::MFILE).into());
        }
        let descriptors = self.descriptors.drain(..size.descriptors).collect();
        let read = wire::read_text(&text)?;
        Ok(WholeMessage {
            message: read.message,
            asks: read.asks,
            bytes,
            descriptors,
        })
    }

    /// Waits for the answer to a message that has asked: which of `count` things were taken.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub(crate) fn taken(&mut self, count: usize) -> Result<Vec<bool>, ChannelError> {
        match self.receive()?.message {
            Some(HandoverMessage::Taken { mut taken }) => {
                taken.resize(count, false);
                Ok(taken)
            }
            _ => Err(ChannelError::Unexpected),
        }
    }

    /// The process at the other end.
    pub(crate) fn peer(&self) -> io::Result<PeerProcess> {
        peer_process(self.stream.as_fd())
    }

    fn read(&mut self, mut room: &mut [u8]) -> Result<(), ChannelError> {
        while !room.is_empty() {
            let mut ancillary = [const { MaybeUninit::uninit() }; ROOM];
            let mut with = RecvAncillaryBuffer::new(&mut ancillary);
            let received = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(room)],
                &mut with,
                RecvFlags::CMSG_CLOEXEC,
            );
            let read = match received {
                Ok(read) => read.bytes,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(of_errno(error)),
            };
            for message in with.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if self.descriptors.len() > 2 * DESCRIPTORS {
                return Err(ChannelError::Unexpected);
            }
            if read == 0 {
                return Err(ChannelError::Gone);
            }
            room = room.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }
}

fn of_errno(error: rustix::io::Errno) -> ChannelError {
    use rustix::io::Errno;
    match error {
        Errno::AGAIN => ChannelError::Silent,
        Errno::PIPE | Errno::CONNRESET => ChannelError::Gone,
        error => ChannelError::Io(error.into()),
    }
}

/// Where a state directory has the socket. An address has room for short paths alone: a long one goes by way of the
/// directory's descriptor, which is to be kept meanwhile.
fn address(state: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let path = state.join(NAME);
    if path.as_os_str().len() <= LONGEST {
        return Ok((path, None));
    }
    let directory = OwnedFd::from(fs::File::open(state)?);
    let number = directory.as_fd().as_raw_fd();
    Ok((
        PathBuf::from(format!("/proc/self/fd/{number}")).join(NAME),
        Some(directory),
    ))
}

/// Connects to the process that has a state directory; none: there is no such process.
///
/// # Errors
/// The socket can't be used.
pub(crate) fn connect(state: &Path) -> io::Result<Option<Channel>> {
    let (path, _directory) = address(state)?;
    match UnixStream::connect(path) {
        Ok(stream) => Channel::new(stream).map(Some),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Listens for a successor. The socket of a predecessor makes way: to be called by the one that has the lock.
///
/// # Errors
/// The socket can't be made.
pub(crate) fn listen(state: &Path) -> io::Result<UnixListener> {
    let (path, _directory) = address(state)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[test]
    fn descriptors_and_bytes_come_with_their_message() {
        let (mut one, mut other) = pair();
        let counts = [0, 1, 240, 3, 0, 17, 240, 240, 2];
        let sending = std::thread::spawn(move || {
            for (number, count) in counts.into_iter().enumerate() {
                let pipes: Vec<OwnedFd> = (0..count)
                    .map(|n| {
                        let (read, mut write) = std::io::pipe().unwrap();
                        write.write_all(&[u8::try_from(n).unwrap()]).unwrap();
                        read.into()
                    })
                    .collect();
                let pipes: Vec<_> = pipes.iter().map(AsFd::as_fd).collect();
                let bytes = vec![u8::try_from(number).unwrap(); number * 200_000];
                let taken = vec![true; count];
                let message = HandoverMessage::Taken { taken };
                one.send(&message, number % 2 == 0, &bytes, &pipes).unwrap();
            }
        });
        for (number, count) in counts.into_iter().enumerate() {
            let whole = other.receive().unwrap();
            let taken = vec![true; count];
            assert_eq!(whole.message, Some(HandoverMessage::Taken { taken }));
            assert_eq!(whole.asks, number % 2 == 0);
            assert_eq!(whole.bytes.len(), number * 200_000);
            assert!(whole.bytes.iter().all(|byte| usize::from(*byte) == number));
            assert_eq!(whole.descriptors.len(), count);
            for (n, descriptor) in whole.descriptors.into_iter().enumerate() {
                let mut byte = [0];
                File::from(descriptor).read_exact(&mut byte).unwrap();
                assert_eq!(usize::from(byte[0]), n, "message {number}");
            }
        }
        sending.join().unwrap();
        assert!(matches!(other.receive(), Err(ChannelError::Gone)));
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        let (mut one, mut other) = pair();
        one.stream.write_all(&[255; 64]).unwrap();
        assert!(matches!(other.receive(), Err(ChannelError::Wire(_))));
    }

    #[test]
    fn a_long_path_has_a_socket_as_well() {
        let above = tempfile::tempdir().unwrap();
        for length in [1, 200] {
            let state = above.path().join("x".repeat(length));
            fs::create_dir(&state).unwrap();
            assert!(connect(&state).unwrap().is_none());
            let listener = listen(&state).unwrap();
            let mode = fs::metadata(state.join(NAME)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(connect(&state).unwrap().is_some());
            drop(listener);
            assert!(connect(&state).unwrap().is_none(), "what is left of it");
            let _second = listen(&state).unwrap();
            assert!(connect(&state).unwrap().is_some());
        }
    }
}
