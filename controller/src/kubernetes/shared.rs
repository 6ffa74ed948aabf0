//! What the tasks of a store work on.

use std::sync::Mutex;

use kube::Client;

use super::known::ObjectCache;
use super::outgoing::OutgoingReports;
use super::progress::Progress;
use super::rights::Rights;
use super::settings::KubernetesSettings;
use super::snapshot::Snapshot;
use super::strays::Strays;
use super::teller::Teller;
use super::write_queue::WriteQueue;
use crate::feed::Feed;

/// What the tasks of a store work on.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) settings: KubernetesSettings,
    pub(super) feed: Feed,
    /// Held while what came out of it is published, so that it is told in the order in which it
    /// was taken in.
    pub(super) known: Mutex<ObjectCache>,
    pub(super) progress: Mutex<Progress>,
    pub(super) strays: Strays,
    pub(super) write_queue: WriteQueue,
    pub(super) rights: Rights,
    pub(super) teller: Teller,
    pub(super) reports: OutgoingReports,
    /// Taken while `known` is held, so that it is written down in the order in which it was heard.
    pub(super) snapshot: Option<Mutex<Snapshot>>,
}
