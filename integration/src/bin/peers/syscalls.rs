//! System calls of one short connection, by strace(1): those that wait left out, which are the more
//! the less there is to do.

use std::fs;
use std::process::Command;

use anyhow::Result;
use fairway_integration::bench::backend::CLOSES;
use fairway_integration::bench::requests;
use fairway_integration::lab::Host;
use fairway_integration::site::at;
use fairway_integration::{programs, wait};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::paths::Way;

/// Connections that are traced.
const CONNECTIONS: u32 = 50;

/// Calls that wait for something.
const WAITS: [&str; 5] = ["epoll_wait", "epoll_pwait", "poll(", "futex", "clock_"];

/// How many a connection takes of the process and its children.
pub(crate) fn of(process: u32, way: Way, client: &Host, edge: &Host) -> Result<f64> {
    let folder = TempDir::with_prefix("fairway-peers-")?;
    let file = folder.path().join("trace");
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    let mut command = Command::new(programs::find("strace")?);
    command.args(["-f", "-qq", "-o"]).arg(&file);
    for process in [process.to_string().as_str()]
        .into_iter()
        .chain(children.split_whitespace())
    {
        command.args(["-p", process]);
    }
    let mut strace = edge.spawn(command)?;
    let traced = || -> Result<usize> {
        let mut count = 0;
        for process in [process.to_string().as_str()]
            .into_iter()
            .chain(children.split_whitespace())
        {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let status = fs::read_to_string(task?.path().join("status"))?;
                let own = status
                    .lines()
                    .find_map(|line| line.strip_prefix("TracerPid:"));
                anyhow::ensure!(own.is_some_and(|own| own.trim() != "0"), "not traced yet");
                count += 1;
            }
        }
        Ok(count)
    };
    wait::until_some("strace sees every thread", traced)?;
    let before = lines(&file);
    client.run(|| -> Result<()> {
        for _ in 0..CONNECTIONS {
            requests::visit(at(way.address(), CLOSES))?;
        }
        Ok(())
    })?;
    // What the last one has left to do.
    let mut last = 0;
    wait::until("nothing is called any more", || {
        let now = lines(&file);
        let same = now == last;
        last = now;
        std::thread::sleep(std::time::Duration::from_millis(100));
        same
    })?;
    strace.signal(Signal::INT)?;
    strace.wait(wait::SOON)?;
    Ok(f64::from(last - before) / f64::from(CONNECTIONS))
}

/// Calls in the trace that do something.
fn lines(file: &std::path::Path) -> u32 {
    let trace = fs::read_to_string(file).unwrap_or_default();
    let calls = trace.lines().filter(|line| {
        // The second half of a call that another thread's came into is none of its own.
        !line.contains("resumed>") && !WAITS.iter().any(|wait| line.contains(wait))
    });
    calls.count() as u32
}
