//! A bounded queue of log lines, and the thread that writes them.
//!
//! The reader of the log may stop: a terminal in which text is selected, a pipe to a program that
//! hangs, a journal on a full disk. A thread that writes to it would block. So lines go into a
//! queue, and a thread of its own writes them. Lines for which there is no room are dropped and
//! counted, and the number is logged when there is room again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::journal;

/// How many bytes may wait.
const ROOM: usize = 1 << 20;

/// How long a process that ends waits for its last lines to be written.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The queue. Local to this process.
#[derive(Debug, Default)]
pub(super) struct LineQueue {
    waiting: Mutex<WaitingLines>,
    /// Signalled when a line was added, and when all lines were written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WaitingLines {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A line was taken out and is being written.
    writing: bool,
    /// How many lines were dropped since that was last logged.
    dropped: u64,
}

impl LineQueue {
    /// A queue whose lines are written to `to`.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let shared = queue.clone();
        // The thread is never joined: it may block in a write for ever.
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_all(to))?;
        Ok(queue)
    }

    /// Adds a line, or drops it where there is no room. Never waits for the reader.
    fn push(&self, line: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > ROOM {
            waiting.dropped += 1;
            drop(waiting);
            metrics::counter!("fairway_log_lines_dropped_total").increment(1);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// Waits until everything is written, but not longer than this.
    pub(super) fn wait_until_written(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut waiting = self.lock();
        while waiting.writing || !waiting.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn write_all(&self, mut to: impl Write) {
        loop {
            let mut waiting = self.lock();
            waiting.writing = false;
            let line = loop {
                if let Some(line) = waiting.lines.pop_front() {
                    break line;
                }
                self.changed.notify_all();
                let woken = self.changed.wait(waiting);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
            };
            waiting.writing = true;
            waiting.bytes -= line.len();
            // Only when half of the queue is free, so that this line is not dropped itself.
            let dropped = match waiting.bytes < ROOM / 2 {
                true => std::mem::take(&mut waiting.dropped),
                false => 0,
            };
            drop(waiting);
            // An error is ignored: where the reader is gone there is no other place to write to.
            let _ = to.write_all(&line);
            if dropped > 0 {
                tracing::warn!(
                    lines = dropped,
                    "lines of the log were dropped, because its reader did not take them"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingLines> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the writers of tracing: one for each line.
#[derive(Debug)]
pub(super) struct Lines {
    queue: Arc<LineQueue>,
    /// Whether the journal reads them.
    for_journal: bool,
}

impl Lines {
    pub(super) fn new(queue: Arc<LineQueue>, for_journal: bool) -> Self {
        Self { queue, for_journal }
    }

    fn line(&self, level: Level) -> LineWriter<'_> {
        LineWriter {
            queue: &self.queue,
            line: match self.for_journal {
                true => journal::prefix(level).to_vec(),
                false => Vec::new(),
            },
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        self.line(*metadata.level())
    }
}

/// One line; it goes into the queue when it is dropped.
#[derive(Debug)]
pub(super) struct LineWriter<'a> {
    queue: &'a LineQueue,
    line: Vec<u8>,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        self.queue.push(std::mem::take(&mut self.line));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_hears_afterwards_how_much_it_missed() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = LineQueue::start(writer).unwrap();
        let log = tracing_subscriber::fmt::layer().with_writer(Lines::new(queue.clone(), true));
        let log = tracing_subscriber::registry().with(log);
        let began = Instant::now();
        tracing::subscriber::with_default(log, || {
            for number in 0..40_000 {
                tracing::info!(
                    number,
                    "a line that nobody reads, and it is not the only one"
                );
            }
        });
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        let dropped = queue.lock().dropped;
        assert!(dropped > 1000, "{dropped}");
        assert!(queue.lock().bytes <= ROOM);
        // It is not waited for without end.
        queue.wait_until_written(Duration::from_millis(10));
        // It reads on: all that waited comes, whole and in order.
        let mut lines = BufReader::new(reader).lines();
        for number in 0..40_000 - dropped {
            let line = lines.next().unwrap().unwrap();
            assert!(line.starts_with("<6>"), "{line}");
            assert!(
                line.contains(&format!("number\u{1b}[0m\u{1b}[2m=\u{1b}[0m{number}"))
                    || line.contains(&format!("number={number}")),
                "{line}"
            );
        }
        queue.wait_until_written(PATIENCE);
        assert_eq!(queue.lock().dropped, 0, "it was not told");
    }

    #[test]
    fn lines_have_the_priority_of_their_level_in_the_journal() {
        for (level, prefix) in [
            (Level::ERROR, "<3>"),
            (Level::WARN, "<4>"),
            (Level::INFO, "<6>"),
            (Level::TRACE, "<7>"),
        ] {
            let queue = Arc::new(LineQueue::default());
            for (for_journal, begins) in [(true, prefix), (false, "")] {
                let lines = Lines::new(queue.clone(), for_journal);
                lines.line(level).write_all(b"text").unwrap();
                let line = queue.lock().lines.pop_front().unwrap();
                assert_eq!(String::from_utf8(line).unwrap(), format!("{begins}text"));
            }
        }
    }
}
