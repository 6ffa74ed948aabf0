//! What a gateway says of Services, and to whom.

use std::sync::Arc;

use fairway_config::exchange::Report;
use fairway_config::names::ServiceName;

/// What a gateway says of Services: a report, or that it has nothing to say any more.
pub type Reports = Vec<(ServiceName, Option<Report>)>;

/// Takes reports at once, without waiting for anything: when it returns they have been said.
pub type ReportSink = Arc<dyn Fn(Reports) + Send + Sync>;
