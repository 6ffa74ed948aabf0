//! Controllers that would take Services which this one has: what they have said of them goes when they are gone.
//!
//! Each of them takes that back itself where it would not take the Service any more. One that was uninstalled, or
//! whose class has changed, can't.

use super::other_controllers::LOOK_AGAIN;
use super::repair_queue::PATIENCE;
use super::store_context::StoreContext;
use crate::feed::lock;

impl StoreContext {
    /// Looks now and then whether those controllers are gone, and those that have statuses, for ever. However many Services one would take,
    /// its Lease is read once each time.
    pub(super) async fn look_for_contenders(&self) {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            self.take_over_statuses().await;
            let (contended, us) = {
                let cache = lock(&self.cache);
                (cache.contended(), cache.controller().clone())
            };
            for (contender, services) in contended {
                if self.is_gone(us.another(&contender)).await {
                    tracing::info!(
                        controller = contender,
                        count = services.len(),
                        "a controller that would have taken Services of this one is gone"
                    );
                    for key in services {
                        self.write_queue.repair(key, PATIENCE);
                    }
                }
            }
        }
    }
}
