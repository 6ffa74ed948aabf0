//! What a gateway says of Services, and to whom.

use std::sync::Arc;

use fairway_config::exchange::ReportBatch;

/// Takes what a gateway says at once, without waiting for anything: when it returns it has been said.
pub type ReportSink = Arc<dyn Fn(ReportBatch) + Send + Sync>;
