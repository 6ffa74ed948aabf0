//! Waiting for what takes time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything may take that should be there at once. Far more than it takes on two slow cores
/// that run several tests and a build at a time: a limit that load can reach tells nothing about
/// what is tested. It also leaves room for what tries again after up to half a minute.
pub const SOON: Duration = Duration::from_secs(90);

/// Asks `condition` until it holds, for [`SOON`] at the most.
pub fn until(what: &str, condition: impl FnMut() -> bool) -> Result<()> {
    until_within(SOON, what, condition)
}

/// Asks `condition` until it holds, for `limit` at the most.
pub fn until_within(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    until_some_within(limit, what, || {
        condition().then_some(()).ok_or("it does not")
    })
}

/// Asks `attempt` until it has an answer, for [`SOON`] at the most. The error says what the last
/// attempt said.
pub fn until_some<T, E: std::fmt::Display>(
    what: &str,
    attempt: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    until_some_within(SOON, what, attempt)
}

/// Asks `attempt` until it has an answer, for `limit` at the most.
pub fn until_some_within<T, E: std::fmt::Display>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(answer) => return Ok(answer),
            Err(last) if start.elapsed() >= limit => {
                bail!(
                    "after {:.1} s still not so: {what} ({last:#})",
                    limit.as_secs_f64()
                )
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Asks `condition` for all of `span`: it must hold every time. For what must not happen.
pub fn always(span: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if !condition() {
            bail!(
                "after {:.1} s no longer so: {what}",
                start.elapsed().as_secs_f64()
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
