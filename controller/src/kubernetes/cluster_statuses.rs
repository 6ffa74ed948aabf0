//! The statuses of objects that all controllers of a cluster see: AddressPools and BGPPeers.
//!
//! Such an object has no class, so the controllers of two installs would write its status in turn. As with Services
//! the first one has it: it writes its name there (`status.controller`), and another one leaves the status alone until
//! that one is gone. What gateways are asked stands under the name of the controller that asks, so each asks its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{Change, ConditionMap, Write};
use fairway_config::object::{Kind, ObjectKey};
use fairway_config::time::Timestamp;
use serde_json::{Value, json};

use super::ownership::ControllerIdentity;
use super::status;
use crate::status_json::{self, text};

/// What the API server holds of each.
#[derive(Debug, Default)]
pub(super) struct ClusterStatuses(BTreeMap<ObjectKey, ClusterStatus>);

#[derive(Debug, Default)]
struct ClusterStatus {
    /// Of the object that it was read from.
    resource_version: Box<str>,
    conditions: ConditionMap,
    /// The controller that writes it.
    controller: Option<Arc<str>>,
    /// The addresses that controllers of our namespace ask gateways for.
    probing: Arc<BTreeMap<IpAddr, u64>>,
}

/// Who is told what of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatusReader {
    /// A controller goes on from what an earlier one wrote.
    Controller,
    /// A gateway is asked for addresses.
    Gateway,
}

impl ClusterStatuses {
    /// Takes in the status of an object, unless it is of an older version than what is known. `met`: it was seen since
    /// the present list began; else it is as the list shows it, for versions may begin again at an older one.
    pub(super) fn put(
        &mut self,
        key: &ObjectKey,
        document: &Value,
        met: bool,
        reader: StatusReader,
        us: &ControllerIdentity,
    ) -> Option<Change> {
        let version = document.pointer("/metadata/resourceVersion");
        let version = version.and_then(Value::as_str).unwrap_or_default();
        let before = self.0.get(key);
        let number = |text: &str| text.parse::<u64>().ok();
        let known = before.and_then(|it| number(&it.resource_version));
        if known
            .zip(number(version))
            .is_some_and(|(known, new)| match met {
                true => new <= known,
                false => new == known,
            })
        {
            return None;
        }
        let status = document.get("status").unwrap_or(&Value::Null);
        let probing = status::probing(status, |controller| us.is_of_our_namespace(controller));
        let is_first = before.is_none();
        let is_asked_anew = before.map_or(!probing.is_empty(), |it| *it.probing != probing);
        let probing = Arc::new(probing);
        let known = ClusterStatus {
            resource_version: version.into(),
            conditions: status_json::read_conditions(status).0,
            controller: text(status, "controller").map(Arc::from),
            probing: Arc::clone(&probing),
        };
        self.0.insert(key.clone(), known);
        let name = Arc::clone(&key.name);
        match (reader, key.kind) {
            (StatusReader::Gateway, Kind::AddressPool) => {
                is_asked_anew.then_some(Change::Probing(name, probing))
            }
            (StatusReader::Controller, Kind::AddressPool) => is_first.then(|| {
                let mut found = status_json::read_pool(document);
                found.probing = status::probing(status, |it| *it == **us.identity());
                Change::PoolStatus(name, Arc::new(found))
            }),
            (StatusReader::Controller, Kind::BgpPeer) => is_first.then(|| {
                let found = status_json::read_bgp_peer(document);
                Change::BgpPeerStatus(name, Arc::new(found))
            }),
            _ => None,
        }
    }

    /// The object is gone.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// The name of the controller that writes the status of an object.
    pub(super) fn controller(&self, key: &ObjectKey) -> Option<Arc<str>> {
        self.0.get(key)?.controller.clone()
    }

