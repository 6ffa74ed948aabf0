//! BGPPeers, and which gateways have a session with each.
//!
//! What counts is what gateways say in their Leases: that one has a session, of which form of the BGPPeer it is, and
//! why there is none. Of a gateway whose Lease has run out nobody knows, so it counts as one without a session, as long
//! as its Node is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::conditions::READY;
use fairway_config::exchange::{BgpPeerRow, BgpPeerStatus, Condition, GatewayStatus, Write};
use fairway_config::names::ClusterName;
use fairway_config::time::Timestamp;

use crate::gateways::GatewayTable;

/// How many gateways a message names with a session, and how many without.
const NAMED: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    peers: BTreeMap<ClusterName, Arc<BgpPeer>>,
    nodes: BTreeSet<ClusterName>,
    /// What was last made of each, and when; nothing: by an earlier controller.
    made: BTreeMap<ClusterName, (BgpPeerStatus, Option<Timestamp>)>,
    /// Those whose status was not taken.
    unwritten: BTreeSet<ClusterName>,
    /// Those whose status has to be made again.
    restated: BTreeSet<ClusterName>,
}

impl PeerTable {
    /// Takes in a BGPPeer. Nothing: it is gone.
    pub(crate) fn put(&mut self, name: &ClusterName, peer: Option<&Arc<BgpPeer>>) {
        match peer {
            Some(peer) => {
                self.peers.insert(Arc::clone(name), Arc::clone(peer));
                self.restated.insert(Arc::clone(name));
            }
            None => {
                self.peers.remove(name);
                self.made.remove(name);
                self.unwritten.remove(name);
                self.restated.remove(name);
            }
        }
    }

    /// Takes in what an earlier controller wrote.
    pub(crate) fn put_status(&mut self, name: &ClusterName, status: &BgpPeerStatus) {
        let made = self.made.entry(Arc::clone(name));
        made.or_insert_with(|| (status.clone(), None));
    }

    /// Takes in that a Node is there or gone.
    pub(crate) fn put_node(&mut self, name: &ClusterName, is_there: bool) {
        let has_changed = match is_there {
            true => self.nodes.insert(Arc::clone(name)),
            false => self.nodes.remove(name),
        };
        if has_changed {
            self.restated.extend(self.peers.keys().cloned());
        }
    }

    /// A gateway says something else of its sessions than before.
    pub(crate) fn touch(&mut self, before: Option<&GatewayStatus>, now: Option<&GatewayStatus>) {
        let untold = |it: Option<&GatewayStatus>| it.is_some_and(|it| it.untold_sessions > 0);
        if untold(before) || untold(now) {
            self.restated.extend(self.peers.keys().cloned());
            return;
        }
        let told = |it| Option::map_or(it, &[][..], |it: &GatewayStatus| &it.sessions);
        let (before, now) = (told(before), told(now));
        let is_new = |all: &[BgpPeerRow], row: &BgpPeerRow| {
            find(all, &row.name).is_none_or(|other| !row.says_alike(other))
        };
        let names = before.iter().filter(|it| is_new(now, it));
        let names = names.chain(now.iter().filter(|it| is_new(before, it)));
        let names = names.map(|it| ClusterName::from(it.name.as_str()));
        self.restated
            .extend(names.filter(|name| self.peers.contains_key(name)));
    }

    /// A write failed: it is planned again.
    pub(crate) fn refused(&mut self, name: &ClusterName) {
        if self.peers.contains_key(name) {
            // It stays known: the condition has changed when it did, and not with the next try.
            self.unwritten.insert(Arc::clone(name));
            self.restated.insert(Arc::clone(name));
        }
    }

    /// The statuses that have to be written. One that was written in this second waits for the next one.
    pub(crate) fn plan(&mut self, gateways: &GatewayTable, now: Timestamp) -> Vec<Write> {
        if !gateways.are_processes() {
            // The one gateway is in this process, and shows its sessions itself.
            self.restated.clear();
            return Vec::new();
        }
        let mut writes = Vec::new();
        for name in std::mem::take(&mut self.restated) {
            let Some(peer) = self.peers.get(&name) else {
                continue;
            };
            let before = self.made.get(&name);
            let is_unwritten = self.unwritten.contains(&name);
            if !is_unwritten && before.is_some_and(|(_, at)| *at == Some(now)) {
                self.restated.insert(name);
                continue;
            }
            let before = before.map(|(status, _)| status);
            let status = self.status(peer, gateways, before, now);
            if is_unwritten || before != Some(&status) {
                self.unwritten.remove(&name);
                let made = (status.clone(), Some(now));
                self.made.insert(Arc::clone(&name), made);
                writes.push(Write::BgpPeer { name, status });
            }
        }
        writes
    }

