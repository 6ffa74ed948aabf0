//! Where the reports of a gateway go.

use std::sync::Arc;

use fairway_config::exchange::ReportBatch;

/// Takes a batch of reports. It must not block; when it returns, the reports are in the store.
pub type ReportSink = Arc<dyn Fn(ReportBatch) + Send + Sync>;
