//! One connection on which a small message goes to and fro all the time: how long clients wait at most.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::clients;
use crate::lab::Host;

/// How long between an answer and the next message.
const EVERY: Duration = Duration::from_micros(500);

/// A connection to a server that echoes, until it is dropped.
pub struct Pulse {
    is_over: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Pulse {
    /// Begins, from that host.
    pub fn start(host: &Host, to: SocketAddr) -> Result<Self> {
        let mut stream = host.run(|| clients::connect_tcp(to))?;
        stream.set_nodelay(true)?;
        let (is_over, longest) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (over, most) = (is_over.clone(), longest.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0_u64;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                let began = Instant::now();
                let mut echoed = [0; 8];
                stream.write_all(&number.to_be_bytes())?;
                stream.read_exact(&mut echoed)?;
                ensure!(echoed == number.to_be_bytes(), "message {number}");
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                most.fetch_max(took, Ordering::Relaxed);
                std::thread::sleep(EVERY);
            }
            Ok(number)
        });
        Ok(Self {
            is_over,
            longest,
            thread: Some(thread),
        })
    }

    /// The longest time that a message took to and fro since this was asked last.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// Ends it. How many messages went to and fro, each as it should.
    pub fn end(mut self) -> Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        match thread {
            Some(Ok(count)) => count,
            _ => Ok(0),
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
