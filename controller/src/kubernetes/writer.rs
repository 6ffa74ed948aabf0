//! Begins the writes of the queue and runs them beside each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::exchange::Write;
use fairway_config::object::Kind;
use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered};
use tokio::sync::mpsc;

use super::answers::{Answer, insist, sign_of};
use super::cluster_statuses;
use super::fair_queue::{Ticket, Urgency};
use super::settings::{REQUEST, key_of};
use super::store_context::StoreContext;
use super::write_queue::WriteJob;
use crate::feed::lock;
use crate::store::{Outcomes, WriteKey};

/// The pauses after which a request is sent again for which the API server is too busy each time.
const PAUSES: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(1),
];

impl StoreContext {
    /// Queues these writes. Those that give an address or take one back are urgent.
    pub(super) fn take_writes(&self, writes: Vec<Write>, since: Option<Instant>) -> Outcomes {
        let (reply, outcomes) = mpsc::channel(writes.len().max(1));
        for write in writes {
            let reply = reply.clone();
            let (key, part) = match &write {
                Write::Service { name, .. } => (key_of(name), 0),
                Write::NodePorts { name, .. } => (key_of(name), 1),
                Write::Pool { name, .. } => (cluster_statuses::key_of(Kind::AddressPool, name), 0),
                Write::BgpPeer { name, .. } => (cluster_statuses::key_of(Kind::BgpPeer, name), 0),
            };
            let urgency = match &write {
                Write::Service { held, .. } => {
                    let cache = lock(&self.cache);
                    let record = cache.service(&key);
                    match record.is_some_and(|it| it.stored.held.addresses == held.addresses) {
                        true => Urgency::Usual,
                        false => Urgency::Urgent,
                    }
                }
                Write::NodePorts { .. } => Urgency::Urgent,
                Write::Pool { .. } | Write::BgpPeer { .. } => Urgency::Usual,
            };
            let job = WriteJob::Write {
                write,
                since,
                reply,
            };
            self.write_queue.push(key, part, urgency, job);
        }
        let outcomes = stream::unfold(outcomes, |mut outcomes| async {
            Some((outcomes.recv().await?, outcomes))
        });
        outcomes.boxed()
    }

    /// Runs the jobs of the write queue, for ever.
    pub(super) async fn run_writer(&self) {
        let mut running = FuturesUnordered::new();
        loop {
            let next_late = self.write_queue.begin(|ticket, job| {
                running.push(self.perform(ticket, job));
            });
            let late = async {
                match next_late {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.write_queue.came.notified() => {}
                Some(()) = running.next(), if !running.is_empty() => {}
                () = late => {}
            }
        }
    }

    async fn perform(&self, ticket: Ticket, job: WriteJob) {
        match job {
            WriteJob::Write {
                write,
                since,
                reply,
            } => {
                let key = WriteKey::of(&write);
                let outcome = match write {
                    Write::Service {
                        name,
                        version,
                        held,
                        status,
                    } => self.write_service(name, version, held, status, since).await,
                    Write::NodePorts {
                        name,
                        version,
                        numbers,
                    } => self.write_node_ports(name, version, &numbers).await,
                    write @ (Write::Pool { .. } | Write::BgpPeer { .. }) => {
                        self.write_cluster_status(write).await
                    }
                };
                // The channel has room for every outcome. Where the receiver is gone nobody needs
                // it.
                let _ = reply.try_send((key, outcome));
            }
            WriteJob::Repair(key, waited) => self.repair(key, waited).await,
        }
        self.write_queue.ended(ticket);
    }

    /// Sends a request about an object of this namespace, and sends it again where the API server
    /// was too busy. Nothing where this process does not lead any more.
    pub(super) async fn request<T, F>(
        &self,
        namespace: &Arc<str>,
        request: impl Fn() -> F,
    ) -> Option<Answer<T>>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let send = || async {
            if !self.settings.leadership.holds() {
                return None;
            }
            let answer = tokio::time::timeout(REQUEST, request()).await;
            self.write_queue.answered(namespace, sign_of(&answer));
            Some(answer)
        };
        insist(&PAUSES, send).await
    }
}
