//! A client that never waits: an attempt every 10 ms, or less often, each given up after 200 ms (or 900), all on one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::outage::{Attempt, AttemptEnd};
use crate::lab::Host;

/// How often an attempt begins.
pub const ATTEMPT_EVERY: Duration = Duration::from_millis(10);
/// When an attempt is given up.
pub const GIVEN_UP_AFTER: Duration = Duration::from_millis(200);
/// When an attempt of a patient client is given up. A SYN, or its answer, that is lost is sent again after a second
/// (RFC 6298, section 2), so this still tells a lost packet from a client or a server that has waited for a processor.
const PATIENCE: Duration = Duration::from_millis(900);

/// Asks a [`named`](crate::servers::named) server who it is, on a connection of its own each time, until it is
/// finished. Where its thread is late, attempts are left out.
#[derive(Debug)]
pub struct Prober {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Prober {
    /// Starts it on a host, with an attempt every [`ATTEMPT_EVERY`].
    pub fn start(host: &Host, to: SocketAddr) -> Result<Self> {
        Self::start_every(host, to, ATTEMPT_EVERY)
    }

    /// The same, for tests on machines that are busy with other things: what fails was refused, reset, or lost.
    pub fn start_patient(host: &Host, to: SocketAddr) -> Result<Self> {
        Self::start_with(host, to, (ATTEMPT_EVERY, PATIENCE))
    }

    /// The same as [`start`](Self::start), with an attempt once `every` so often.
    pub fn start_every(host: &Host, to: SocketAddr, every: Duration) -> Result<Self> {
        Self::start_with(host, to, (every, GIVEN_UP_AFTER))
    }

    fn start_with(host: &Host, to: SocketAddr, times: (Duration, Duration)) -> Result<Self> {
        let attempts = Arc::<Mutex<Vec<Attempt>>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (notes, stopped, host) = (attempts.clone(), stop.clone(), host.clone());
        let thread = thread::Builder::new()
            .name(format!("prober of {to}"))
            .spawn(move || host.run(|| probe(to, times, &notes, &stopped)))?;
        Ok(Self {
            attempts,
            stop,
            thread: Some(thread),
        })
    }

    /// The attempts that have ended, in the order of their ends.
    pub fn ended(&self) -> Vec<Attempt> {
        locked(&self.attempts).clone()
    }

    /// The last `count` of [`ended`](Self::ended).
    pub fn last(&self, count: usize) -> Vec<Attempt> {
        let attempts = locked(&self.attempts);
        let first = attempts.len().saturating_sub(count);
        attempts.get(first..).unwrap_or_default().to_vec()
    }

    /// Begins no other attempt, and waits until those that have begun are over; all of them in the order of their
    /// starts.
    pub fn finish(mut self) -> Result<Vec<Attempt>> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => {}
            Some(Ok(outcome)) => outcome?,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
        let mut attempts = self.ended();
        attempts.sort_by_key(|it| it.started);
        Ok(attempts)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked(attempts: &Mutex<Vec<Attempt>>) -> MutexGuard<'_, Vec<Attempt>> {
    attempts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An attempt that goes on.
struct OpenAttempt {
    started: Instant,
    stream: TcpStream,
    has_asked: bool,
    answer: Vec<u8>,
}

fn probe(
    to: SocketAddr,
    (every, patience): (Duration, Duration),
    attempts: &Mutex<Vec<Attempt>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut open: Vec<OpenAttempt> = Vec::new();
    let mut next = Instant::now();
    loop {
        let is_over = stop.load(Ordering::Relaxed);
        if is_over && open.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        if !is_over && now >= next {
            match begin(to, now) {
                Ok(attempt) => open.push(attempt),
                Err(error) => locked(attempts).push(Attempt {
                    started: now,
                    end: AttemptEnd::Broken(error.kind()),
                }),
            }
            next = (next + every).max(now);
        }
        wait(&open, next, patience)?;
        let now = Instant::now();
        let mut ended = Vec::new();
        open.retain_mut(|attempt| match attempt.go_on(now, patience) {
            None => true,
            Some(end) => {
                let started = attempt.started;
                ended.push(Attempt { started, end });
                false
            }
        });
        locked(attempts).extend(ended);
    }
}

fn begin(to: SocketAddr, started: Instant) -> io::Result<OpenAttempt> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(OpenAttempt {
            started,
            stream: socket.into(),
            has_asked: false,
            answer: Vec::new(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Waits until one of them can go on or is over, or the next one begins.
fn wait(open: &[OpenAttempt], next: Instant, patience: Duration) -> io::Result<()> {
    let ends = open.iter().map(|it| it.started + patience);
    let until = ends.chain([next]).min().unwrap_or(next);
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec {
        tv_sec: left.as_secs().cast_signed(),
        tv_nsec: left.subsec_nanos().into(),
    };
    let mut sockets: Vec<PollFd<'_>> = open
        .iter()
        .map(|it| {
            let event = match it.has_asked {
                true => PollFlags::IN,
                false => PollFlags::OUT,
            };
            PollFd::new(&it.stream, event)
        })
        .collect();
    match poll(&mut sockets, Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl OpenAttempt {
    /// Goes on as far as it can without waiting; how it ended.
    fn go_on(&mut self, now: Instant, patience: Duration) -> Option<AttemptEnd> {
        match self.exchange() {
            Ok(true) => {
                let line = String::from_utf8_lossy(&self.answer);
                Some(AttemptEnd::Answered(line.trim_end().to_owned()))
            }
            Ok(false) if now >= self.started + patience => Some(AttemptEnd::GivenUp),
            Ok(false) => None,
            Err(error) => Some(AttemptEnd::Broken(error.kind())),
        }
    }

    /// Whether the answer is there.
    fn exchange(&mut self) -> io::Result<bool> {
        if !self.has_asked {
            sockopt::socket_error(&self.stream)??;
            match self.stream.write_all(b"who\n") {
                Ok(()) => self.has_asked = true,
                // It is not connected yet.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 256];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.answer.extend(buffer.get(..length).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.answer.ends_with(b"\n") {
                return Ok(true);
            }
        }
    }
}
