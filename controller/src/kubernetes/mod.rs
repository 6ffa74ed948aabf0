//! A store over an API server: watches in, patches out.
//!
//! Reading order:
//! 1. `api_document` is an object as the API server sends it. `watch` follows the objects of one kind,
//!    `restore_detection` lists them anew where the cluster was restored from a backup, and `revision`
//!    says up to which revision all of them are known;
//! 2. `object_cache` holds the latest version of each object (`service_record`: of a Service) and says
//!    what subscribers have to be told; `status` reads and makes the status of a Service;
//! 3. `cache_updates` puts into the cache what watches bring, `progress` says what has not been listed yet
//!    and which watch fails;
//! 4. `service_requests` says which requests write a decision; `write_queue` holds the writes that wait, in
//!    the order of a `fair_queue`; `writer` begins them, `write_objects` sends their requests, `answers` and
//!    `rights` class the answers; `event_recorder` sends Events and logs them (`event_log`); `finalizers`
//!    repairs finalizers and annotations that a crash or a person left wrong, each after a wait
//!    (`repair_queue`), takes over from controllers that are gone (`other_controllers`), and takes back what
//!    those have said (`contenders`); `ownership` says which controller has a Service, and `cluster_statuses`
//!    which one has the status of an object that all of them see (`write_statuses`);
//! 5. `reporter` writes the Lease of this gateway: how it is, and how its Services are
//!    (`outgoing_reports`), in the format of `gateway_report`, while no other process of this gateway does
//!    (`lease_turn`); `gateway_leases` and `gateways` read the Leases of
//!    all gateways, `gateway_lookup` reads one for a command. `fleet_watch` tells a gateway of the others and of their key (`known_fleet`), which
//!    `fleet_key` makes;
//! 6. `snapshot`: the cache on disk, `snapshot_writer`: the thread that writes it;
//! 7. `store`: all of it together; `store_context`: what its tasks share;
//! 8. `election` and `lease`: who may write; `leadership`: who leads, as far as this process knows;
//!    `leader_rights`: whether this process is allowed to do what a leader does; `settings`.
//!
//! Invariants:
//! - Nothing is synced before every kind has been listed once.
//! - Every write to a Service names the version of it that it was made from: a race is lost and
//!   never won by accident. Of the status of a pool or a BGPPeer only
//!   the first write of a controller does: it is made anew with every change.
//! - A Service of another provider is never written to.

mod answers;
mod api_document;
mod cache_updates;
mod cluster_statuses;
mod connect;
mod contenders;
mod election;
mod event_log;
mod event_recorder;
mod fair_queue;
mod finalizers;
mod fleet_key;
mod fleet_watch;
mod gateway_leases;
mod gateway_lookup;
mod gateway_report;
mod gateways;
mod known_fleet;
mod leader_rights;
mod leadership;
mod lease;
mod lease_turn;
mod object_cache;
mod object_metadata;
mod other_controllers;
mod outgoing_reports;
mod ownership;
mod peer_passwords;
mod progress;
mod repair_queue;
mod reporter;
mod restore_detection;
mod revision;
mod rights;
mod service_record;
mod service_requests;
mod settings;
mod snapshot;
mod snapshot_writer;
mod state_handover;
mod status;
mod store;
mod store_context;
mod traffic_events;
mod watch;
mod write_objects;
mod write_queue;
mod write_statuses;
mod writer;

pub use self::connect::{ConnectError, connect};
pub use self::gateway_lookup::{LeaseLookupError, LeaseWords, look_up};
pub use self::gateway_report::GatewaySelfReport;
pub use self::leadership::Leadership;
pub use self::lease::{Elector, lease_name};
pub use self::reporter::GatewayIdentity;
pub use self::settings::{KubernetesSettings, Reads};
pub use self::snapshot::Snapshot;
pub use self::store::KubernetesStore;
pub use kube::Client as Connection;
