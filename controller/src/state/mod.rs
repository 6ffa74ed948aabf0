//! A state directory: what a process knows, kept through crashes.
//!
//! `lock` lets one process at a time use it; `journal` is a memory of objects, a line for each
//! change; `disk` writes files atomically.

pub(crate) mod disk;
pub(crate) mod journal;
pub(crate) mod lock;

use std::io;
use std::path::PathBuf;

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another process uses it.
    #[error(
        "{} belongs to process {pid} ({command}): stop it, or give this one a --state of its own",
        state.display()
    )]
    Locked {
        /// The state directory.
        state: PathBuf,
        /// The process that holds it.
        pid: String,
        /// How that was started.
        command: String,
    },
    /// It can't be used.
    #[error("can't use {} as state", path.display())]
    State {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