    /// When [`Self::plan`] has to be called again for what it has left.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let made = self.restated.iter().filter_map(|it| self.made.get(it));
        let at = made.filter_map(|(_, at)| *at);
        at.map(|at| Timestamp(at.0 + 1)).min()
    }

    fn status(
        &self,
        peer: &BgpPeer,
        gateways: &GatewayTable,
        before: Option<&BgpPeerStatus>,
        now: Timestamp,
    ) -> BgpPeerStatus {
        // The Node of one that is not heard of any more may be gone for good.
        let may_be_there = |name| self.nodes.contains(name);
        let (mut rows, mut untold) = (Vec::new(), Vec::new());
        for (name, gateway) in gateways.processes() {
            match find(&gateway.sessions, &peer.name) {
                Some(row) if may_be_there(name) || !is_unknown(row) => rows.push((name, row)),
                None if gateway.untold_sessions > 0 && may_be_there(name) => untold.push(name),
                _ => {}
            }
        }
        let (is_ready, reason, message) = judge(peer, &rows, &untold);
        let since = before.and_then(|it| it.conditions.get(READY));
        let since = since
            .filter(|it| it.status == is_ready)
            .map_or(now, |it| it.since);
        let condition = Condition {
            status: is_ready,
            reason: Arc::from(reason),
            message,
            since,
        };
        BgpPeerStatus {
            conditions: [(Arc::from(READY), condition)].into_iter().collect(),
            generation: peer.generation,
        }
    }
}

fn find<'a>(rows: &'a [BgpPeerRow], name: &str) -> Option<&'a BgpPeerRow> {
    let at = rows.binary_search_by(|row| row.name.as_str().cmp(name));
    rows.get(at.ok()?)
}

fn is_unknown(row: &BgpPeerRow) -> bool {
    row.state == "Unknown"
}

/// Whether a peer is ready by what these gateways say of their sessions with it, and others do not say for want of
/// room; the reason, and sentences.
fn judge(
    peer: &BgpPeer,
    rows: &[(&ClusterName, &BgpPeerRow)],
    untold: &[&ClusterName],
) -> (bool, &'static str, String) {
    if !peer.problems.is_empty() {
        let all = peer.problems.iter().map(ToString::to_string);
        let all = all.collect::<Vec<_>>().join("; ");
        return (
            false,
            "NotUsable",
            format!("No gateway has a session: {all}."),
        );
    }
    let has = |row: &BgpPeerRow| row.is_established() && row.generation >= peer.generation;
    let (with, without): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, row)| has(row));
    let (is_ready, reason) = match (with.is_empty(), without.is_empty()) {
        (true, true) => (false, "NoGateway"),
        (true, false) => (false, "NotEstablished"),
        (false, false) => (false, "PartlyEstablished"),
        (false, true) => (true, "Established"),
    };
    let (is_ready, reason) = match (untold.is_empty(), without.is_empty()) {
        (false, true) => (false, "Unknown"),
        _ => (is_ready, reason),
    };
    let mut sentences = vec![match (with.len(), rows.len()) {
        (_, 0) if !untold.is_empty() => String::new(),
        (_, 0) => {
            "No gateway says that it has this peer: none is alive, or nodeSelectors select none \
                   of their Nodes."
                .to_owned()
        }
        (1, 1) if !untold.is_empty() => "The gateway that tells of it has a session.".to_owned(),
        (1, 1) => "The gateway has a session.".to_owned(),
        (0, 1) => "The gateway has no session.".to_owned(),
        (0, all) => format!("None of {all} gateways has a session."),
        (with, all) if with == all => format!("All {all} gateways have a session."),
        (with, all) => format!("{with} of {all} gateways have a session."),
    }];
    if !with.is_empty() {
        let names = with.iter().map(|(name, _)| name.to_string());
        let list = list(names);
        let verb = if with.len() == 1 { "has" } else { "have" };
        sentences.push(format!("{list} {verb} one."));
    }
    let why = |row: &BgpPeerRow| match row.is_established() && !has(row) {
        true => "it has not taken in the latest change of the BGPPeer".to_owned(),
        false => row.why.clone(),
    };
    let without_all = without.iter().take(NAMED);
    sentences.extend(without_all.map(|(name, row)| format!("{name} has none: {}.", why(row))));
    if without.len() > NAMED {
        let more = without.len() - NAMED;
        sentences.push(format!("{more} more have none."));
    }
    if !untold.is_empty() {
        let names = list(untold.iter().map(ToString::to_string));
        let (has, it) = match untold.len() {
            1 => ("it has a session: it has", "it"),
            _ => ("they have a session: they have", "they"),
        };
        sentences.push(format!(
            "Of {names} it is not known whether {has} more sessions than {it} can tell of."
        ));
    }
    // What a session lacks that stands.
    let lacking = with.iter().filter(|(_, row)| !row.why.is_empty());
    let lacking = lacking.take(NAMED);
    sentences.extend(lacking.map(|(name, row)| format!("{name}: {}.", row.why)));
    let notices = peer.notices.iter().map(|it| it.message.clone());
    sentences.extend(notices);
    sentences.retain(|it| !it.is_empty());
    (is_ready, reason, sentences.join(" "))
}

/// Names as a sentence has them.
fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut names: Vec<String> = names.take(NAMED).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
