//! A request for the node ports of one Service, where the API server allocates them.

use std::collections::{BTreeMap, BTreeSet};

use fairway_config::service::PortKey;

use crate::queue::QueueKey;

/// The request for one Service.
#[derive(Debug, Default)]
pub(crate) struct NodePortRequest {
    /// Numbers that count as taken, because they were asked for.
    pub(crate) numbers: BTreeMap<PortKey, u16>,
    /// The version of the Service that the request was made from; none: the request has to be made.
    pub(crate) from: Option<u64>,
    /// Numbers that were refused.
    pub(crate) refused: BTreeSet<u16>,
    /// Why the request was refused, or that no number is left.
    pub(crate) error: Option<String>,
    /// The wait after a refusal is over. Before that a change of the Service makes no new request:
    /// its own condition about the refusal is such a change.
    pub(crate) due: bool,
    /// Its place among the Services that wait for a free number.
    pub(crate) place: Option<Place>,
}

/// How many numbers a Service needs, then its age: so one that needs more than are free holds up
/// none.
pub(crate) type Place = (usize, QueueKey);
