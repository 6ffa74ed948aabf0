//! The settings of a store over a directory, and why it can't be opened.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::links;
use super::scan::OwnState;
use crate::state::TakeError;

/// How a [`DirectoryStore`](super::DirectoryStore) is set up.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// Where the manifests are. Need not be there yet.
    pub manifests: PathBuf,
    /// Where Fairway keeps what is its own; made where it is missing.
    pub state: PathBuf,
    /// After the manifest directory was away: how long nothing may have changed in it before files that
    /// are missing count as deleted.
    pub grace: Duration,
    /// How often the whole directory is scanned, whatever inotify says.
    pub resync: Duration,
    /// How long the first views wait for the first report of a gateway, which changes all of them.
    pub first_report: Duration,
    /// Whether another process still has the state directory: nothing is written until it is handed over.
    pub is_held: bool,
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
            is_held: false,
        }
    }
}

impl DirectorySettings {
    /// Whether manifests and state are apart: what Fairway writes would be read as manifests, and the
    /// Services in it could not be deleted.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let apart = |how: String| OpenError::Nested {
            how,
            state: self.state.clone(),
        };
        let own = OwnState::new(&self.state);
        let manifests = links::follow(&self.manifests).end;
        let shown = self.manifests.display();
        if own.holds(&manifests) {
            return Err(apart(if own.is_below(&manifests) {
                format!("the manifest directory {shown} is the state directory")
            } else {
                format!("the manifest directory {shown} lies in the state directory")
            }));
        }
        if own.is_below(&manifests) {
            return Err(apart(format!(
                "the state directory lies in the manifest directory {shown}"
            )));
        }
        let leads_there = |link: &Path| {
            let end = links::follow(link).end;
            own.holds(&end) || own.is_below(&end)
        };
        match links::find(&self.manifests, &leads_there) {
            Some(link) => Err(apart(format!(
                "the link {} leads to the state directory, to what is in it or to what it lies in",
                link.display()
            ))),
            None => Ok(()),
        }
    }

    /// Whether there is a manifest directory.
    pub(super) fn check_manifests(&self) -> Result<(), OpenError> {
        match std::fs::read_dir(&self.manifests) {
            Ok(_) => Ok(()),
            Err(source) => Err(OpenError::NoManifests {
                manifests: self.manifests.clone(),
                source,
            }),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The state directory can't be used.
    #[error(transparent)]
    State(#[from] TakeError),
    /// The manifests and the state are not apart.
    #[error(
        "{how} ({}): Fairway would take what it writes for manifests; name a directory with --state \
         that is apart from the manifests",
        state.display()
    )]
    Nested {
        /// Which of them lies in the other, as a clause.
        how: String,
        /// The state directory.
        state: PathBuf,
    },
    /// There is no manifest directory, and nothing that an earlier run read could stand in for it.
    #[error(
        "the manifest directory {} can't be read: make it, or name another one with --manifests",
        manifests.display()
    )]
    NoManifests {
        /// The manifest directory.
        manifests: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses what the store needs to wait for changes, or a thread.
    #[error("can't wait for changes of {}", manifests.display())]
    Watch {
        /// The manifest directory.
        manifests: PathBuf,
        /// Why.
        source: io::Error,
    },
}
