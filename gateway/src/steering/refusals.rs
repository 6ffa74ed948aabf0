//! Clients that the kernel has refused at a Service without endpoint: the program in the kernel counts them, and
//! they are collected for the metrics.
//!
//! At an address of the host's own the program only counts. Another process may listen there and answer, and its
//! clients are not refused. So what was counted there is added only if nobody listens there when it is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_config::net::Protocol;
use fairway_gateway_core::route::Tick;

use super::blocks::ClientBlocks;
use super::{Inquiry, Steering, WhenClosed};
use crate::counters::Rejection;
use crate::slot::{BindKey, Slot, Target};
use crate::socket::in_use;

/// The closed bind keys, and how many refused clients were collected.
#[derive(Debug)]
pub(crate) struct Refusals {
    steering: Arc<Steering>,
    blocks: Arc<ClientBlocks>,
    places: Mutex<BTreeMap<BindKey, ClosedPlace>>,
}

/// A bind key without endpoint, for as long as it is closed.
#[derive(Debug)]
struct ClosedPlace {
    slot: Arc<Slot>,
    when_closed: WhenClosed,
    /// How many of its clients were collected.
    collected: u64,
}

impl ClosedPlace {
    /// The kernel has counted that many clients so far.
    fn collect(&mut self, count: u64) -> NewRefusals {
        let clients = count.saturating_sub(self.collected);
        self.collected = count;
        let slot = self.slot.clone();
        NewRefusals { slot, clients }
    }
}

/// Clients that were counted and are in no metric yet. They were refused if nobody else listens there.
#[derive(Debug)]
pub(crate) struct NewRefusals {
    slot: Arc<Slot>,
    clients: u64,
}

impl NewRefusals {
    /// Nobody else listens there: adds them to the counters of the port.
    pub(crate) fn count(&self) {
        if let (1.., Target::Port { port, .. }) = (self.clients, &**self.slot.target.load()) {
            port.counters
                .reject_many(Rejection::NoEndpoint, self.clients);
        }
    }
}

impl Refusals {
    /// Nothing is closed yet.
    pub(crate) fn new(steering: Arc<Steering>) -> Self {
        Self {
            blocks: Arc::new(ClientBlocks::new(steering.clone())),
            steering,
            places: Mutex::default(),
        }
    }

    /// The clients that the kernel refuses for a limit.
    pub(crate) fn blocks(&self) -> &Arc<ClientBlocks> {
        &self.blocks
    }

    /// The steering whose clients are counted.
    pub(crate) fn steering(&self) -> &Arc<Steering> {
        &self.steering
    }

    /// See [`Steering::inquiry`].
    pub(crate) fn inquiry(&self) -> Arc<Inquiry> {
        self.steering.inquiry()
    }

    /// Closes a bind key from now on. One that is closed keeps its count.
    pub(crate) fn refuse(&self, place: BindKey, slot: &Arc<Slot>, when_closed: WhenClosed) {
        self.blocks.disown(place.listen);
        let mut places = self.lock();
        if let Some(closed) = places.get_mut(&place) {
            if closed.when_closed == when_closed {
                return;
            }
            // Of whom it is not known whether they were refused is not counted.
            let _ = self.collect_closed(place, closed);
        }
        self.steering.shut(place, when_closed);
        let closed = ClosedPlace {
            slot: slot.clone(),
            when_closed,
            collected: 0,
        };
        places.insert(place, closed);
    }

    /// Collects the count of one bind key. Returned are clients of whom it is not known whether they were refused.
    pub(crate) fn collect_at(&self, place: BindKey) -> Option<NewRefusals> {
        let mut places = self.lock();
        self.collect_closed(place, places.get_mut(&place)?)
    }

    /// Collects the count of a bind key that is about to be steered or released, and forgets it. Returned are clients
    /// of whom it is not known whether they were refused.
    pub(crate) fn end(&self, place: BindKey) -> Option<NewRefusals> {
        self.blocks.disown(place.listen);
        let mut places = self.lock();
        self.collect_closed(place, &mut places.remove(&place)?)
    }

    fn collect_closed(&self, place: BindKey, closed: &mut ClosedPlace) -> Option<NewRefusals> {
        let new = closed.collect(self.steering.counted(place)?);
        match closed.when_closed {
            WhenClosed::Refuse => new.count(),
            WhenClosed::Count if new.clients > 0 => return Some(new),
            WhenClosed::Count => {}
        }
        None
    }

    /// Adds the refused clients to the counters of each port. One short system call for each bind key without
    /// endpoint. Who listens is read where clients were counted that another process may have answered.
    pub(crate) fn collect(&self, now: Tick) {
        self.blocks.collect(now);
        let places: Vec<BindKey> = self.lock().keys().copied().collect();
        let collected = places
            .into_iter()
            .filter_map(|place| Some((place, self.collect_at(place)?)));
        let collected: Vec<(BindKey, NewRefusals)> = collected.collect();
        // Who listens is looked at after the count: a process that has come since keeps its clients.
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let of_protocol = || {
                let all = collected.iter();
                all.filter(|(place, _)| place.protocol == protocol)
            };
            let ports: BTreeSet<u16> = of_protocol()
                .map(|(place, _)| place.listen.0.port())
                .collect();
            if ports.is_empty() {
                continue;
            }
            match in_use::takers(protocol, &ports) {
                Ok(takers) => {
                    for (place, new) in of_protocol() {
                        let at = place.listen.0;
                        if !takers.iter().any(|taker| in_use::takes(*taker, at)) {
                            new.count();
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "who listens can't be read"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BindKey, ClosedPlace>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
