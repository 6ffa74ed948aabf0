//! TCP clients for benchmarks that send requests and wait for the answers.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::poll::{Poll, Ready};
use super::{ANSWER, Outcome, REQUEST, THREADS, on_threads};
use crate::clients;

/// After how long without anything it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a request is.
const ASKS: [u8; REQUEST] = [b'q'; REQUEST];

/// Connections that ask one request after the other, all at the same time.
pub fn keep_alive(to: SocketAddr, connections: usize, span: Duration) -> Result<Outcome> {
    on_threads(THREADS, |_| {
        let mut asking = Asking::new(to, connections / THREADS)?;
        let start = Instant::now();
        for number in 0..asking.connections.len() {
            asking.ask(number, Instant::now())?;
        }
        let mut outcome = Outcome::default();
        while start.elapsed() < span {
            for (number, asked) in asking.answers(PATIENCE)? {
                outcome.count += 1;
                outcome.latencies.push(asked.elapsed());
                asking.ask(number, Instant::now())?;
            }
        }
        outcome.span = start.elapsed();
        Ok(outcome)
    })
}

/// Requests in a steady rhythm, so many a second over so many connections. Each counts from when
/// it was due, whether or not a connection was free then.
pub fn paced(to: SocketAddr, connections: usize, rate: f64, span: Duration) -> Result<Outcome> {
    on_threads(THREADS, |_| {
        let mut asking = Asking::new(to, connections / THREADS)?;
        let mut free: VecDeque<usize> = (0..asking.connections.len()).collect();
        let between = Duration::from_secs_f64(THREADS as f64 / rate);
        let start = Instant::now();
        let mut due = start;
        let mut outcome = Outcome::default();
        while start.elapsed() < span {
            while due <= Instant::now() {
                let Some(number) = free.pop_front() else {
                    break;
                };
                asking.ask(number, due)?;
                due += between;
            }
            let wait = match free.is_empty() {
                true => PATIENCE,
                false => due.saturating_duration_since(Instant::now()),
            };
            for (number, asked) in asking.answers(wait)? {
                outcome.count += 1;
                outcome.latencies.push(asked.elapsed());
                free.push_back(number);
            }
        }
        outcome.span = start.elapsed();
        Ok(outcome)
    })
}

/// One connection, one request after the other, on a thread that sleeps until the answer is there.
pub fn serial(to: SocketAddr, span: Duration) -> Result<Outcome> {
    let mut stream = clients::connect_tcp(to)?;
    stream.set_nodelay(true)?;
    let mut outcome = Outcome::default();
    let start = Instant::now();
    while start.elapsed() < span {
        let asked = Instant::now();
        stream.write_all(&ASKS)?;
        stream.read_exact(&mut [0; ANSWER])?;
        outcome.latencies.push(asked.elapsed());
        outcome.count += 1;
    }
    outcome.span = start.elapsed();
    Ok(outcome)
}

/// One short connection: asks once, and reads until the server has closed it.
pub fn visit(to: SocketAddr) -> Result<()> {
    let mut stream = clients::connect_tcp(to)?;
    stream.write_all(&ASKS)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == ANSWER, "{} bytes", answer.len());
    Ok(())
}

/// Connections that are open and have carried a request each, and do nothing more.
pub fn idle(to: SocketAddr, connections: usize) -> Result<Vec<TcpStream>> {
    (0..connections)
        .map(|_| {
            let mut stream = clients::connect_tcp(to)?;
            stream.write_all(&ASKS)?;
            stream.read_exact(&mut [0; ANSWER])?;
            Ok(stream)
        })
        .collect()
}

/// New connections, so many at a time: each asks once, and ends when the server has closed it.
pub fn new_connections(to: SocketAddr, at_a_time: usize, span: Duration) -> Result<Outcome> {
    on_threads(THREADS, |_| {
        let poll = Poll::new()?;
        let mut ready = Vec::new();
        let mut outcome = Outcome::default();
        let start = Instant::now();
        let mut all: Vec<Visit> = Vec::new();
        for number in 0..at_a_time / THREADS {
            all.push(Visit::begin(&poll, number, to)?);
        }
        while start.elapsed() < span {
            poll.wait(&mut ready, PATIENCE)?;
            ensure!(!ready.is_empty(), "nothing came for {PATIENCE:?} from {to}");
            for Ready {
                number, writable, ..
            } in ready.drain(..)
            {
                let visit = all.get_mut(number).context("no such number")?;
                match visit.go_on(writable) {
                    Ok(false) => continue,
                    Ok(true) => {
                        outcome.count += 1;
                        outcome.latencies.push(visit.began.elapsed());
                    }
                    Err(_) => outcome.failed += 1,
                }
                *visit = Visit::begin(&poll, number, to)?;
            }
        }
        outcome.span = start.elapsed();
        Ok(outcome)
    })
}

