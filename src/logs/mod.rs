//! The log: text for people or JSON for machines, on standard error.
//!
//! Reading order: `filter` selects lines, `queue` writes them without blocking, `journal` adds the
//! priority for systemd's journal.

mod filter;
mod journal;
mod queue;

use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use self::filter::LogFilter;
use self::queue::LineQueue;
use crate::args::LogFormat;
use crate::outcome::WrongConfiguration;

/// Changes the filter while the process runs; local to this process.
static CONTROL: OnceLock<Control> = OnceLock::new();

struct Control {
    handle: reload::Handle<EnvFilter, Registry>,
    filter: std::sync::Mutex<LogFilter>,
}

/// Writes the rest of the log when it is dropped, as far as the reader takes it at once.
#[must_use]
pub(crate) struct RestOfLog(Arc<LineQueue>);

impl Drop for RestOfLog {
    fn drop(&mut self) {
        self.0.wait_until_written(queue::PATIENCE);
    }
}

/// Starts logging, filtered as `FAIRWAY_LOG` says, and where that is not set or empty by `default`.
///
/// # Errors Where `FAIRWAY_LOG` is not a filter.
pub(crate) fn start(format: LogFormat, default: &str) -> anyhow::Result<RestOfLog> {
    let asked = std::env::var("FAIRWAY_LOG").unwrap_or_default();
    let asked = if asked.trim().is_empty() {
        default
    } else {
        &asked
    };
    let filter = LogFilter::parse(asked)
        .map_err(|problem| WrongConfiguration(format!("FAIRWAY_LOG: {problem}")))?;
    let queue = LineQueue::start(std::io::stderr())?;
    let lines = queue::Lines::new(queue.clone(), journal::is_stderr());
    let log = fmt::layer()
        .with_writer(lines)
        .with_ansi(std::io::stderr().is_terminal());
    let log = match format {
        LogFormat::Text => log.with_target(false).boxed(),
        LogFormat::Json => log.json().flatten_event(true).with_target(true).boxed(),
    };
    let (reloaded, handle) = reload::Layer::new(filter.to_env_filter());
    // An error is ignored: a second subscriber in one process has no effect, the first one goes on.
    if tracing_subscriber::registry()
        .with(reloaded)
        .with(log)
        .try_init()
        .is_ok()
    {
        let filter = std::sync::Mutex::new(filter);
        let _ = CONTROL.set(Control { handle, filter });
    }
    Ok(RestOfLog(queue))
}

/// The filter that is in force.
pub(crate) fn filter() -> String {
    CONTROL.get().map_or_else(String::new, |control| {
        let filter = control.filter.lock();
        let filter = filter.unwrap_or_else(std::sync::PoisonError::into_inner);
        filter.to_string()
    })
}

/// From now on, until the process ends, this filter is in force.
///
/// # Errors
/// With a sentence, where it is no filter.
pub(crate) fn set_filter(text: &str) -> Result<(), String> {
    let filter = LogFilter::parse(text)?;
    let control = CONTROL.get().ok_or("this process has no log")?;
    let reloaded = control.handle.reload(filter.to_env_filter());
    reloaded.map_err(|error| error.to_string())?;
    let mut current = control
        .filter
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *current = filter;
    Ok(())
}
