//! BGPPeers, and which gateways have a session with each.
//!
//! What counts is what gateways say in their Leases: that one has a session, of which form of the BGPPeer it is, and
//! why there is none. Of a gateway whose Lease has run out nobody knows, so it counts as one without a session, as long
//! as its Node is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::conditions::READY;
use fairway_config::exchange::{BgpPeerRow, BgpPeerStatus, Condition, Write};
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
    /// What was last written of each, and when; nothing: by an earlier controller.
    written: BTreeMap<ClusterName, (BgpPeerStatus, Option<Timestamp>)>,
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
                self.written.remove(name);
                self.restated.remove(name);
            }
        }
    }

    /// Takes in what an earlier controller wrote.
    pub(crate) fn put_status(&mut self, name: &ClusterName, status: &BgpPeerStatus) {
        let written = self.written.entry(Arc::clone(name));
        written.or_insert_with(|| (status.clone(), None));
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
    pub(crate) fn touch(&mut self, before: &[BgpPeerRow], now: &[BgpPeerRow]) {
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
            self.written.remove(name);
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
            let before = self.written.get(&name);
            if before.is_some_and(|(_, at)| *at == Some(now)) {
                self.restated.insert(name);
                continue;
            }
            let before = before.map(|(status, _)| status);
            let status = self.status(peer, gateways, before, now);
            if before != Some(&status) {
                let written = (status.clone(), Some(now));
                self.written.insert(Arc::clone(&name), written);
                writes.push(Write::BgpPeer { name, status });
            }
        }
        writes
    }

    /// When [`Self::plan`] has to be called again for what it has left.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let written = self.restated.iter().filter_map(|it| self.written.get(it));
        let at = written.filter_map(|(_, at)| *at);
        at.map(|at| Timestamp(at.0 + 1)).min()
    }

    fn status(
        &self,
        peer: &BgpPeer,
        gateways: &GatewayTable,
        before: Option<&BgpPeerStatus>,
        now: Timestamp,
    ) -> BgpPeerStatus {
        let rows = gateways.processes().filter_map(|(name, gateway)| {
            let row = find(&gateway.sessions, &peer.name)?;
            // The Node of one that is not heard of any more may be gone for good.
            let counts = self.nodes.contains(name) || !is_unknown(row);
            counts.then_some((name, row))
        });
        let (is_ready, reason, message) = judge(peer, &rows.collect::<Vec<_>>());
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

/// Whether a peer is ready by what these gateways say of their sessions with it; the reason, and sentences.
fn judge(peer: &BgpPeer, rows: &[(&ClusterName, &BgpPeerRow)]) -> (bool, &'static str, String) {
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
    let mut sentences = vec![match (with.len(), rows.len()) {
        (_, 0) => {
            "No gateway says that it has this peer: none is alive, or nodeSelectors select none \
                   of their Nodes."
                .to_owned()
        }
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
    // What a session lacks that stands.
    let lacking = with.iter().filter(|(_, row)| !row.why.is_empty());
    let lacking = lacking.take(NAMED);
    sentences.extend(lacking.map(|(name, row)| format!("{name}: {}.", row.why)));
    let notices = peer.notices.iter().map(|it| it.message.clone());
    sentences.extend(notices);
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
