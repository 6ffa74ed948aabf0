//! A program that runs in a host.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running program. Killed and reaped when dropped; what it said is then in the journal of the
/// thread that dropped it.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it, with standard input closed and the two outputs captured as one.
    pub(super) fn start(mut command: Command, label: String) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{label} can't be started"))?;
        let said = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(collect(stdout, said.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(collect(stderr, said.clone()));
        }
        Ok(Self {
            label,
            child,
            said,
            readers,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How long its thread of that name has run on a processor.
    pub fn ran(&self, thread: &str) -> Result<Duration> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id()))?;
        for task in tasks {
            let path = task?.path();
            if fs::read_to_string(path.join("comm"))?.trim_end() == thread {
                // In nanoseconds (Documentation/scheduler/sched-stats.rst).
                let stat = fs::read_to_string(path.join("schedstat"))?;
                let ran = stat.split_whitespace().next().context("no schedstat")?;
                return Ok(Duration::from_nanos(ran.parse()?));
            }
        }
        bail!("{} has no thread {thread}", self.label)
    }

    /// What it has written until now.
    pub fn said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Until it is waited for its id can be no other's.
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("{} can't be sent {signal:?}", self.label))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end, at most for `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} has ended", self.label);
        wait::until_some_within(limit, &what, || {
            self.child
                .try_wait()
                .map_err(anyhow::Error::from)?
                .context("it runs")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let ended = status.map_or_else(|e| e.to_string(), |status| status.to_string());
        let entry = format!("--- {} ({ended})\n{}", self.label, self.said());
        note(entry);
    }
}

thread_local! {
    static JOURNAL: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What the programs said whose handles this thread has dropped since it was last asked: what a
/// person wants to see when a test has failed.
pub fn take_journal() -> String {
    JOURNAL.with_borrow_mut(std::mem::take).join("\n")
}

/// Puts an entry into the journal of this thread.
pub fn note(entry: String) {
    JOURNAL.with_borrow_mut(|journal| journal.push(entry));
}

fn collect(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut said = to.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&String::from_utf8_lossy(&line));
            said.push('\n');
        }
    })
}
