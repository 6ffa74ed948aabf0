//! Why an endpoint fails its check.

use std::sync::Arc;

/// The end of a sentence: `HTTP 503`.
pub(super) type Failure = Arc<str>;
