//! Writes what a gateway says into its Lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_config::exchange::Report;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::view::GatewayRow;
use futures::FutureExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::gateways::{ANNOTATION, DURATION, LABEL, RENEW, encode, is_news};
use super::settings::REQUEST;
use crate::feed::lock;

/// Between two writes, at least; and how often it is looked whether the gateway is still as it was
/// said to be.
const PAUSE: Duration = Duration::from_secs(1);

/// What a gateway has to say of Services, until it is written.
#[derive(Debug, Default)]
pub(super) struct Reports {
    news: Mutex<BTreeMap<ServiceName, Report>>,
    changed: Notify,
}

impl Reports {
    /// Takes reports and does not wait.
    pub(super) fn take(&self, reports: Vec<(ServiceName, Option<Report>)>) {
        let mut news = lock(&self.news);
        let mut changed = false;
        for (name, report) in reports {
            changed |= match report.filter(is_news) {
                Some(report) => news.insert(name, report.clone()) != Some(report),
                None => news.remove(&name).is_some(),
            };
        }
        if changed {
            self.changed.notify_one();
        }
    }

    fn encode(&self, row: GatewayRow) -> String {
        encode(row, &lock(&self.news))
    }
}

/// What a gateway is called in the cluster, and how it is.
pub struct Identity {
    /// The namespace of its Lease.
    pub namespace: String,
    /// Its name.
    pub name: ClusterName,
    /// How it is now.
    pub row: Arc<dyn Fn() -> GatewayRow + Send + Sync>,
}

/// Keeps the Lease of a gateway until `stop`, and then says that it is gone.
pub(super) async fn keep(
    client: Client,
    reports: Arc<Reports>,
    identity: Identity,
    stop: CancellationToken,
) {
    let Identity {
        namespace,
        name,
        row,
    } = identity;
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let (mut written, mut at): (Option<(bool, String, usize)>, Option<Instant>) = (None, None);
    let mut fault = None;
    let mut dirty = true;
    loop {
        let now = row();
        let said = (now.ready, now.why.clone(), now.failed);
        let due = at.is_none_or(|at| at.elapsed() >= RENEW);
        if dirty || due || written.as_ref() != Some(&said) {
            dirty = false;
            let text = reports.encode(now);
            let error = write(&leases, &name, &text, DURATION).await.err();
            if error.is_none() {
                (written, at) = (Some(said), Some(Instant::now()));
            } else {
                dirty = true;
                metrics::counter!("fairway_store_errors_total", "operation" => "report")
                    .increment(1);
                if let Some(error) = error.as_ref().filter(|_| fault != error) {
                    tracing::warn!(error, "the cluster can't be told how this gateway is");
                }
            }
            fault = error;
        }
        let paused = stop.run_until_cancelled(tokio::time::sleep(PAUSE));
        if paused.await.is_none() {
            break;
        }
        let changed = std::pin::pin!(reports.changed.notified());
        // What was said meanwhile has left its mark.
        dirty |= changed.now_or_never().is_some();
    }
    let gone = GatewayRow {
        ready: false,
        why: "it has been stopped".to_owned(),
        ..row()
    };
    let text = encode(gone, &BTreeMap::new());
    // Where it does not come about the Lease runs out by itself.
    let _ = write(&leases, &name, &text, Duration::from_secs(1)).await;
}

/// Writes the Lease, and makes it where there is none.
async fn write(
    leases: &Api<Lease>,
    name: &ClusterName,
    text: &str,
    duration: Duration,
) -> Result<(), String> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": format!("fairway-gateway-{name}"),
            "labels": {LABEL.0: LABEL.1},
            "annotations": {ANNOTATION: text},
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": duration.as_secs(),
            "renewTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(
                jiff::Timestamp::now(),
            ),
        },
    });
    let parameters = PatchParams::apply("fairway-gateway").force();
    let lease_name = format!("fairway-gateway-{name}");
    let patch = Patch::Apply(lease);
    let answer = leases.patch(&lease_name, &parameters, &patch);
    match tokio::time::timeout(REQUEST, answer).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server did not answer in time".to_owned()),
    }
}
