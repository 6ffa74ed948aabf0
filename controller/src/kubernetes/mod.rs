//! A store over an API server: watches in, patches out.
//!
//! Reading order:
//! 1. `document` is an object as it is sent, `watch` hears of those of one kind, also when
//!    their past changes (`rewind`);
//! 2. `known` knows the latest of each and what subscribers hear of it, `status` reads and makes
//!    the status of a Service;
//! 3. `hear` takes in what watches see, `progress` says what is still to be heard and what is wrong;
//! 4. `write` says which requests make a decision last, `send` sends them at a `pace` that the API
//!    server takes, `teller` tells people of them, `strays` puts right what a crash or a person left
//!    undone;
//! 5. `gateways` and `reporter`: what gateways say;
//! 6. `snapshot`: what is known, on disk;
//! 7. `store`: all of it together;
//! 8. `election` and `lease`: who may write.
//!
//! Invariants:
//! - Nothing is synced before every kind has been listed once.
//! - Every write to a Service names the version of it that it was made from: a race is lost and
//!   never won by accident. A pool's status does not: it is made anew with every change.
//! - A Service of another provider is never written to.

mod connect;
mod document;
mod election;
mod gateways;
mod hear;
mod known;
mod lease;
mod pace;
mod progress;
mod reporter;
mod rewind;
mod send;
mod snapshot;
mod status;
mod store;
mod strays;
mod teller;
mod watch;
mod write;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_config::names::ServiceName;
use fairway_config::object::{Kind, ObjectKey};
use fairway_config::time::Timestamp;

pub use self::connect::{ConnectError, connect};
pub use self::lease::{Elector, Term};
pub use self::reporter::Identity;
pub use self::snapshot::Snapshot;
pub use self::store::KubernetesStore;
use self::store::Shared;
pub use kube::Client as Connection;

/// After so long without a word a connection counts as dead, in seconds. The API server ends a
/// watch after this time by itself, and the next one goes on where it ended.
const WATCH_SECONDS: u32 = 60;

/// How long a request may take. Shorter than what a leader has left of its lease when it may still
/// write, so that no request of a former leader is on its way when the next one begins.
const REQUEST: Duration = Duration::from_secs(4);

/// How a [`KubernetesStore`] is set up.
#[derive(Clone, Debug)]
pub struct KubernetesSettings {
    /// `spec.loadBalancerClass` of the Services that are ours.
    pub class: Arc<str>,
    /// Whether those without a class are ours, too.
    pub default_class: bool,
    /// What is read.
    pub reads: Reads,
    /// Whether this process leads, without which nothing is written.
    pub term: Term,
    /// Fairway's own namespace, in which gateways have their Leases.
    pub namespace: String,
    /// This process' own name, in Events.
    pub instance: Arc<str>,
}

/// What is read from the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// What a controller decides on: Services, AddressPools, the labels of Namespaces, and the
    /// addresses of Nodes.
    Controller,
    /// What a gateway serves: Services, EndpointSlices, Nodes and AddressPools.
    Gateway,
}

impl Reads {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Controller => &[
                Kind::Namespace,
                Kind::Node,
                Kind::AddressPool,
                Kind::Service,
            ],
            Self::Gateway => &[
                Kind::Node,
                Kind::AddressPool,
                Kind::Service,
                Kind::EndpointSlice,
            ],
        }
    }
}

fn key_of(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: Some(Arc::clone(&name.namespace)),
        name: Arc::clone(&name.name),
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}
