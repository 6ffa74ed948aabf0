//! The least that a forwarder in user space does: accept, connect, read, write, close. It has no
//! Services, no counters, no limits and no retries, so its cost is that of the sockets alone.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, listen, socket_with};

use super::backend::{CLOSES, KEEPS, SENDS, shared};
use super::poll::{Poll, Ready};
use super::{Outcome, THREADS, on_threads};

/// How long it waits at once; it is ended from outside.
const WAIT: Duration = Duration::from_secs(3600);

/// A connection: the client's side, the server's side, and what is read and not yet written of each.
struct Pair {
    sides: [TcpStream; 2],
    held: [Vec<u8>; 2],
    /// It is known that a side says no more: it has to be read to its end.
    last: [bool; 2],
    ended: [bool; 2],
}

/// Forwards what comes to `at` to the same port of the servers in turn, on as many threads as there
/// are clients' threads. Does not return but with an error.
///
/// # Errors
/// The address is not this host's, or in use.
pub fn run(at: IpAddr, servers: &[IpAddr]) -> Result<()> {
    on_threads(THREADS, |_| {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for port in [KEEPS, CLOSES, SENDS] {
            let socket = shared(SocketAddr::new(at, port), SocketType::STREAM)?;
            listen(&socket, 4096)?;
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            poll.watch_level(&listener, listeners.len())?;
            listeners.push((listener, port));
        }
        let mut pairs: Vec<Option<Pair>> = Vec::new();
        let (mut free, mut gone) = (Vec::new(), Vec::new());
        let mut turns = servers.iter().cycle();
        let mut ready = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            poll.wait(&mut ready, WAIT)?;
            for Ready {
                number,
                writable,
                last,
            } in ready.drain(..)
            {
                if let Some((listener, port)) = listeners.get(number) {
                    let (Ok((client, _)), Some(server)) = (listener.accept(), turns.next()) else {
                        continue;
                    };
                    let place: usize = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    let pair = begin(&poll, client, SocketAddr::new(*server, *port), place)?;
                    if let Some(there) = pairs.get_mut(place) {
                        *there = Some(pair);
                    }
                    continue;
                }
                let (place, from) = place(number);
                let Some(there) = pairs.get_mut(place) else {
                    continue;
                };
                let Some(pair) = there else { continue };
                if let Some(known) = pair.last.get_mut(from) {
                    *known |= last;
                }
                let waits = pair.held.get(1 - from).is_some_and(|held| !held.is_empty());
                let carried = pair.carry(from, &mut buffer).and_then(|()| {
                    if writable && waits {
                        pair.carry(1 - from, &mut buffer)?;
                    }
                    Ok(())
                });
                if carried.is_err() || pair.ended == [true, true] {
                    *there = None;
                    gone.push(place);
                }
            }
            free.append(&mut gone);
        }
        #[expect(unreachable_code, reason = "the threads' type")]
        Ok(Outcome::default())
    })
    .map(drop)
}

/// The pair, and its side, that has this number: the first ones are the listeners'.
fn place(number: usize) -> (usize, usize) {
    ((number - 3) / 2, (number - 3) % 2)
}

fn begin(poll: &Poll, client: TcpStream, server: SocketAddr, place: usize) -> Result<Pair> {
    client.set_nonblocking(true)?;
    client.set_nodelay(true)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let server = TcpStream::from(socket);
    server.set_nodelay(true)?;
    poll.watch(&client, 3 + 2 * place)?;
    poll.watch(&server, 4 + 2 * place)?;
    Ok(Pair {
        sides: [client, server],
        held: Default::default(),
        last: [false; 2],
        ended: [false; 2],
    })
}

impl Pair {
    /// Carries what one side has said to the other.
    fn carry(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<()> {
        let ([one, other], [held, back]) = (&mut self.sides, &mut self.held);
        let (mut from_side, mut to_side, held) = match from {
            0 => (&*one, &*other, held),
            _ => (&*other, &*one, back),
        };
        let (Some(ended), Some(last)) = (self.ended.get_mut(from), self.last.get(from)) else {
            return Ok(());
        };
        while !*ended {
            if held.is_empty() {
                match from_side.read(buffer) {
                    Ok(0) => {
                        *ended = true;
                        let _ = to_side.shutdown(Shutdown::Write);
                        return Ok(());
                    }
                    Ok(read) => {
                        let bytes = buffer.get(..read).unwrap_or_default();
                        match to_side.write(bytes) {
                            Ok(sent) if sent == read && read < buffer.len() && !last => {
                                return Ok(());
                            }
                            Ok(sent) => {
                                held.extend_from_slice(bytes.get(sent..).unwrap_or_default())
                            }
                            Err(error) if is_later(&error) => held.extend_from_slice(bytes),
                            Err(error) => return Err(error),
                        }
                    }
                    Err(error) if is_later(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            } else {
                match to_side.write(held) {
                    Ok(sent) => drop(held.drain(..sent)),
                    Err(error) if is_later(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// It will go on when the socket says so; a server that is being connected takes nothing yet.
fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
    )
}
