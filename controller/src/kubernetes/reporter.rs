//! Writes the Lease of this gateway: how it is, and how its Services and external addresses are.
//!
//! One write reports all of them. It is made at most once a second where something has changed
//! that others have to know soon, and else with the next renewal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::names::ClusterName;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::gateway_report::{Annotations, GATEWAY, GatewaySelfReport, SERVICES, encode};
use super::gateways::{DURATION, LABEL, RENEW};
use super::outgoing_reports::{LeaseContents, held_back};
use super::settings::REQUEST;
use super::store_context::StoreContext;
use crate::feed::lock;

/// The shortest pause between two writes, and how often it is checked whether the gateway has
/// changed.
const PAUSE: Duration = Duration::from_secs(1);

/// The name of a gateway in the cluster, and how it is.
pub struct GatewayIdentity {
    /// The namespace of its Lease.
    pub namespace: String,
    /// Its name.
    pub name: ClusterName,
    /// How it is now. Up to which revision it has applied the store is known by its reports.
    pub status: Arc<dyn Fn() -> GatewaySelfReport + Send + Sync>,
    /// Cancelled when the gateway is told to stop, which is reported at once.
    pub stopping: CancellationToken,
}

/// Renews the Lease of a gateway until `stop`, and reports then that it is gone. Where another process of the gateway
/// has taken over, that one does, and this one says nothing.
pub(super) async fn keep(
    shared: Arc<StoreContext>,
    identity: GatewayIdentity,
    stop: CancellationToken,
) {
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), &identity.namespace);
    let mut keeper = LeaseReporter {
        shared,
        leases,
        identity,
        written: None,
        answered: None,
        fault: None,
    };
    loop {
        keeper.write_if_due().await;
        let stopping = keeper.identity.stopping.clone();
        let said_goodbye = keeper.written.as_ref().is_some_and(|it| it.1.stopping);
        let turn = &keeper.shared.lease_turn;
        tokio::select! {
            () = stop.cancelled() => break,
            () = turn.gone() => return,
            () = stopping.cancelled(), if !said_goodbye && turn.is_own() => {}
            () = keeper.news() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    if keeper.shared.lease_turn.is_own() {
        keeper.say_goodbye().await;
    }
}

struct LeaseReporter {
    shared: Arc<StoreContext>,
    leases: Api<Lease>,
    identity: GatewayIdentity,
    /// When the Lease was last written, and what it said of the gateway.
    written: Option<(Instant, GatewaySelfReport)>,
    /// Since when every write has succeeded.
    answered: Option<Instant>,
    fault: Option<String>,
}

impl LeaseReporter {
    /// Waits until there is something urgent to report, and the last write is [`PAUSE`] ago.
    async fn news(&self) {
        self.shared.reports.changed().await;
        if let Some((at, _)) = &self.written {
            tokio::time::sleep_until((*at + PAUSE).into()).await;
        }
    }

    async fn write_if_due(&mut self) {
        if !self.shared.lease_turn.is_own() {
            return;
        }
        let mut status = (self.identity.status)();
        status.stopping |= self.identity.stopping.is_cancelled();
        if let Some(answered) = self.answered {
            let stale = lock(&self.shared.progress).stale(answered, Instant::now());
            status.behind = status.behind.or(stale);
        }
        let is_due = self.written.as_ref().is_none_or(|(at, said)| {
            at.elapsed() >= RENEW
                || (said.row.ready, &said.row.why, said.row.failed)
                    != (status.row.ready, &status.row.why, status.row.failed)
                || (said.stopping, &said.behind) != (status.stopping, &status.behind)
                || (&said.addresses, &said.row.draining)
                    != (&status.addresses, &status.row.draining)
                || !said.has_like_sessions(&status)
        });
        if !is_due && self.fault.is_none() && !self.shared.reports.is_urgent() {
            return;
        }
        let LeaseContents {
            mut reports,
            addresses,
            revision,
        } = self.shared.reports.latest();
        status.applied = revision;
        for name in lock(&self.shared.cache).held_back_services() {
            let report = held_back(&self.identity.name, reports.get(&name));
            reports.insert(name, Arc::new(report));
        }
        let annotations = encode(status.clone(), &reports, &addresses);
        let write = self.write(&annotations, DURATION);
        let Some(written) = self.shared.lease_turn.write(write).await else {
            return;
        };
        let error = written.err();
        match &error {
            None => {
                self.written = Some((Instant::now(), status));
                self.answered.get_or_insert_with(Instant::now);
            }
            Some(error) => {
                self.answered = None;
                metrics::counter!("fairway_store_errors_total", "operation" => "report")
                    .increment(1);
                if self.fault.as_ref() != Some(error) {
                    tracing::warn!(error, "the cluster can't be told how this gateway is");
                }
            }
        }
        self.fault = error;
    }

    async fn say_goodbye(&self) {
        let mut status = (self.identity.status)();
        status.stopping = true;
        status.row.ready = false;
        status.row.why = "it has been stopped".to_owned();
        let annotations = encode(status, &BTreeMap::new(), &BTreeMap::new());
        // Where this fails the Lease runs out by itself.
        let _ = self.write(&annotations, Duration::from_secs(1)).await;
    }

    /// Writes the Lease, and makes it where there is none.
    async fn write(&self, annotations: &Annotations, duration: Duration) -> Result<(), String> {
        let name = format!("fairway-gateway-{}", self.identity.name);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": {LABEL.0: LABEL.1},
                "annotations": {
                    GATEWAY: annotations.gateway,
                    SERVICES: annotations.services,
                },
            },
            "spec": {
                "holderIdentity": self.identity.name,
                "leaseDurationSeconds": duration.as_secs(),
                "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
                    jiff::Timestamp::now(),
                ),
            },
        });
        let parameters = PatchParams::apply("fairway-gateway").force();
        let patch = Patch::Apply(lease);
        let answer = self.leases.patch(&name, &parameters, &patch);
        match tokio::time::timeout(REQUEST, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API server did not answer in time".to_owned()),
        }
    }
}
