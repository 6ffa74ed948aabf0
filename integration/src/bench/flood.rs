//! New connections at a steady pace, of one client that is over its limit, or of one that is not.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::poll::{Poll, Ready};

/// So many connections may be on their way at a time: more would only wait in the kernel.
const AT_A_TIME: usize = 2_000;

/// When a connection that was neither refused nor served is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// The outcome of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct FloodOutcome {
    /// How many connections were begun.
    pub begun: u64,
    /// How many were refused: at once, or reset once they were accepted.
    pub refused: u64,
    /// How many were served.
    pub served: u64,
    /// How many were neither, for too long.
    pub lost: u64,
    /// How long it took.
    pub span: Duration,
}

impl FloodOutcome {
    /// So many were begun in a second.
    pub fn rate(&self) -> f64 {
        self.begun as f64 / self.span.as_secs_f64()
    }
}

/// Makes so many connections a second from one address. Each waits until it is refused or gets a byte, and is closed
/// then. What asks gets an answer; these say nothing, so only a server that speaks first serves them.
pub fn flood(from: IpAddr, to: SocketAddr, rate: f64, span: Duration) -> Result<FloodOutcome> {
    let poll = Poll::new()?;
    let mut ready = Vec::new();
    let mut sockets: Vec<Option<(TcpStream, Instant)>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut begun: VecDeque<(usize, Instant)> = VecDeque::new();
    let mut outcome = FloodOutcome::default();
    let between = Duration::from_secs_f64(1.0 / rate);
    let start = Instant::now();
    let mut due = start;
    while start.elapsed() < span {
        let now = Instant::now();
        while due <= now && sockets.len() - free.len() < AT_A_TIME {
            due += between;
            outcome.begun += 1;
            let Some(stream) = begin(from, to)? else {
                outcome.refused += 1;
                continue;
            };
            let number = free.pop().unwrap_or_else(|| {
                sockets.push(None);
                sockets.len() - 1
            });
            poll.watch(&stream, number)?;
            if let Some(place) = sockets.get_mut(number) {
                *place = Some((stream, now));
                begun.push_back((number, now));
            }
        }
        // Where the machine is late, connections are left out.
        due = due.max(now.checked_sub(Duration::from_millis(100)).unwrap_or(due));
        poll.wait(&mut ready, due.saturating_duration_since(Instant::now()))?;
        for Ready { number, .. } in ready.drain(..) {
            let place = sockets.get_mut(number).context("no such number")?;
            let Some((stream, _)) = place else { continue };
            match stream.read(&mut [0; 64]) {
                Ok(1..) => outcome.served += 1,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Ok(0) | Err(_) => outcome.refused += 1,
            }
            *place = None;
            free.push(number);
        }
        while let Some((number, since)) = begun.front().copied() {
            let place = sockets.get_mut(number).context("no such number")?;
            let is_it = place.as_ref().is_some_and(|(_, its)| *its == since);
            if is_it && since.elapsed() < PATIENCE {
                break;
            }
            begun.pop_front();
            if is_it {
                outcome.lost += 1;
                *place = None;
                free.push(number);
            }
        }
    }
    outcome.span = start.elapsed();
    Ok(outcome)
}

/// A connection that has begun; none where it was refused already.
fn begin(from: IpAddr, to: SocketAddr) -> Result<Option<TcpStream>> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddr::new(from, 0)).context("no port is left to flood from")?;
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(Some(socket.into())),
        Err(rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(error) => Err(error).context(to),
    }
}
