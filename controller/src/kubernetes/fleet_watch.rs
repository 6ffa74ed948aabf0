//! Watches for a gateway who else is in its fleet (the Leases of gateways) and which key they have (a Secret).

use std::pin::pin;
use std::time::Duration;

use fairway_config::exchange::{Change, FleetKey};
use fairway_config::names::ClusterName;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use tokio::time::Instant;

use super::gateway_report::{GATEWAY, decode_gateway};
use super::gateways::{LABEL, gateway_of};
use super::known_fleet::KnownFleet;
use super::restore_detection::{News, watched};
use super::settings::WATCH_SECONDS;
use super::store_context::StoreContext;
use crate::feed::lock;

/// How long after this gateway has seen its own Lease all others have seen it.
const SEEN: Duration = Duration::from_secs(2);

/// The Secret with the fleet's key, in Fairway's own namespace.
pub(super) const SECRET: &str = "fairway-fleet";

/// Where in the Secret it is.
pub(super) const KEY: &str = "key";

impl StoreContext {
    /// Takes in something new of the fleet, and tells subscribers.
    fn note_fleet(&self, act: impl FnOnce(&mut KnownFleet) -> Vec<Change>) {
        // Locked until they are told, so that the key does not overtake a member.
        let mut fleet = lock(&self.fleet);
        let changes = act(&mut fleet);
        if changes.is_empty() {
            return;
        }
        changes.iter().for_each(log);
        if let Some(snapshot) = &self.snapshot {
            let mut snapshot = lock(snapshot);
            let file = fleet.file(snapshot.is_private());
            snapshot.put_fleet(file);
        }
        self.publish(changes);
    }

    /// Uses what an earlier process knew of the fleet.
    pub(super) fn recall_fleet(&self) {
        let snapshot = self.snapshot.as_ref();
        let Some(file) = snapshot.and_then(|snapshot| lock(snapshot).recall_fleet()) else {
            return;
        };
        self.note_fleet(|fleet| fleet.recall(&file));
    }
}

fn log(change: &Change) {
    match change {
        Change::Member(gateway, Some(member)) => {
            let addresses = member.addresses.iter().map(ToString::to_string);
            let addresses = addresses.collect::<Vec<_>>().join(",");
            tracing::info!(%gateway, addresses, "another gateway is known");
        }
        Change::Member(gateway, None) => {
            tracing::info!(%gateway, "the Lease of another gateway is gone");
        }
        Change::FleetKey(_) => tracing::info!("the key of the fleet is known"),
        _ => {}
    }
}

/// Watches the Leases of the other gateways, for ever.
pub(super) async fn members(shared: &StoreContext) {
    let own = ClusterName::clone(&shared.settings.instance);
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), &shared.settings.namespace);
    let config = Config {
        timeout: Some(WATCH_SECONDS),
        label_selector: Some(format!("{}={}", LABEL.0, LABEL.1)),
        ..Config::default()
    };
    let mut events = pin!(watched(leases, config));
    let (mut is_known, mut known_at): (bool, Option<Instant>) = (false, None);
    loop {
        let known = async {
            match known_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = events.next() => event,
            () = known => {
                (is_known, known_at) = (true, None);
                shared.note_fleet(KnownFleet::known);
                continue;
            }
        };
        let Some(event) = event else { return };
        let event = match event {
            Err(error) => {
                let why = format!("leases can't be watched: {error}");
                lock(&shared.progress).fails_gateways(why);
                continue;
            }
            // A list that has begun has not succeeded yet.
            Ok(News::Event(Event::Init)) => {
                lock(&shared.fleet).begin();
                continue;
            }
            Ok(event) => event,
        };
        lock(&shared.progress).works_gateways();
        let News::Event(event) = event else { continue };
        shared.note_fleet(|fleet| match event {
            Event::Init => Vec::new(),
            Event::InitDone => fleet.end(),
            // A gateway is believed of itself alone: the Lease says by its name whose it is.
            Event::InitApply(lease) | Event::Apply(lease) => {
                let name = gateway_of(&lease);
                let annotation = lease.annotations().get(GATEWAY);
                let annotation = annotation.map_or("", String::as_str);
                if name != own {
                    return fleet.there(&name, annotation);
                }
                if !is_known && known_at.is_none() && says_where(annotation) {
                    known_at = Some(Instant::now() + SEEN);
                }
                Vec::new()
            }
            Event::Delete(lease) => fleet.gone(&gateway_of(&lease)),
        });
    }
}

/// Watches the Secret with the key, for ever.
pub(super) async fn key(shared: &StoreContext) {
    let secrets: Api<Secret> = Api::namespaced(shared.client.clone(), &shared.settings.namespace);
    let config = Config {
        timeout: Some(WATCH_SECONDS),
        field_selector: Some(format!("metadata.name={SECRET}")),
        ..Config::default()
    };
    // The role names this one Secret, so the version of all of them can't be asked for.
    let mut events = pin!(watcher(secrets, config).default_backoff());
    let mut fault: Option<String> = None;
    while let Some(event) = events.next().await {
        let secret = match event {
            Err(error) => {
                let why = error.to_string();
                if fault.as_ref() != Some(&why) {
                    tracing::warn!(
                        secret = SECRET,
                        why,
                        "can't be watched; the key stays what it was"
                    );
                    fault = Some(why);
                }
                continue;
            }
            Ok(Event::InitApply(secret) | Event::Apply(secret)) => secret,
            Ok(Event::Init) => continue,
            Ok(Event::InitDone | Event::Delete(_)) => {
                fault = None;
                continue;
            }
        };
        fault = None;
        match read(&secret) {
            Ok(Some(key)) => shared.note_fleet(|fleet| fleet.set_key(key)),
            // The controller that leads is about to make one.
            Ok(None) => {}
            Err(length) => tracing::warn!(
                secret = SECRET,
                length,
                "its key does not have {} bytes, and is not used",
                FleetKey::LENGTH
            ),
        }
    }
}

/// Whether a gateway says at which addresses others may speak to it.
fn says_where(annotation: &str) -> bool {
    decode_gateway(annotation).is_ok_and(|told| !told.addresses.is_empty())
}

/// The key in a Secret; nothing: there is none yet. The error is its length, where that is wrong.
pub(super) fn read(secret: &Secret) -> Result<Option<FleetKey>, usize> {
    let data = secret.data.as_ref();
    let Some(bytes) = data.and_then(|data| data.get(KEY)) else {
        return Ok(None);
    };
    match <[u8; FleetKey::LENGTH]>::try_from(&*bytes.0) {
        Ok(bytes) => Ok(Some(FleetKey::new(bytes))),
        Err(_) => Err(bytes.0.len()),
    }
}
