//! Writes what a gateway says into its Lease.
//!
//! One write tells of all Services: soon where something has changed that others have to know, at most
//! once a second, and else with the next renewal.

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
use super::outgoing_reports::held_back;
use super::settings::REQUEST;
use super::store_context::StoreContext;
use crate::feed::lock;

/// Between two writes, at least; and how often it is looked whether the gateway is still as it was
/// said to be.
const PAUSE: Duration = Duration::from_secs(1);

/// What a gateway is called in the cluster, and how it is.
pub struct GatewayIdentity {
    /// The namespace of its Lease.
    pub namespace: String,
    /// Its name.
    pub name: ClusterName,
    /// How it is now. What it has applied is known by its reports.
    pub status: Arc<dyn Fn() -> GatewaySelfReport + Send + Sync>,
    /// Cancelled when it is told to stop: that is said at once.
    pub stopping: CancellationToken,
}

/// Keeps the Lease of a gateway until `stop`, and then says that it is gone.
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
        tokio::select! {
            () = stop.cancelled() => break,
            () = stopping.cancelled(), if !said_goodbye => {}
            () = keeper.news() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    keeper.say_goodbye().await;
}

struct LeaseReporter {
    shared: Arc<StoreContext>,
    leases: Api<Lease>,
    identity: GatewayIdentity,
    /// When the Lease was last written, and how the gateway was said to be.
    written: Option<(Instant, GatewaySelfReport)>,
    /// Since when every write has come about.
    answered: Option<Instant>,
    fault: Option<String>,
}

impl LeaseReporter {
    /// Waits until there is something urgent to say, and the last write is a while ago.
    async fn news(&self) {
        self.shared.reports.changed().await;
        if let Some((at, _)) = &self.written {
            tokio::time::sleep_until((*at + PAUSE).into()).await;
        }
    }

    async fn write_if_due(&mut self) {
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
        });
        if !is_due && self.fault.is_none() && !self.shared.reports.is_urgent() {
            return;
        }
        let (mut reports, applied) = self.shared.reports.latest();
        status.applied = applied;
        for name in lock(&self.shared.cache).held_back_services() {
            let report = held_back(&self.identity.name, reports.get(&name));
            reports.insert(name, Arc::new(report));
        }
        let annotations = encode(status.clone(), &reports);
        let error = self.write(&annotations, DURATION).await.err();
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
        let annotations = encode(status, &BTreeMap::new());
        // Where it does not come about the Lease runs out by itself.
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
