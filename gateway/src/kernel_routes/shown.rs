//! What is shown of the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::TABLE;
use crate::announcing::NotAnnounced;
use crate::heartbeat::Heartbeat;

/// What the thread publishes.
#[derive(Debug, Default)]
pub(crate) struct KernelRoutesShown {
    now: ArcSwapOption<ShownRoutes>,
    withdrawn: watch::Sender<bool>,
    /// Of the thread, once it runs.
    pub(super) beat: OnceLock<Heartbeat>,
}

/// The routes, and why those are missing that pools ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ShownRoutes {
    pub(super) asked: BTreeMap<IpAddr, Result<(), NotAnnounced>>,
    pub(super) there: BTreeSet<IpAddr>,
    /// Why wanted ones are missing; the end of a sentence.
    pub(super) why: String,
}

impl KernelRoutesShown {
    pub(super) fn set(&self, routes: ShownRoutes) {
        self.now.store(Some(routes.into()));
    }

    /// Whether the thread has removed all routes for the end of the process.
    pub(super) fn withdrawn(&self) -> &watch::Sender<bool> {
        &self.withdrawn
    }

    /// The heartbeat of the thread, where it runs.
    pub(crate) fn beat(&self) -> Option<&Heartbeat> {
        self.beat.get()
    }

    /// How many routes there are; none: no pool has wanted any.
    pub(crate) fn count(&self) -> Option<usize> {
        self.now.load().as_ref().map(|it| it.there.len())
    }

    /// What is to be said of an external address.
    pub(crate) fn sentence(&self, address: IpAddr) -> Option<String> {
        let now = self.now.load();
        let now = now.as_ref()?;
        let why = match now.asked.get(&address)? {
            Ok(()) if now.there.contains(&address) => {
                return Some(format!(
                    "The kernel's table {TABLE} has a route to {address}, for a routing daemon on this host."
                ));
            }
            Ok(()) => &now.why,
            Err(absence) => absence.as_str(),
        };
        Some(format!(
            "The kernel's table {TABLE} has no route to {address}: {why}."
        ))
    }
}
