//! A store over an API server: watches in, patches out.
//!
//! Reading order:
//! 1. `document` is an object as it is sent, `watch` hears of those of one kind, also when
//!    their past changes (`rewind`), and up to where (`revision`);
//! 2. `known` knows the latest of each and what subscribers hear of it, `status` reads and makes
//!    the status of a Service;
//! 3. `hear` takes in what watches see, `progress` says what is still to be heard and what is wrong;
//! 4. `write` says which requests make a decision last, `send` sends them at a `pace` that the API
//!    server takes and its role allows (`rights`), `teller` tells people of them, `finalizers` puts
//!    right what a crash or a person left undone, one after the other (`strays`);
//! 5. `reporter` says how a gateway is, and how its Services are (`outgoing`), as `gateway_report` has
//!    it; `gateway_leases` and `gateways` hear of all of them;
//! 6. `snapshot`: what is known, on disk;
//! 7. `store`: all of it together, over what is `shared`;
//! 8. `election`, `lease` and `term`: who may write; `settings`: what all of it goes by.
//!
//! Invariants:
//! - Nothing is synced before every kind has been listed once.
//! - Every write to a Service names the version of it that it was made from: a race is lost and
//!   never won by accident. A pool's status does not: it is made anew with every change.
//! - A Service of another provider is never written to.

mod connect;
mod document;
mod election;
mod finalizers;
mod gateway_leases;
mod gateway_report;
mod gateways;
mod hear;
mod known;
mod lease;
mod outgoing;
mod pace;
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
mod term;
mod watch;
mod write;

pub use self::connect::{ConnectError, connect};
pub use self::gateway_report::GatewaySelfReport;
pub use self::lease::Elector;
pub use self::reporter::GatewayIdentity;
pub use self::settings::{KubernetesSettings, Reads};
pub use self::snapshot::Snapshot;
pub use self::store::KubernetesStore;
pub use self::term::Term;
pub use kube::Client as Connection;
