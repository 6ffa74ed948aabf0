//! What a thread uses of a processor for what it receives, and when it has to pause: see [`ReceiveBudget`].

use std::time::Duration;

use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::receive_budget::{BudgetStep, ReceiveBudget};
use rustix::time::{ClockId, clock_gettime};

use crate::clock::boot_time;
use crate::metrics::RECEIVE_PAUSES;

/// What a turn of the thread costs besides, which something received has caused.
const TURN: Duration = Duration::from_micros(20);

/// What is received, as the label `of` of the metric.
pub(crate) const RECEIVED: [&str; 4] = ["arp_and_ndp", "fleet", "bfd", "bgp"];

/// See the module. One is of one thread alone.
#[derive(Debug)]
pub(crate) struct ReceiveMeter {
    of: &'static str,
    budget: ReceiveBudget,
}

impl ReceiveMeter {
    /// `of` is one of [`RECEIVED`].
    pub(crate) fn new(of: &'static str) -> Self {
        Self {
            of,
            budget: ReceiveBudget::default(),
        }
    }

    /// When something may be received again; nothing: now.
    pub(crate) fn resumes_at(&self, now: BootTime) -> Option<BootTime> {
        self.budget.resumes_at(now)
    }

    /// Receives something, if that may be now. `receive` says whether anything came.
    pub(crate) fn receive(&mut self, receive: impl FnOnce() -> bool) {
        if !self.budget.may_receive(boot_time()) {
            return;
        }
        let began = processor_time();
        if !receive() {
            return;
        }
        let used = processor_time().saturating_sub(began).saturating_add(TURN);
        let of = self.of;
        if let BudgetStep::Pauses { is_news } = self.budget.spend(boot_time(), used) {
            metrics::counter!(RECEIVE_PAUSES, "of" => of).increment(1);
            if is_news {
                tracing::warn!(
                    of,
                    "more comes from the network than is taken: somebody floods this gateway, and part of what comes \
                     is dropped"
                );
            }
        }
    }
}

/// What the calling thread has used of processors.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
