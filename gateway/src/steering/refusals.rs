//! Clients that the kernel has refused at a Service without endpoint: the program in the kernel counts them, and
//! they are collected for the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Steering;
use crate::counters::Rejection;
use crate::slot::{BindKey, Slot, Target};

/// The bind keys that the kernel refuses, and how many refused clients were collected.
#[derive(Debug)]
pub(crate) struct Refusals {
    steering: Arc<Steering>,
    places: Mutex<BTreeMap<BindKey, RefusedPlace>>,
}

#[derive(Debug)]
struct RefusedPlace {
    slot: Arc<Slot>,
    collected: u64,
}

impl Refusals {
    /// Nothing is refused yet.
    pub(crate) fn new(steering: Arc<Steering>) -> Self {
        Self {
            steering,
            places: Mutex::default(),
        }
    }

    /// Refuses connections to a bind key from now on.
    pub(crate) fn refuse(&self, place: BindKey, slot: &Arc<Slot>) {
        let mut places = self.lock();
        self.steering.refuse(place);
        places.entry(place).or_insert_with(|| RefusedPlace {
            slot: slot.clone(),
            collected: 0,
        });
    }

    /// Collects the count of a bind key that is about to be steered or released, and forgets it.
    pub(crate) fn end(&self, place: BindKey) {
        if let Some(mut refused) = self.lock().remove(&place) {
            self.collect_at(place, &mut refused);
        }
    }

    /// Adds the refused clients to the counters of each port. One short system call for each bind key without
    /// endpoint.
    pub(crate) fn collect(&self) {
        for (place, refused) in &mut *self.lock() {
            self.collect_at(*place, refused);
        }
    }

    fn collect_at(&self, place: BindKey, refused: &mut RefusedPlace) {
        let count = self.steering.refused(place).unwrap_or(refused.collected);
        let new = count.saturating_sub(refused.collected);
        refused.collected = count;
        if let (1.., Target::Port { port, .. }) = (new, &**refused.slot.target.load()) {
            port.counters.reject_many(Rejection::NoEndpoint, new);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BindKey, RefusedPlace>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
