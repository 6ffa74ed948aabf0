//! Reads the Leases of all gateways, and removes the Leases of gateways that are gone for good.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::names::ClusterName;
use fairway_config::time::Timestamp;
use futures::StreamExt as _;
use futures::future::{Fuse, FutureExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::watcher::{Config, Event};

use super::gateway_report::{Annotations, GATEWAY, SERVICES};
use super::gateways::{GatewayLeases, LABEL, gateway_of};
use super::restore_detection::{News, watched};
use super::settings::{REQUEST, WATCH_SECONDS, now};
use super::store_context::StoreContext;
use crate::feed::lock;

/// How often it is checked which gateways have not renewed their Lease.
const PAUSE: Duration = Duration::from_secs(1);

/// How often one Lease of a gateway that is gone for good is removed.
const SWEEP: Duration = Duration::from_secs(10);

/// Watches the Leases of all gateways, for ever.
pub(super) async fn listen(shared: &StoreContext, namespace: &str) {
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), namespace);
    let config = Config {
        timeout: Some(WATCH_SECONDS),
        label_selector: Some(format!("{}={}", LABEL.0, LABEL.1)),
        ..Config::default()
    };
    let mut events = pin!(watched(leases, config));
    let mut gateways = GatewayLeases::default();
    let mut listed: Option<Vec<ClusterName>> = None;
    let mut tick = tokio::time::interval(PAUSE);
    let mut marks: BTreeMap<ClusterName, Preconditions> = BTreeMap::new();
    let mut swept = Instant::now();
    // While the watch fails, a gateway may renew its Lease unseen: it has more time then.
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
                let clocks = (Instant::now(), now());
                let changes = gateways.expire(clocks.0, deaf);
                shared.publish(changes);
                if deaf {
                    continue;
                }
                // One at a time, beside the events of the watch.
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
                gateways.listed();
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

/// Removes the Lease of a gateway that is gone for good, if it has not changed since it was last
/// seen.
async fn remove(shared: &StoreContext, name: ClusterName, mark: Preconditions) {
    if !shared.settings.leadership.holds() {
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
        // The gateway has come back, or the Lease has been removed already.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
        answer => {
            metrics::counter!("fairway_store_errors_total", "operation" => "lease").increment(1);
            tracing::warn!(gateway = %name, ?answer, "its Lease can't be removed");
        }
    }
}

fn hear(
    gateways: &mut GatewayLeases,
    name: &ClusterName,
    lease: &Lease,
) -> Vec<fairway_config::exchange::Change> {
    let text = |key: &str| lease.annotations().get(key).cloned().unwrap_or_default();
    let annotations = Annotations {
        gateway: text(GATEWAY),
        services: text(SERVICES),
    };
    let renewed = lease.spec.as_ref().and_then(|it| it.renew_time.as_ref());
    let renewed = renewed.map(|it| Timestamp(it.0.as_second()));
    gateways.hear(name, annotations, renewed, (Instant::now(), now()))
}
