//! The only wire between controller and gateway.

use std::future::Future;
use std::time::Instant;

use fairway_config::exchange::{Batch, ReportBatch, Write};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::problem::Problem;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

/// Where objects come from and where decisions go to: a directory, or an API server.
///
/// Both controller and gateway see a store through this trait alone, so whatever runs on one store
/// runs on every one.
pub trait Store: Send + Sync + 'static {
    /// Everything there is, then what changes.
    ///
    /// A subscriber that falls behind is sent the latest state of each object and not the way
    /// there, so what waits for it is bounded by the number of objects; the latest state is never
    /// dropped. Needs a Tokio runtime to be called in. The subscription ends when the receiver is
    /// dropped or the store closes.
    fn subscribe(&self) -> mpsc::Receiver<Batch>;

    /// Begins to make decisions last. The answer comes when the store takes further writes, and then
    /// the outcome of each write when there is one, in any order.
    ///
    /// What was written comes back to every subscriber as a change, but addresses and ports not
    /// before they would survive a crash. A status may: it follows from the rest. `since` is when
    /// the change came about that was decided on ([`Batch::since`]), and goes with it.
    fn write(
        &self,
        writes: Vec<Write>,
        since: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send;

    /// Begins no write any more, and waits a moment for those that are on their way. Whether all of
    /// them have ended.
    fn finish(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    /// How many writes wait for an answer that others do not wait for.
    fn held_up(&self) -> usize {
        0
    }

    /// Takes what a gateway says; it comes back as `Change::Report`.
    fn report(&self, gateway: &ClusterName, said: ReportBatch);

    /// How much has been told so far: the `sequence` of the batch that a subscriber gets who is
    /// not behind.
    fn sequence(&self) -> u64;

    /// What is held back now, and why.
    fn problems(&self) -> Vec<Problem>;

    /// What the store itself has still to do before everything is written, a sentence each.
    fn outstanding(&self) -> Vec<String>;
}

/// What became of each of several writes.
pub type Outcomes = BoxStream<'static, (WriteKey, WriteOutcome)>;

/// What a write is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteKey {
    /// A Service.
    Service(ServiceName),
    /// The node ports that are asked for a Service.
    NodePorts(ServiceName),
    /// An AddressPool.
    Pool(ClusterName),
}

impl WriteKey {
    /// What this write is about.
    pub fn of(write: &Write) -> Self {
        match write {
            Write::Service { name, .. } => Self::Service(name.clone()),
            Write::NodePorts { name, .. } => Self::NodePorts(name.clone()),
            Write::Pool { name, .. } => Self::Pool(ClusterName::clone(name)),
        }
    }

    /// As a problem names it.
    pub(crate) fn object(&self) -> String {
        match self {
            Self::Service(name) | Self::NodePorts(name) => format!("Service {name}"),
            Self::Pool(name) => format!("AddressPool {name}"),
        }
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It lasts.
    Written,
    /// A newer write of the same object has taken its place before it began.
    Superseded,
    /// The object has changed since the decision was made, or is gone: decide again.
    Refused,
    /// The store will not have this object so: others may be written all the while. Trying again
    /// makes sense, but not soon.
    Rejected(String),
    /// As [`WriteOutcome::Rejected`], because of a node port that was asked for: another one may be had.
    Taken(String),
    /// This object could not be written now, while the store does its work otherwise: what is asked
    /// before it takes an object of this namespace does not answer.
    HeldUp(String),
    /// It could not be done now; nothing that was there is lost, and trying again makes sense.
    Failed(String),
}
