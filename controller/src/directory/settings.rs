//! How a store over a directory is set up, and why it could not be.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::state::TakeError;

/// How a [`DirectoryStore`](super::DirectoryStore) is set up.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// Where the manifests are. Need not be there yet.
    pub manifests: PathBuf,
    /// Where Fairway keeps what is its own; made where it is missing.
    pub state: PathBuf,
    /// After the manifest directory was away: how long it has to be quiet before what is missing
    /// in it counts as deleted.
    pub grace: Duration,
    /// How often everything is looked at, whatever was heard.
    pub resync: Duration,
    /// How long the first views wait for a gateway to say how its listeners are, which changes all
    /// of them.
    pub first_report: Duration,
}

impl DirectorySettings {
    /// The usual grace (30 s), resync (10 s) and wait for a report (1 s).
    pub fn new(manifests: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self {
            manifests: manifests.into(),
            state: state.into(),
            grace: Duration::from_secs(30),
            resync: Duration::from_secs(10),
            first_report: Duration::from_secs(1),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory can't be had.
    #[error(transparent)]
    State(#[from] TakeError),
    /// The kernel refuses what the store needs to wait for changes, or a thread.
    #[error("can't wait for changes of {}", manifests.display())]
    Watch {
        /// The manifest directory.
        manifests: PathBuf,
        /// Why.
        source: io::Error,
    },
}
