//! Writes what a gateway says into its Lease, and reads the Leases of all of them.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_config::exchange::Report;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::time::Timestamp;
use fairway_config::view::GatewayRow;
use futures::StreamExt as _;
use futures::future::{Fuse, FutureExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{Config, Event};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::gateways::{ANNOTATION, DURATION, Gateways, LABEL, RENEW, encode, is_news};
use super::rewind::{News, watched};
use super::{REQUEST, Shared, WATCH_SECONDS, now};
use crate::feed::lock;

/// Between two writes, at least; and how often it is looked whether the gateway is still as it was
/// said to be.
const PAUSE: Duration = Duration::from_secs(1);

/// How often one Lease is removed that nobody will renew any more.
const SWEEP: Duration = Duration::from_secs(10);

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

/// Hears of all gateways, for ever.
pub(super) async fn listen(shared: &Shared, namespace: &str) {
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), namespace);
    let config = Config {
        timeout: Some(WATCH_SECONDS),
        label_selector: Some(format!("{}={}", LABEL.0, LABEL.1)),
        ..Config::default()
    };
    let mut events = pin!(watched(leases, config));
    let mut gateways = Gateways::default();
    let mut listed: Option<Vec<ClusterName>> = None;
    let mut tick = tokio::time::interval(PAUSE);
    let mut marks: BTreeMap<ClusterName, Preconditions> = BTreeMap::new();
    let mut swept = Instant::now();
    // Whoever hears nothing can't say who is silent.
    let mut deaf = false;
    let mut removal = pin!(Fuse::terminated());
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Some(event) => event,
                None => return,
            },
            () = &mut removal => continue,
            _ = tick.tick() => {
                if deaf {
                    continue;
                }
                let clocks = (Instant::now(), now());
                let changes = gateways.expire(clocks.0);
                shared.publish(changes);
                // One at a time, while events are heard.
                if swept.elapsed() >= SWEEP {
                    swept = Instant::now();
                    let name = gateways.abandoned(clocks).into_iter().next();
                    let mark = name.as_ref().and_then(|name| marks.get(name)).cloned();
                    if let Some((name, mark)) = name.zip(mark) {
                        removal.set(remove(shared, name, mark).fuse());
                    }
                }
                continue;
            }
        };
        let event = match event {
            Err(error) => {
                let why = format!("leases can't be watched: {error}");
                lock(&shared.progress).fails_gateways(why);
                deaf = true;
                continue;
            }
            Ok(News::Alive) => None,
            Ok(News::Event(event)) => Some(event),
        };
        // A list that has begun has not succeeded yet.
        if !matches!(event, Some(Event::Init)) {
            lock(&shared.progress).works_gateways();
            if std::mem::take(&mut deaf) {
                gateways.hear_again(Instant::now());
            }
        }
        let Some(event) = event else { continue };
        let changes = match event {
            Event::Init => {
                listed = Some(Vec::new());
                continue;
            }
            Event::InitDone => {
                let listed = listed.take().unwrap_or_default();
                marks.retain(|name, _| listed.contains(name));
                let changes = gateways.retain(&listed);
                shared.heard_gateways();
                changes
            }
            Event::InitApply(lease) | Event::Apply(lease) => {
                let name = gateway_of(&lease);
                if let Some(listed) = &mut listed {
                    listed.push(Arc::clone(&name));
                }
                let mark = Preconditions {
                    uid: lease.uid(),
                    resource_version: lease.resource_version(),
                };
                marks.insert(Arc::clone(&name), mark);
                hear(&mut gateways, &name, &lease)
            }
            Event::Delete(lease) => {
                marks.remove(&gateway_of(&lease));
                gateways.forget(&gateway_of(&lease))
            }
        };
        shared.publish(changes);
    }
}

/// Removes the Lease of a gateway that is gone for good, if it is still as it was last seen.
async fn remove(shared: &Shared, name: ClusterName, mark: Preconditions) {
    if !shared.settings.term.holds() {
        return;
    }
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), &shared.settings.namespace);
    let parameters = DeleteParams {
        preconditions: Some(mark),
        ..DeleteParams::default()
    };
    let lease = format!("fairway-gateway-{name}");
    match tokio::time::timeout(REQUEST, leases.delete(&lease, &parameters)).await {
        Ok(Ok(_)) => tracing::info!(gateway = %name, "gone for a day: its Lease is removed"),
        // It has come back, or somebody else was faster.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
        answer => {
            metrics::counter!("fairway_store_errors_total", "operation" => "lease").increment(1);
            tracing::warn!(gateway = %name, ?answer, "its Lease can't be removed");
        }
    }
}

fn gateway_of(lease: &Lease) -> ClusterName {
    let name = lease.name_any();
    name.strip_prefix("fairway-gateway-")
        .unwrap_or(&name)
        .into()
}

fn hear(
    gateways: &mut Gateways,
    name: &ClusterName,
    lease: &Lease,
) -> Vec<fairway_config::exchange::Change> {
    let text = lease.annotations().get(ANNOTATION);
    let Some(text) = text else { return Vec::new() };
    let renewed = lease.spec.as_ref().and_then(|it| it.renew_time.as_ref());
    let renewed = renewed.map(|it| Timestamp(it.0.as_second()));
    match gateways.hear(name, text, renewed, (Instant::now(), now())) {
        Ok(changes) => changes,
        Err(error) => {
            tracing::warn!(gateway = %name, %error, "what a gateway says can't be read");
            Vec::new()
        }
    }
}
