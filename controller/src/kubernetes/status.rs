//! `status` of Services, AddressPools and BGPPeers in an API server: reads it, and makes the patches that
//! write it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::conditions;
use fairway_config::exchange::{BgpPeerStatus, PoolStatus, Status};
use fairway_config::time::Timestamp;
use serde_json::{Value, json};

use crate::status_json::{self, text};

/// What a Service's `status` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ParsedStatus {
    /// The part that Fairway writes.
    pub(super) status: Status,
    /// Conditions of others, which a patch has to carry along, since it replaces the list.
    pub(super) foreign: Box<[Value]>,
    /// Which controller has given what is there.
    pub(super) taken: Option<TakenCondition>,
    /// What a controller has written that would take the Service, too. It is among the foreign ones.
    pub(super) contested: Option<Contested>,
}

/// Which controller has given what a status says: the condition [`conditions::TAKEN`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TakenCondition {
    pub(super) by: Arc<str>,
    since: Timestamp,
    /// Its place in the list of conditions.
    pub(super) index: usize,
}

/// The condition [`conditions::CONTESTED`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Contested {
    /// The controller that has written it.
    pub(super) by: Box<str>,
    /// Its place in the list of conditions.
    pub(super) index: usize,
}

/// Reads `status`. Others write there, too, so what can't be read is passed over.
pub(super) fn read(object: &Value) -> ParsedStatus {
    let status = object.get("status").unwrap_or(&Value::Null);
    let read = status_json::read(status, |kind| conditions::OF_SERVICES.contains(&kind));
    let mut parsed = ParsedStatus {
        status: read.status,
        ..ParsedStatus::default()
    };
    let mut foreign = Vec::new();
    for (index, entry) in read.others {
        let message = text(entry, "message").unwrap_or_default();
        match text(entry, "type") {
            Some(conditions::TAKEN) => {
                let since = text(entry, "lastTransitionTime").and_then(|time| time.parse().ok());
                parsed.taken = Some(TakenCondition {
                    by: message.into(),
                    since: since.unwrap_or_default(),
                    index,
                });
                continue;
            }
            Some(conditions::CONTESTED) => {
                let by = message.split(' ').next().unwrap_or_default().into();
                parsed.contested = Some(Contested { by, index });
            }
            _ => {}
        }
        foreign.push(entry.clone());
    }
    parsed.foreign = foreign.into();
    parsed
}

/// The condition that says which controller has given what the status says.
pub(super) fn taken_condition(by: &str, before: Option<&TakenCondition>, now: Timestamp) -> Value {
    let since = before.filter(|it| *it.by == *by).map_or(now, |it| it.since);
    json!({
        "type": conditions::TAKEN, "status": "True", "reason": "Taken", "message": by,
        "lastTransitionTime": since.to_string(),
    })
}

/// Whether a condition is [`conditions::CONTESTED`].
pub(super) fn is_contested(entry: &Value) -> bool {
    text(entry, "type") == Some(conditions::CONTESTED)
}

/// The condition that says that a controller would take the Service, too.
pub(super) fn contested_condition(by: &str, owner: &str, now: Timestamp) -> Value {
    let message = format!(
        "{by} is a controller that would take this Service, too. It leaves the Service to {owner}, which \
         has taken it. Give each class, and --default-class, to the controllers of one namespace only."
    );
    json!({
        "type": conditions::CONTESTED, "status": "True", "reason": "TwoControllers",
        "message": message, "lastTransitionTime": now.to_string(),
    })
}

/// The merge patch (RFC 7386) of a Service's `status`, of the object in this version alone.
pub(super) fn patch(status: &Status, foreign: &[Value]) -> Value {
    let shape = json!(status_json::StatusShape::from(status));
    let mut conditions = foreign.to_vec();
    if let Some(Value::Array(own)) = shape.get("conditions") {
        conditions.extend(own.iter().cloned());
    }
    // In a merge patch null removes a field; a field that is not named stays.
    let or_null = |list: Vec<Value>| match list.is_empty() {
        true => Value::Null,
        false => list.into(),
    };
    let ingress = shape.pointer("/loadBalancer/ingress");
    let ingress = ingress.and_then(Value::as_array).cloned();
    json!({
        "status": {
            "loadBalancer": {"ingress": or_null(ingress.unwrap_or_default())},
            "conditions": or_null(conditions),
        },
    })
}

/// The merge patch of an AddressPool's `status` for the controller of this name.
pub(super) fn pool_patch(status: &PoolStatus, by: &str) -> Value {
    let mut patch = json!({"status": status_json::pool_status(status)});
    let probing = status.probing.iter();
    let probing: Vec<_> = probing
        .map(|(address, number)| json!({"address": address, "number": number}))
        .collect();
    // A merge patch leaves what it does not name: here, what other controllers ask.
    patch["status"]["probing"][by] = match probing.is_empty() {
        true => Value::Null,
        false => probing.into(),
    };
    patch
}

