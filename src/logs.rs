//! The log: text for people or JSON for machines, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// pingora logs every client that misbehaves as an error; the gateway says the same at debug.
const QUIET: &str = "pingora_core=off,pingora_proxy=off";

/// Starts logging. `FAIRWAY_LOG` filters as tracing's `EnvFilter` does; `info` where it is not set.
pub(crate) fn start(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_env("FAIRWAY_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{default},{QUIET}")));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second subscriber in one process is a mistake that costs nothing but the second one's
    // format: the first goes on.
    let _ = match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).with_target(true).try_init(),
    };
}
