//! What is asked for a Service where somebody else allocates node ports.

use std::collections::{BTreeMap, BTreeSet};

use fairway_config::service::PortKey;

use crate::queue::QueueKey;

/// What is asked for a Service.
#[derive(Debug, Default)]
pub(crate) struct NodePortRequest {
    /// Numbers that count as taken, because they were asked for.
    pub(crate) numbers: BTreeMap<PortKey, u16>,
    /// The version of the Service that was asked for them; none: to be asked.
    pub(crate) from: Option<u64>,
    /// Numbers that were refused.
    pub(crate) refused: BTreeSet<u16>,
    /// Why, or that there is none left.
    pub(crate) error: Option<String>,
    /// The wait after a refusal is over. Until then no change of the Service asks again: saying so in
    /// its status is one.
    pub(crate) due: bool,
    /// Where it stands among those who wait for a free number.
    pub(crate) place: Option<Place>,
}

/// How many numbers a Service needs, then its age: one that needs more than there are holds nobody up.
pub(crate) type Place = (usize, QueueKey);
