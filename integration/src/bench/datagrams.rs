//! UDP clients for benchmarks.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::poll::{Poll, Ready};
use super::{Outcome, THREADS, on_threads};

/// After how long without an answer a datagram counts as lost. The path is a few wires on one
/// machine.
const LOST: Duration = Duration::from_millis(200);

/// How datagrams are sent.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// Flows: sockets of their own.
    pub flows: usize,
    /// Bytes of a datagram.
    pub length: usize,
    /// How many of a flow are on their way at most: what an application that does not wait sends.
    pub window: usize,
}

/// Sends on each flow as many as may be on their way, and one more for each that comes back.
pub fn echo(to: SocketAddr, load: Datagrams, span: Duration) -> Result<Outcome> {
    let threads = THREADS.min(load.flows);
    on_threads(threads, |_| {
        let poll = Poll::new()?;
        let bytes = vec![7; load.length];
        let mut flows = Vec::new();
        for number in 0..load.flows / threads {
            let socket = UdpSocket::bind(match to {
                SocketAddr::V4(_) => "0.0.0.0:0",
                SocketAddr::V6(_) => "[::]:0",
            })?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20);
            poll.watch_level(&socket, number)?;
            flows.push(EchoFlow {
                socket,
                away: 0,
                heard: Instant::now(),
            });
        }
        let mut outcome = Outcome::default();
        let mut ready = Vec::new();
        let start = Instant::now();
        for flow in &mut flows {
            flow.fill(&bytes, load.window);
        }
        let mut looked = start;
        while start.elapsed() < span {
            poll.wait(&mut ready, LOST)?;
            let now = Instant::now();
            for Ready { number, .. } in ready.drain(..) {
                let flow = flows.get_mut(number).context("no such number")?;
                outcome.count += flow.take(load.length);
                flow.heard = now;
                flow.fill(&bytes, load.window);
            }
            if now.duration_since(looked) >= LOST {
                looked = now;
                for flow in &mut flows {
                    if now.duration_since(flow.heard) >= LOST {
                        outcome.failed += flow.away as u64;
                        flow.away = 0;
                        flow.heard = now;
                        flow.fill(&bytes, load.window);
                    }
                }
            }
        }
        outcome.span = start.elapsed();
        // What is on its way still comes, and does not count; what does not come is lost.
        loop {
            poll.wait(&mut ready, LOST)?;
            if ready.is_empty() {
                break;
            }
            for Ready { number, .. } in ready.drain(..) {
                let flow = flows.get_mut(number).context("no such number")?;
                flow.take(load.length);
            }
        }
        outcome.failed += flows.iter().map(|flow| flow.away as u64).sum::<u64>();
        Ok(outcome)
    })
}

struct EchoFlow {
    socket: UdpSocket,
    /// Sent and not yet back.
    away: usize,
    heard: Instant,
}

impl EchoFlow {
    fn fill(&mut self, bytes: &[u8], window: usize) {
        while self.away < window {
            match self.socket.send(bytes) {
                Ok(_) => self.away += 1,
                Err(_full) => return,
            }
        }
    }

    /// How many have come back.
    fn take(&mut self, length: usize) -> u64 {
        let mut buffer = [0; 2048];
        let mut count = 0;
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(bytes) if bytes == length => {
                    count += 1;
                    self.away = self.away.saturating_sub(1);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count,
                Err(_refused) => return count,
            }
        }
    }
}
