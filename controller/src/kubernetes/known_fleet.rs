//! The other gateways of a gateway's fleet, and its key, as the cluster says: a value without I/O.
//!
//! The key is told when all members are known and know of this gateway, and not before. One that does not know the
//! others would believe that it is alone, and one that they do not know is not spoken to and would believe that they
//! are dead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_config::exchange::{Change, FleetKey, FleetMember};
use fairway_config::names::ClusterName;
use serde::{Deserialize, Serialize};

use super::gateway_report::decode_gateway;

/// What is known of a fleet.
#[derive(Debug, Default)]
pub(super) struct KnownFleet {
    members: BTreeMap<ClusterName, Arc<FleetMember>>,
    key: Option<Arc<FleetKey>>,
    /// All members are known.
    is_complete: bool,
    /// They know of this gateway.
    is_known: bool,
    /// While a list goes on: those that were seen since it began.
    listed: Option<BTreeSet<ClusterName>>,
}

/// The same on disk, in JSON.
#[derive(Debug, Serialize, Deserialize)]
struct FleetFile {
    members: Vec<FleetMember>,
    /// In base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl KnownFleet {
    /// What an earlier process knew.
    pub(super) fn recall(&mut self, file: &[u8]) -> Vec<Change> {
        let file: FleetFile = match serde_json::from_slice(file) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(%error, "the other gateways that an earlier process knew can't be read");
                return Vec::new();
            }
        };
        let members = file.members.into_iter();
        let changes = members.filter_map(|it| self.put(it)).collect();
        let key = file.key.and_then(|text| STANDARD.decode(text).ok());
        self.key = key.and_then(|bytes| Some(Arc::new(FleetKey::new(bytes.try_into().ok()?))));
        // Those who knew the process before know this one.
        self.is_known = true;
        self.complete(changes)
    }

    /// What the next process is to know. `with_key`: nobody else can read it there.
    pub(super) fn file(&self, with_key: bool) -> Vec<u8> {
        let key = self.key.as_ref().filter(|_| with_key);
        let file = FleetFile {
            members: self
                .members
                .values()
                .map(|it| FleetMember::clone(it))
                .collect(),
            key: key.map(|key| STANDARD.encode(key.bytes())),
        };
        // What has text for keys alone can be written as JSON.
        serde_json::to_vec(&file).unwrap_or_default()
    }

    /// A list of all gateways begins.
    pub(super) fn begin(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// The Lease of a gateway is there; what it says of itself is in this annotation. Of a gateway that can't be
    /// read, what was known last stays.
    pub(super) fn there(&mut self, name: &ClusterName, annotation: &str) -> Vec<Change> {
        if let Some(listed) = &mut self.listed {
            listed.insert(Arc::clone(name));
        }
        let told = decode_gateway(annotation).ok();
        let addresses = told.map(|told| told.addresses);
        if addresses.is_none() && self.members.contains_key(name) {
            return Vec::new();
        }
        let member = FleetMember {
            name: Arc::clone(name),
            addresses: addresses.unwrap_or_default(),
        };
        self.put(member).into_iter().collect()
    }

    fn put(&mut self, member: FleetMember) -> Option<Change> {
        let name = Arc::clone(&member.name);
        if self.members.get(&name).is_some_and(|it| **it == member) {
            return None;
        }
        let member = Arc::new(member);
        self.members.insert(Arc::clone(&name), Arc::clone(&member));
        Some(Change::Member(name, Some(member)))
    }

    /// The Lease of a gateway is gone.
    pub(super) fn gone(&mut self, name: &ClusterName) -> Vec<Change> {
        let was_there = self.members.remove(name).is_some();
        let gone = was_there.then(|| Change::Member(Arc::clone(name), None));
        gone.into_iter().collect()
    }

    /// The list has ended: whom it did not show is gone.
    pub(super) fn end(&mut self) -> Vec<Change> {
        let listed = self.listed.take().unwrap_or_default();
        let gone = self.members.keys().filter(|name| !listed.contains(*name));
        let gone: Vec<ClusterName> = gone.cloned().collect();
        let changes = gone.iter().flat_map(|name| self.gone(name)).collect();
        self.complete(changes)
    }

    fn complete(&mut self, mut changes: Vec<Change>) -> Vec<Change> {
        if !std::mem::replace(&mut self.is_complete, true) && self.is_known {
            changes.extend(self.key_change());
        }
        changes
    }

    /// The others have seen the Lease of this gateway.
    pub(super) fn known(&mut self) -> Vec<Change> {
        let is_new = !std::mem::replace(&mut self.is_known, true);
        let told = is_new && self.is_complete;
        self.key_change().filter(|_| told).into_iter().collect()
    }

    fn key_change(&self) -> Option<Change> {
        let key = self.key.clone()?;
        Some(Change::FleetKey(Some(key)))
    }

    /// The key is this one. That it is gone changes nothing: gateways that know each other go on.
    pub(super) fn set_key(&mut self, key: FleetKey) -> Vec<Change> {
        if self.key.as_deref() == Some(&key) {
            return Vec::new();
        }
        self.key = Some(Arc::new(key));
        let told = self.is_complete && self.is_known;
        self.key_change().filter(|_| told).into_iter().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::view::GatewayRow;

    use super::super::gateway_report::GatewaySelfReport;
    use super::*;

    fn annotation(addresses: &[&str]) -> String {
        let row: GatewayRow = serde_json::from_value(serde_json::json!({
            "name": "x", "version": "", "ready": true, "why": "", "listening": 0, "failed": 0,
            "connections": 0, "flows": 0, "started": "",
        }))
        .unwrap();
        let mut told = GatewaySelfReport::new(row, 7);
        told.addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        serde_json::to_string(&told).unwrap()
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let words = changes.iter().map(|change| match change {
            Change::Member(name, None) => format!("{name} is gone"),
            Change::Member(name, Some(member)) => {
                assert_eq!(*name, member.name);
                let addresses = member.addresses.iter().map(ToString::to_string);
                format!("{name} {}", addresses.collect::<Vec<_>>().join(" "))
            }
            Change::FleetKey(Some(key)) => format!("key {}", key.bytes()[0]),
            _ => panic!(),
        });
        words.collect()
    }

    #[test]
    fn the_key_is_told_when_all_members_are_known_and_know_of_this_one() {
        let mut fleet = KnownFleet::default();
        let (one, two): (ClusterName, ClusterName) = ("edge-1".into(), "edge-2".into());
        let well = annotation(&["192.0.2.11/24"]);
        assert!(fleet.set_key(FleetKey::new([1; 32])).is_empty());
        fleet.begin();
        assert_eq!(shown(&fleet.there(&one, &well)), ["edge-1 192.0.2.11/24"]);
        assert_eq!(shown(&fleet.there(&two, &annotation(&[]))), ["edge-2 "]);
        assert!(fleet.end().is_empty());
        assert_eq!(shown(&fleet.known()), ["key 1"]);
        assert!(fleet.known().is_empty());
        // From then on each at once, and nothing twice.
        assert!(fleet.there(&one, &well).is_empty());
        assert!(fleet.set_key(FleetKey::new([1; 32])).is_empty());
        assert_eq!(shown(&fleet.set_key(FleetKey::new([2; 32]))), ["key 2"]);
        // What can't be read is no news.
        assert!(fleet.there(&one, "[").is_empty());
        assert_eq!(shown(&fleet.gone(&two)), ["edge-2 is gone"]);
        assert!(fleet.gone(&two).is_empty());
        // A list that does not show it, and one that is cut off and begins again.
        fleet.begin();
        fleet.there(&two, &well);
        fleet.begin();
        assert_eq!(shown(&fleet.there(&two, &well)), Vec::<String>::new());
        assert_eq!(shown(&fleet.end()), ["edge-1 is gone"]);
    }

    #[test]
    fn a_gateway_that_starts_without_an_api_server_knows_its_fleet() {
        let mut before = KnownFleet::default();
        before.set_key(FleetKey::new([9; 32]));
        assert!(before.known().is_empty());
        before.begin();
        before.there(
            &"edge-1".into(),
            &annotation(&["192.0.2.11/24", "2001:db8::1/64"]),
        );
        assert_eq!(shown(&before.end()), ["key 9"]);
        let mut after = KnownFleet::default();
        let told = after.recall(&before.file(true));
        assert_eq!(
            shown(&told),
            ["edge-1 192.0.2.11/24 2001:db8::1/64", "key 9"]
        );
        // The API server is heard: another one has come, and this one is there as it was.
        after.begin();
        assert!(
            after
                .there(
                    &"edge-1".into(),
                    &annotation(&["192.0.2.11/24", "2001:db8::1/64"])
                )
                .is_empty()
        );
        assert_eq!(shown(&after.there(&"edge-2".into(), "")), ["edge-2 "]);
        assert!(after.end().is_empty());
        // Where others can read the file, it has no key.
        let file = String::from_utf8(before.file(false)).unwrap();
        assert!(
            file.contains("192.0.2.11/24") && !file.contains("key"),
            "{file}"
        );
        let mut without = KnownFleet::default();
        assert_eq!(without.recall(file.as_bytes()).len(), 1);
        assert_eq!(shown(&without.set_key(FleetKey::new([9; 32]))), ["key 9"]);
        assert!(KnownFleet::default().recall(b"[").is_empty());
    }
}
