//! The only wire between controller and gateway.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Instant;

use fairway_config::exchange::{Batch, ReportBatch, Write};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::problem::Problem;
use fairway_controller_core::events::Event;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

use crate::own_addresses::OwnAddress;

/// Where objects come from and where decisions go to: a directory, or an API server.
///
/// Controller and gateway use a store through this trait alone, so they run on every store.
pub trait Store: Send + Sync + 'static {
    /// Everything there is, then what changes.
    ///
    /// A subscriber that falls behind is sent the latest state of each object and no states in
    /// between. So what waits for it is bounded by the number of objects, and the latest state is
    /// never dropped. Needs a Tokio runtime to be called in. The subscription ends when the
    /// receiver is dropped or the store closes.
    fn subscribe(&self) -> mpsc::Receiver<Batch>;

    /// Begins to write decisions. Returns when the store accepts further writes; the stream that it
    /// returns brings the outcome of each write, in any order.
    ///
    /// What was written comes back to every subscriber as a change. Addresses and ports come back
    /// only when they would survive a crash; a status may come back before, because it follows from
    /// the rest. `since` is when the change was made that was decided on ([`Batch::since`]); it is
    /// passed on with the change.
    fn write(
        &self,
        writes: Vec<Write>,
        since: Option<Instant>,
    ) -> impl Future<Output = Outcomes> + Send;

    /// Begins no further write, and waits a moment for those that are on their way. True: all of
    /// them have ended.
    fn finish(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    /// How many writes are not answered while others are.
    fn held_up(&self) -> usize {
        0
    }

    /// Takes the reports of the gateway of this process, from any of its threads. To whom they
    /// concern they come back as `Change::Report` and `Change::Address`.
    fn report(&self, gateway: &ClusterName, said: ReportBatch);

    /// Tells people an Event of a Service that no status tells.
    fn tell(&self, service: &ServiceName, event: Event) {
        let (reason, message) = (event.reason, event.message);
        tracing::warn!(%service, reason, message);
    }

    /// What the gateway of this process says of external addresses.
    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress>;

    /// The `sequence` of the latest batch: the one that a subscriber gets that is not behind.
    fn sequence(&self) -> u64;

    /// The problems there are now: what is held back, and why.
    fn problems(&self) -> Vec<Problem>;

    /// What the store still has to do before everything is read and written, a sentence each.
    fn outstanding(&self) -> Vec<String>;
}

/// The outcomes of several writes.
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
    /// A BGPPeer.
    BgpPeer(ClusterName),
}

impl WriteKey {
    /// What this write is about.
    pub fn of(write: &Write) -> Self {
        match write {
            Write::Service { name, .. } => Self::Service(name.clone()),
            Write::NodePorts { name, .. } => Self::NodePorts(name.clone()),
            Write::Pool { name, .. } => Self::Pool(ClusterName::clone(name)),
            Write::BgpPeer { name, .. } => Self::BgpPeer(ClusterName::clone(name)),
        }
    }

    /// As a problem names it.
    pub(crate) fn object(&self) -> String {
        match self {
            Self::Service(name) | Self::NodePorts(name) => format!("Service {name}"),
            Self::Pool(name) => format!("AddressPool {name}"),
            Self::BgpPeer(name) => format!("BGPPeer {name}"),
        }
    }
}

/// The outcome of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is written.
    Written,
    /// It did not begin, because a newer write of the same object took its place.
    Superseded,
    /// The object has changed since the decision was made, or is gone: decide again.
    Refused,
    /// The store rejects this form of the object, while it writes others. Trying again makes sense,
    /// but not soon.
    Rejected(String),
    /// As [`WriteOutcome::Rejected`], because of a node port that was asked for: another one may be
    /// free.
    Taken(String),
    /// This object could not be written now, while the store works otherwise: what it asks before
    /// it writes an object of this namespace (a webhook) does not answer.
    HeldUp(String),
    /// It could not be written now. Nothing is lost, and trying again makes sense.
    Failed(String),
}
