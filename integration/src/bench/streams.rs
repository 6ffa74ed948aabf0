//! TCP clients for benchmarks that read as fast as they can.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Outcome, on_threads};
use crate::clients;

/// Bytes that are taken at once.
const BULK: usize = 256 << 10;

/// Takes so many streams at the same time, each on a thread of its own; counts bytes.
pub fn take(from: SocketAddr, streams: usize, span: Duration) -> Result<Outcome> {
    on_threads(streams, |_| {
        let mut stream = clients::connect_tcp(from)?;
        let mut buffer = vec![0; BULK];
        let mut outcome = Outcome::default();
        let start = Instant::now();
        while start.elapsed() < span {
            let bytes = stream.read(&mut buffer)?;
            ensure!(bytes > 0, "{from} ended the stream");
            outcome.count += bytes as u64;
        }
        outcome.span = start.elapsed();
        Ok(outcome)
    })
}