/// New connections in a steady rhythm, so many a second. Each asks once, ends when the server has closed it, and counts
/// from when it was due. One that was refused has failed, and so has one that has not ended at last.
pub fn paced_connections(to: SocketAddr, rate: f64, span: Duration) -> Result<Outcome> {
    let poll = Poll::new()?;
    let mut ready = Vec::new();
    let mut outcome = Outcome::default();
    let mut all: Vec<Option<Visit>> = Vec::new();
    let mut free = Vec::new();
    let between = Duration::from_secs_f64(1.0 / rate);
    let start = Instant::now();
    let mut due = start;
    while start.elapsed() < span || (free.len() < all.len() && start.elapsed() < span + PATIENCE) {
        while due <= Instant::now() && start.elapsed() < span {
            let number = free.pop().unwrap_or_else(|| {
                all.push(None);
                all.len() - 1
            });
            let mut visit = Visit::begin(&poll, number, to)?;
            visit.began = due;
            if let Some(place) = all.get_mut(number) {
                *place = Some(visit);
            }
            due += between;
        }
        let wait = match start.elapsed() < span {
            true => due.saturating_duration_since(Instant::now()),
            false => Duration::from_millis(100),
        };
        poll.wait(&mut ready, wait)?;
        for Ready {
            number, writable, ..
        } in ready.drain(..)
        {
            let place = all.get_mut(number).context("no such number")?;
            let Some(visit) = place else { continue };
            match visit.go_on(writable) {
                Ok(false) => continue,
                Ok(true) => {
                    outcome.count += 1;
                    outcome.latencies.push(visit.began.elapsed());
                }
                Err(_) => outcome.failed += 1,
            }
            *place = None;
            free.push(number);
        }
    }
    outcome.failed += (all.len() - free.len()) as u64;
    outcome.span = start.elapsed();
    Ok(outcome)
}

/// One short connection.
struct Visit {
    stream: TcpStream,
    asked: bool,
    got: usize,
    began: Instant,
}

impl Visit {
    fn begin(poll: &Poll, number: usize, to: SocketAddr) -> Result<Self> {
        let began = Instant::now();
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context(to),
        }
        poll.watch(&socket, number)?;
        Ok(Self {
            stream: socket.into(),
            asked: false,
            got: 0,
            began,
        })
    }

    /// True at its end.
    fn go_on(&mut self, writable: bool) -> io::Result<bool> {
        if !self.asked {
            if !writable {
                return Ok(false);
            }
            self.asked = true;
            self.stream.write_all(&ASKS)?;
            return Ok(false);
        }
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) if self.got == ANSWER => return Ok(true),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.got += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Connections that stay, each with at most one request on its way.
struct Asking {
    poll: Poll,
    connections: Vec<Connection>,
    ready: Vec<Ready>,
}

struct Connection {
    stream: TcpStream,
    got: usize,
    /// When the request counts from; none where none is on its way.
    asked: Option<Instant>,
}

impl Asking {
    fn new(to: SocketAddr, connections: usize) -> Result<Self> {
        let poll = Poll::new()?;
        let mut all = Vec::new();
        for number in 0..connections {
            let stream = clients::connect_tcp(to)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            poll.watch(&stream, number)?;
            all.push(Connection {
                stream,
                got: 0,
                asked: None,
            });
        }
        Ok(Self {
            poll,
            connections: all,
            ready: Vec::new(),
        })
    }

    fn ask(&mut self, number: usize, counts_from: Instant) -> Result<()> {
        let connection = self.connections.get_mut(number).context("no such number")?;
        connection.stream.write_all(&ASKS)?;
        connection.asked = Some(counts_from);
        Ok(())
    }

    /// The connections that have got an answer, and since when each has waited.
    fn answers(&mut self, limit: Duration) -> Result<Vec<(usize, Instant)>> {
        let Self {
            poll,
            connections,
            ready,
        } = self;
        poll.wait(ready, limit)?;
        ensure!(
            limit < PATIENCE || !ready.is_empty(),
            "nothing came for {PATIENCE:?}"
        );
        let mut answered = Vec::with_capacity(ready.len());
        for Ready { number, .. } in ready.drain(..) {
            let connection = connections.get_mut(number).context("no such number")?;
            let mut buffer = [0; 1024];
            match connection.stream.read(&mut buffer) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof))?,
                Ok(bytes) => connection.got += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => Err(error)?,
            }
            if connection.got >= ANSWER
                && let Some(asked) = connection.asked.take()
            {
                connection.got -= ANSWER;
                answered.push((number, asked));
            }
        }
        Ok(answered)
    }
}
