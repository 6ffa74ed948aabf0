//! What the tasks of a store share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fairway_config::exchange::Write;
use fairway_config::object::ObjectKey;
use kube::Client;
use tokio::sync::Notify;

use super::event_recorder::EventRecorder;
use super::known_fleet::KnownFleet;
use super::lease_turn::LeaseTurn;
use super::object_cache::ObjectCache;
use super::other_controllers::OtherControllers;
use super::outgoing_reports::OutgoingReports;
use super::progress::WatchProgress;
use super::repair_queue::RepairQueue;
use super::rights::Rights;
use super::settings::KubernetesSettings;
use super::snapshot::Snapshot;
use super::write_queue::WriteQueue;
use crate::feed::Feed;

/// What the tasks of a store work on.
pub(super) struct StoreContext {
    pub(super) client: Client,
    pub(super) settings: KubernetesSettings,
    pub(super) feed: Feed,
    /// Locked until the changes that come of it are published, so that subscribers get them in the
    /// right order.
    pub(super) cache: Mutex<ObjectCache>,
    pub(super) progress: Mutex<WatchProgress>,
    pub(super) repairs: RepairQueue,
    /// Other controllers whose names are on Services.
    pub(super) other_controllers: Mutex<OtherControllers>,
    /// The latest statuses of AddressPools and BGPPeers that were left to another controller.
    pub(super) left_statuses: Mutex<BTreeMap<ObjectKey, Write>>,
    pub(super) write_queue: Arc<WriteQueue>,
    pub(super) rights: Rights,
    pub(super) event_recorder: EventRecorder,
    pub(super) reports: OutgoingReports,
    /// Whether this process writes the Lease of its gateway.
    pub(super) lease_turn: LeaseTurn,
    /// A BGPPeer has come, gone or changed.
    pub(super) bgp_peers_changed: Notify,
    /// What a gateway knows of the others.
    pub(super) fleet: Mutex<KnownFleet>,
    /// Locked while `cache` is locked, so that it is written in the same order.
    pub(super) snapshot: Option<Mutex<Snapshot>>,
}
