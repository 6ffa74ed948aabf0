//! HTTP/1.1 clients for benchmarks.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::poll::{Poll, Ready};
use super::{Outcome, THREADS, on_threads};
use crate::clients;

/// After how long without anything it is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a read: more than an answer has, where that is to be small.
const READ: usize = 64 << 10;

/// Which requests are sent.
#[derive(Clone, Copy, Debug)]
pub struct WebRequest {
    /// The target.
    pub path: &'static str,
    /// Each has a connection of its own, which the server closes.
    pub closes: bool,
}

impl WebRequest {
    fn bytes(self) -> Vec<u8> {
        let close = if self.closes {
            "Connection: close\r\n"
        } else {
            ""
        };
        format!(
            "GET {} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1\r\nAccept: */*\r\n{close}\r\n",
            self.path
        )
        .into_bytes()
    }
}

/// So many connections, each with a request on its way, one after the other.
pub fn ask(
    to: SocketAddr,
    asked: WebRequest,
    connections: usize,
    span: Duration,
) -> Result<Outcome> {
    on_threads(THREADS, |_| {
        let request = asked.bytes();
        let poll = Poll::new()?;
        let mut buffer = vec![0; READ];
        let mut outcome = Outcome::default();
        let start = Instant::now();
        let mut all = Vec::new();
        for number in 0..connections / THREADS {
            all.push(WebAsking::begin(&poll, number, to, &request)?);
        }
        let mut ready = Vec::new();
        while start.elapsed() < span {
            poll.wait(&mut ready, PATIENCE)?;
            ensure!(!ready.is_empty(), "nothing came for {PATIENCE:?} from {to}");
            for Ready { number, .. } in ready.drain(..) {
                let asking = all.get_mut(number).context("no such number")?;
                if !asking.go_on(&mut buffer, asked.closes)? {
                    continue;
                }
                outcome.count += 1;
                outcome.latencies.push(asking.began.elapsed());
                if asked.closes {
                    *asking = WebAsking::begin(&poll, number, to, &request)?;
                } else {
                    asking.ask(&request)?;
                }
            }
        }
        outcome.span = start.elapsed();
        Ok(outcome)
    })
}

/// Connections that are open and have carried a request each, and do nothing more.
pub fn idle(to: SocketAddr, asked: WebRequest, connections: usize) -> Result<Vec<TcpStream>> {
    let request = asked.bytes();
    let mut buffer = vec![0; READ];
    (0..connections)
        .map(|_| {
            let mut stream = clients::connect_tcp(to)?;
            stream.write_all(&request)?;
            let mut answer = AnswerSize::default();
            while !answer.is_whole() {
                let read = stream.read(&mut buffer)?;
                ensure!(read > 0, "it ended");
                answer.take(buffer.get(..read).unwrap_or_default());
            }
            Ok(stream)
        })
        .collect()
}

/// How much of an answer has come.
#[derive(Debug, Default)]
struct AnswerSize {
    head: Vec<u8>,
    /// How many bytes of the body have to come yet, once the head is there.
    left: Option<usize>,
}

impl AnswerSize {
    fn is_whole(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, bytes: &[u8]) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len());
            return;
        }
        self.head.extend_from_slice(bytes);
        let end = self.head.windows(4).position(|it| it == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(self.head.get(..end).unwrap_or_default());
            let head = head.to_ascii_lowercase();
            let lengths = head
                .lines()
                .filter_map(|line| line.strip_prefix("content-length:"));
            let length = lengths
                .filter_map(|it| it.trim().parse::<usize>().ok())
                .next();
            let has = self.head.len() - end - 4;
            self.left = Some(length.unwrap_or_default().saturating_sub(has));
            self.head.clear();
        }
    }
}

/// A connection with a request on its way.
struct WebAsking {
    stream: TcpStream,
    answer: AnswerSize,
    began: Instant,
}

impl WebAsking {
    fn begin(poll: &Poll, number: usize, to: SocketAddr, request: &[u8]) -> Result<Self> {
        let began = Instant::now();
        let stream = clients::connect_tcp(to)?;
        stream.set_nodelay(true)?;
        let mut asking = Self {
            stream,
            answer: AnswerSize::default(),
            began,
        };
        asking.ask(request)?;
        asking.began = began;
        asking.stream.set_nonblocking(true)?;
        poll.watch(&asking.stream, number)?;
        Ok(asking)
    }

    fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.answer = AnswerSize::default();
        self.began = Instant::now();
        Ok(self.stream.write_all(request)?)
    }

    /// True when the answer is whole; where the server closes, when it has.
    fn go_on(&mut self, buffer: &mut [u8], closes: bool) -> Result<bool> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => {
                    ensure!(closes && self.answer.is_whole(), "it ended too soon");
                    return Ok(true);
                }
                Ok(read) => {
                    self.answer.take(buffer.get(..read).unwrap_or_default());
                    if self.answer.is_whole() && !closes {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
