//! A store over an API server: watches in, patches out.
//!
//! Reading order:
//! 1. `document` is an object as it is sent, `watch` hears of those of one kind, also when
//!    their past changes (`rewind`), and up to where (`revision`);
//! 2. `known` knows the latest of each and what subscribers hear of it, `status` reads and makes
//!    the status of a Service;
//! 3. `hear` takes in what watches see, `progress` says what is still to be heard and what is wrong;
//! 4. `write` says which requests make a decision last; `fair_queue` says which write begins next, of
//!    those in the `write_queue`, and `writer` begins it; `send` sends its requests and judges the
//!    `answers`, by what its role allows (`rights`); `teller` tells people of them, `finalizers` puts
//!    right what a crash or a person left undone, when its time has come (`strays`);
//! 5. `reporter` says how a gateway is, and how its Services are (`outgoing`), as `gateway_report` has
//!    it; `gateway_leases` and `gateways` hear of all of them;
//! 6. `snapshot`: what is known, on disk;
//! 7. `store`: all of it together, over what is `shared`;
//! 8. `election` and `lease`: who may write; `leadership`: what is known of it, `leader_rights`: whether
//!    this process could; `settings`: what all of it goes by.
//!
//! Invariants:
//! - Nothing is synced before every kind has been listed once.
//! - Every write to a Service names the version of it that it was made from: a race is lost and
//!   never won by accident. A pool's status does not: it is made anew with every change.
//! - A Service of another provider is never written to.

mod answers;
mod connect;
mod document;
mod election;
mod fair_queue;
mod finalizers;
mod gateway_leases;
mod gateway_report;
mod gateways;
mod hear;
mod known;
mod leader_rights;
mod leadership;
mod lease;
mod outgoing;
mod progress;
mod reporter;
mod revision;
mod rewind;
mod rights;
mod send;
mod settings;
mod shared;
mod snapshot;
mod status;
mod store;
mod strays;
mod teller;
mod watch;
mod write;
mod write_queue;
mod writer;

pub use self::connect::{ConnectError, connect};
pub use self::gateway_report::GatewaySelfReport;
pub use self::leadership::Leadership;
pub use self::lease::{Elector, lease_name};
pub use self::reporter::GatewayIdentity;
pub use self::settings::{KubernetesSettings, Reads};
pub use self::snapshot::Snapshot;
pub use self::store::KubernetesStore;
pub use kube::Client as Connection;