    /// The patch for what the controller of the name `us` has to say; nothing: there is nothing for it to write.
    /// `is_anothers`: another controller has the status.
    pub(super) fn patch(
        &self,
        key: &ObjectKey,
        write: &Write,
        us: &str,
        is_anothers: bool,
    ) -> Option<Value> {
        let mut patch = match write {
            Write::Pool { status, .. } => status::pool_patch(status, us),
            Write::BgpPeer { status, .. } => status::bgp_peer_patch(status),
            Write::Service { .. } | Write::NodePorts { .. } => return None,
        };
        let held = self.0.get(key);
        if is_anothers {
            let asked = patch.pointer("/status/probing")?;
            return Some(json!({"status": {"probing": asked}}));
        }
        patch["status"]["controller"] = us.into();
        if let Some(held) = held {
            keep_times(&mut patch, &held.conditions);
            if held.controller.as_deref() != Some(us) {
                // Of two controllers that take it at the same moment one has it.
                patch["metadata"] = json!({"resourceVersion": held.resource_version});
            }
        }
        Some(patch)
    }
}

/// The key of an object that is in no namespace.
pub(super) fn key_of(kind: Kind, name: &Arc<str>) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: None,
        name: Arc::clone(name),
    }
}

/// A condition whose `status` is what the API server holds has the time that stands there: whoever planned it may not
/// know which of its writes were taken.
fn keep_times(patch: &mut Value, held: &ConditionMap) {
    let conditions = patch.pointer_mut("/status/conditions");
    let conditions = conditions.and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        let before = text(condition, "type").and_then(|kind| held.get(kind));
        let is_true = text(condition, "status") == Some("True");
        let is_read = |since: Timestamp| since != Timestamp::default();
        if let Some(before) = before.filter(|it| it.status == is_true && is_read(it.since)) {
            condition["lastTransitionTime"] = before.since.to_string().into();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::class::ClassFilter;
    use fairway_config::exchange::{BgpPeerStatus, Condition, PoolStatus};

    use super::*;

    const US: &str = "ours/fairway.dev/gateway";
    const NAMESAKE: &str = "ours/example.com/other";
    const OTHER: &str = "theirs/fairway.dev/gateway";

    fn us() -> ControllerIdentity {
        let class = ClassFilter {
            name: "fairway.dev/gateway".into(),
            is_default: true,
        };
        ControllerIdentity::new("ours", class)
    }

    fn pool(version: u32, status: &Value) -> Value {
        json!({"metadata": {"name": "lan", "resourceVersion": version.to_string()}, "status": status})
    }

    fn ready(status: &str, since: &str) -> Value {
        json!({"type": "Ready", "status": status, "reason": "Ready", "message": "",
               "lastTransitionTime": since})
    }

    fn lan() -> ObjectKey {
        key_of(Kind::AddressPool, &"lan".into())
    }

    fn put(
        statuses: &mut ClusterStatuses,
        reader: StatusReader,
        document: &Value,
        met: bool,
    ) -> Option<Change> {
        statuses.put(&lan(), document, met, reader, &us())
    }

    fn asked(change: Option<Change>) -> Option<Vec<u64>> {
        match change? {
            Change::Probing(_, probing) => Some(probing.values().copied().collect()),
            _ => panic!(),
        }
    }

    /// A controller writes this of the pool, with this condition and these addresses to ask for.
    fn write(is_ready: bool, since: i64, probing: &[(IpAddr, u64)]) -> Write {
        let condition = Condition {
            status: is_ready,
            reason: "Ready".into(),
            message: "It is.".to_owned(),
            since: Timestamp(since),
        };
        let status = PoolStatus {
            conditions: [("Ready".into(), condition)].into_iter().collect(),
            probing: probing.iter().copied().collect(),
            ..PoolStatus::default()
        };
        Write::Pool {
            name: "lan".into(),
            status,
        }
    }

    #[test]
    fn what_an_older_version_asks_is_not_asked() {
        let asks = |number: u64| {
            let asked = json!([{"address": "203.0.113.7", "number": number}]);
            json!({"probing": {US: asked}})
        };
        let mut statuses = ClusterStatuses::default();
        let mut put = |version, status: Value, met| {
            asked(put(
                &mut statuses,
                StatusReader::Gateway,
                &pool(version, &status),
                met,
            ))
        };
        assert_eq!(put(5, asks(1), true), Some(vec![1]));
        assert_eq!(put(7, json!({}), true), Some(vec![]));
        // A watch that began at an older version brings them again.
        assert_eq!(put(5, asks(1), true), None);
        assert_eq!(put(7, asks(1), true), None);
        assert_eq!(put(8, asks(2), true), Some(vec![2]));
        assert_eq!(put(9, asks(2), true), None);
        // The cluster was restored from a backup: a list shows what is there.
        assert_eq!(put(3, asks(3), false), Some(vec![3]));
    }

    #[test]
    fn a_gateway_is_asked_by_controllers_of_its_namespace() {
        let entry = |address: &str, number: u64| json!([{"address": address, "number": number}]);
        let status = json!({"probing": {
            US: entry("203.0.113.1", 1),
            NAMESAKE: entry("203.0.113.2", 2),
            OTHER: entry("203.0.113.3", 3),
        }});
        let mut statuses = ClusterStatuses::default();
        let change = put(
            &mut statuses,
            StatusReader::Gateway,
            &pool(1, &status),
            true,
        );
        assert_eq!(asked(change), Some(vec![1, 2]));
        // A controller goes on from what it asked itself.
        let mut statuses = ClusterStatuses::default();
        let change = put(
            &mut statuses,
            StatusReader::Controller,
            &pool(1, &status),
            true,
        );
        let Some(Change::PoolStatus(_, found)) = change else {
            panic!()
        };
        assert_eq!(found.probing.values().collect::<Vec<_>>(), [&1]);
        let again = put(
            &mut statuses,
            StatusReader::Controller,
            &pool(2, &status),
            true,
        );
        assert!(again.is_none());
    }

    #[test]
    fn a_time_moves_when_the_status_is_another_than_the_api_server_holds() {
        let mut statuses = ClusterStatuses::default();
        let held = json!({"controller": US, "conditions": [ready("True", "2026-01-01T00:00:00Z")]});
        put(
            &mut statuses,
            StatusReader::Controller,
            &pool(1, &held),
            true,
        );
        let time = |is_ready| {
            let write = write(is_ready, 1_800_000_000, &[]);
            let patch = statuses.patch(&lan(), &write, US, false).unwrap();
            patch["status"]["conditions"][0]["lastTransitionTime"].clone()
        };
        assert_eq!(time(true), "2026-01-01T00:00:00Z");
        assert_eq!(time(false), Timestamp(1_800_000_000).to_string());
    }

    #[test]
    fn of_two_controllers_one_writes_a_status_and_each_asks_its_gateways() {
        let mut statuses = ClusterStatuses::default();
        let address: IpAddr = "203.0.113.7".parse().unwrap();
        let asks = write(true, 7, &[(address, 9)]);
        put(
            &mut statuses,
            StatusReader::Controller,
            &pool(1, &json!({})),
            true,
        );
        // Nobody has it: who takes it first.
        let claim = statuses.patch(&lan(), &asks, US, false).unwrap();
        assert_eq!(claim["metadata"], json!({"resourceVersion": "1"}));
        assert_eq!(claim["status"]["controller"], US);
        let asked = json!({US: [{"address": "203.0.113.7", "number": 9}]});
        assert_eq!(claim["status"]["probing"], asked);
        // It has it from then on.
        let ours = json!({"controller": US});
        put(
            &mut statuses,
            StatusReader::Controller,
            &pool(2, &ours),
            true,
        );
        let patch = statuses.patch(&lan(), &write(true, 7, &[]), US, false);
        let patch = patch.unwrap();
        assert!(patch.get("metadata").is_none());
        assert_eq!(patch["status"]["probing"], json!({US: null}));
        // Another one has it.
        let theirs = json!({"controller": OTHER});
        put(
            &mut statuses,
            StatusReader::Controller,
            &pool(3, &theirs),
            true,
        );
        assert_eq!(statuses.controller(&lan()).as_deref(), Some(OTHER));
        let patch = statuses.patch(&lan(), &asks, US, true).unwrap();
        assert_eq!(patch, json!({"status": {"probing": asked}}));
        let peer = Write::BgpPeer {
            name: "tor".into(),
            status: BgpPeerStatus::default(),
        };
        assert!(statuses.patch(&lan(), &peer, US, true).is_none());
        // That one is gone.
        let patch = statuses.patch(&lan(), &asks, US, false).unwrap();
        assert_eq!(patch["metadata"], json!({"resourceVersion": "3"}));
        assert_eq!(patch["status"]["controller"], US);
    }
}
