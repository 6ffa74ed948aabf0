//! The ports and endpoints that drain: they were removed, and keep their connections until the time to drain is
//! over.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::port::Port;

/// Something that drains.
pub(super) enum Draining {
    /// A whole port.
    Port(Arc<Port>),
    /// Some endpoints of a port.
    Endpoints(Arc<Port>),
}

/// What drains, by the end of its time.
#[derive(Default)]
pub(super) struct DrainQueue(BTreeMap<Instant, Vec<Draining>>);

impl DrainQueue {
    /// Adds something that drains until then.
    pub(super) fn push(&mut self, until: Instant, draining: Draining) {
        self.0.entry(until).or_default().push(draining);
    }

    /// When the first one's time is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.keys().next().copied()
    }

    /// Takes those whose time is over.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Draining> {
        let mut due = Vec::new();
        while let Some(first) = self.0.first_entry()
            && *first.key() <= now
        {
            due.extend(first.remove());
        }
        due
    }

    /// The ports that drain, or have endpoints that do.
    pub(super) fn into_ports(self) -> impl Iterator<Item = Arc<Port>> {
        let draining = self.0.into_values().flatten();
        draining.map(|draining| match draining {
            Draining::Port(port) | Draining::Endpoints(port) => port,
        })
    }
}
