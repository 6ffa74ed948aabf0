//! How a gateway asks another one to dial an endpoint: the steps of `fairway_gateway_core::relay`, as far as bytes
//! have come.

use std::io;
use std::os::fd::AsFd;

use fairway_gateway_core::relay::{GREETING, RelayAnswer};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Why a dial from a client's address has failed.
#[derive(Debug)]
pub(crate) enum TransparentFailure<'a> {
    /// The endpoint could not be connected to.
    Endpoint(&'a io::Error),
    /// The other gateway could not be connected to.
    Relay(&'a io::Error),
    /// The other gateway has broken off, or has not answered in time.
    Handshake(&'a io::Error),
    /// The other gateway has said that it has failed.
    Answer(RelayAnswer),
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RelayHandshake {
    /// The other gateway is being connected to.
    #[default]
    Connecting,
    /// Its greeting has to come.
    Connected,
    /// It was asked.
    Asked,
    /// It has answered.
    Answered(RelayAnswer),
}

impl RelayHandshake {
    /// Takes the next step, if what it needs has come. `request` is what is said to this greeting.
    ///
    /// # Errors
    /// The other gateway has broken off, or says that the endpoint could not be reached.
    pub(crate) fn go_on(
        &mut self,
        socket: &impl AsFd,
        request: impl FnOnce(&[u8; GREETING]) -> io::Result<Vec<u8>>,
    ) -> io::Result<Option<()>> {
        if *self == Self::Connecting {
            *self = Self::Connected;
        }
        if *self == Self::Connected {
            let mut greeting = [0; GREETING];
            if !take(socket, &mut greeting)? {
                return Ok(None);
            }
            let request = request(&greeting)?;
            // A new connection takes a hundred bytes at once.
            if rustix::net::send(socket, &request, SendFlags::NOSIGNAL)? != request.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            *self = Self::Asked;
        }
        let mut answer = [0];
        if *self != Self::Asked || !take(socket, &mut answer)? {
            return Ok(None);
        }
        let [answer] = answer;
        let answer = RelayAnswer::of(answer);
        *self = Self::Answered(answer);
        match answer {
            RelayAnswer::Connected => Ok(Some(())),
            other => Err(error_of(other)),
        }
    }

    /// What has failed, where this error came.
    pub(crate) fn failure<'a>(&self, error: &'a io::Error) -> TransparentFailure<'a> {
        match self {
            Self::Connecting => TransparentFailure::Relay(error),
            Self::Connected | Self::Asked => TransparentFailure::Handshake(error),
            Self::Answered(answer) => TransparentFailure::Answer(*answer),
        }
    }
}

/// The error that an answer stands for.
fn error_of(answer: RelayAnswer) -> io::Error {
    match answer {
        RelayAnswer::Refused => io::ErrorKind::ConnectionRefused.into(),
        RelayAnswer::Unreachable => io::ErrorKind::HostUnreachable.into(),
        RelayAnswer::TimedOut => io::ErrorKind::TimedOut.into(),
        _ => io::Error::other(answer.as_str()),
    }
}

/// Takes so many bytes out of a socket, once all of them have come. Returns whether they have.
fn take(socket: &impl AsFd, bytes: &mut [u8]) -> io::Result<bool> {
    for flags in [RecvFlags::PEEK, RecvFlags::empty()] {
        match rustix::net::recv(socket, &mut *bytes, flags) {
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, length)) if length < bytes.len() => return Ok(false),
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}
