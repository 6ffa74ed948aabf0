//! Connections that live long, and what becomes of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::clients;
use crate::lab::Host;

/// How long answers are waited for that may never come.
const WAITS: Duration = Duration::from_secs(3);

/// Connections to a [`named`](crate::servers::named) server.
#[derive(Debug)]
pub struct HeldConnections(Vec<TcpStream>);

/// What became of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldOutcome {
    /// How many answered.
    pub alive: usize,
    /// How many were reset or closed.
    pub ended: usize,
    /// How many said nothing.
    pub silent: usize,
}

impl HeldConnections {
    /// Opens so many from a host, each of which is answered once.
    pub fn open(host: &Host, to: SocketAddr, count: usize) -> Result<Self> {
        let open = |n| -> Result<TcpStream> {
            let mut stream = clients::connect_tcp(to).with_context(|| format!("number {n}"))?;
            clients::ask(&mut stream, "who")?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let streams: Result<Vec<_>> = host.run(|| (0..count).map(open).collect());
        Ok(Self(streams?))
    }

    /// Asks on each of them.
    pub fn ask(&mut self) -> HeldOutcome {
        let mut outcome = HeldOutcome::default();
        let mut asked = Vec::new();
        for stream in &mut self.0 {
            match stream.write_all(b"who\n") {
                Ok(()) => asked.push(stream),
                Err(_) => outcome.ended += 1,
            }
        }
        let start = Instant::now();
        while !asked.is_empty() && start.elapsed() < WAITS {
            asked.retain_mut(|stream| match stream.read(&mut [0; 256]) {
                Ok(1..) => {
                    outcome.alive += 1;
                    false
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => true,
                _ => {
                    outcome.ended += 1;
                    false
                }
            });
            std::thread::sleep(Duration::from_millis(5));
        }
        outcome.silent = asked.len();
        outcome
    }
}