/// The addresses that the controllers of these names ask gateways for. What can't be read is passed over.
pub(super) fn probing(status: &Value, is_wanted: impl Fn(&str) -> bool) -> BTreeMap<IpAddr, u64> {
    let all = status.get("probing").and_then(Value::as_object);
    let wanted = all.into_iter().flatten().filter(|(by, _)| is_wanted(by));
    let entries = wanted
        .filter_map(|(_, entries)| entries.as_array())
        .flatten();
    let probed = |entry: &Value| {
        let address = text(entry, "address")?.parse().ok()?;
        Some((address, entry.get("number")?.as_u64()?))
    };
    entries.filter_map(probed).collect()
}

/// The merge patch of a BGPPeer's `status`.
pub(super) fn bgp_peer_patch(status: &BgpPeerStatus) -> Value {
    json!({"status": status_json::bgp_peer_status(status)})
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::exchange::IpMode;

    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let object = json!({"status": {
            "loadBalancer": {"ingress": [{
                "ip": "203.0.113.1", "ipMode": "Proxy",
                "ports": [{"port": 80, "protocol": "TCP", "error": "PortInUse"}],
            }]},
            "conditions": [
                {"type": "fairway.dev/AddressAssigned", "status": "True", "reason": "Assigned",
                 "message": "203.0.113.1 is assigned.", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                // The Gateway API's word, or another load balancer's: not ours without our prefix.
                {"type": "Programmed", "status": "False", "reason": "Pending",
                 "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "example.com/Scanned", "status": "True", "reason": "Clean",
                 "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
        }});
        let found = read(&object);
        assert_eq!(found.status.ingress.len(), 1);
        assert_eq!(found.foreign.len(), 2);
        let mut patched = patch(&found.status, &found.foreign);
        let again = read(&patched);
        assert_eq!(again, found);
        // The order of the list is of no meaning: compare as sets.
        let mut object = object;
        for it in [&mut patched, &mut object] {
            let conditions = it["status"]["conditions"].as_array_mut().unwrap();
            conditions.sort_by_key(|it| it["type"].to_string());
        }
        assert_eq!(patched["status"], object["status"]);
    }

    #[test]
    fn what_was_written_of_a_pool_is_read_again() {
        let condition = |status: &str| {
            json!({"type": "Ready", "status": status, "reason": "Ready", "message": "It is.",
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let object = json!({"status": {
            "conditions": [condition("True")],
            "ipv4": {"total": 25, "used": 2, "available": 23},
            "probing": {"us": [{"address": "203.0.113.7", "number": 1_800_000_000}]},
        }});
        let mut found = status_json::read_pool(&object);
        found.probing = probing(&object["status"], |by| by == "us");
        assert_eq!(found.counts.len(), 1);
        assert!(found.conditions.get("Ready").is_some_and(|it| it.status));
        assert_eq!(pool_patch(&found, "us")["status"], object["status"]);
        // A merge patch leaves what it does not name.
        found.probing.clear();
        let patch = pool_patch(&found, "us");
        assert_eq!(patch["status"]["probing"], json!({"us": null}));
        assert_eq!(patch["status"].as_object().unwrap().len(), 3);
        assert_eq!(
            status_json::read_pool(&json!({"status": 7})),
            PoolStatus::default()
        );
    }

    #[test]
    fn what_is_gone_is_taken_away_and_not_left() {
        let patched = patch(&Status::default(), &[]);
        assert!(patched["status"]["loadBalancer"]["ingress"].is_null());
        assert!(
            patched["status"]
                .as_object()
                .unwrap()
                .contains_key("conditions")
        );
    }

    #[test]
    fn an_entry_that_is_not_ours_makes_the_list_another() {
        let own = json!({"ip": "203.0.113.1", "ipMode": "Proxy",
                         "ports": [{"port": 80, "protocol": "TCP"}]});
        let status = |ingress: Value| {
            let object = json!({"status": {"loadBalancer": {"ingress": ingress}}});
            read(&object).status
        };
        let right = status(json!([own]));
        let edited = status(json!([own, {"hostname": "lb.example.com"}]));
        assert_ne!(edited, right);
        assert_eq!(edited.ingress, right.ingress);
        let alone = status(json!([{"hostname": "lb.example.com"}]));
        assert_ne!(alone, Status::default());
    }

    #[test]
    fn a_status_that_another_provider_wrote_does_no_harm() {
        let object = json!({"status": {"loadBalancer": {"ingress": [
            {"hostname": "lb.example.com"}, {"ip": "not an address"}, 7,
            {"ip": "203.0.113.9", "ports": [{"port": 99999, "protocol": "TCP"}, {}]},
        ]}, "conditions": "none"}});
        let found = read(&object);
        assert_eq!(found.status.ingress.len(), 1);
        assert_eq!(found.status.ingress[0].ip_mode, IpMode::Vip);
        assert!(found.status.ingress[0].ports.is_empty());
    }
}
