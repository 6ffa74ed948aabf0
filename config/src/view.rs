//! What people are shown: the JSON of `/api/v1/…`, from which `fairway get` makes its tables.
//!
//! The names of fields are an API: scripts read them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::exchange::{AddressReport, ListenerReport, PoolCount};
pub use crate::exchange::{BgpPeerRow, GatewayRow};
use crate::net::{EndpointAddr, IpFamily, Protocol};
use crate::pool::Forwarding;
use crate::problem::Problem;
use crate::service::ServiceType;
use crate::time::Timestamp;

/// A list of rows, and what else there is to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List<T> {
    /// The rows, ordered by name.
    pub items: Vec<T>,
    /// Why there may be more than these, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A row of `get services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// Addresses inside the cluster; `None` as one string for a headless Service.
    pub cluster_ips: Vec<String>,
    /// External addresses; empty while pending.
    pub external_ips: Vec<IpAddr>,
    /// `spec.externalName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<PortRow>,
    /// `metadata.creationTimestamp`, else when it was first seen; RFC 3339.
    pub created: String,
    /// How many endpoints traffic can go to, over all ports; nothing: not known here.
    #[serde(default)]
    pub endpoints: Option<usize>,
    /// How many gateways serve every port of it as it is now; nothing: that is not for Fairway to say.
    #[serde(default)]
    pub serving: Option<usize>,
    /// How many gateways are alive, as far as is known here.
    #[serde(default)]
    pub gateways: Option<usize>,
    /// Who owns each of those external addresses that gateways announce on layer 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<OwnerRow>,
    /// Whom the gateway of this process has turned away in the last minute, and why: «refused 312 connections in the last
    /// minute: over connections-per-client 20».
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Its conditions.
    pub conditions: Vec<ConditionRow>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The source can't be read: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_problem: Option<String>,
    /// Its health check node port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// `spec.externalTrafficPolicy` is Local: only a gateway whose node has an endpoint of it serves it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_local: bool,
}

/// Who owns an external address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnerRow {
    /// The address.
    pub address: IpAddr,
    /// The gateway; nothing: none does, as far as is known here.
    pub owner: Option<String>,
}

/// A row of `get addresses`: what a gateway says of an external address that it may announce on layer 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address.
    pub address: IpAddr,
    /// The gateway that says it.
    pub gateway: String,
    /// What it says.
    #[serde(flatten)]
    pub report: AddressReport,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRow {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The Service's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its node port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionRow {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// One CamelCase word.
    pub reason: String,
    /// Sentences.
    pub message: String,
    /// RFC 3339.
    pub last_transition_time: String,
}

/// A row of `get endpoints`: one endpoint of one port of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The Service's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where traffic would go to.
    pub endpoint: EndpointAddr,
    /// `eligible`, or why not: `unreachable`, `failing-checks`, `not-ready`, `terminating`, `refused`, `weight-zero`, `draining`, …
    pub state: String,
    /// The state in a sentence.
    pub why: String,
    /// The node it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// TCP connections and UDP flows to it now.
    pub active: u64,
    /// Since when an operator keeps new connections away from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Timestamp>,
}

/// A row of `get pools`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    /// Its name.
    pub name: String,
    /// Its addresses as ranges.
    pub addresses: Vec<String>,
    /// Whether addresses are given out without being asked for.
    pub auto_assign: bool,
    /// Lower goes first.
    pub priority: i32,
    /// Who carries the traffic.
    pub forwarding: Forwarding,
    /// Counts by family.
    pub counts: std::collections::BTreeMap<IpFamily, PoolCount>,
    /// Its conditions.
    pub conditions: Vec<ConditionRow>,
}

/// A row of `get listeners`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerRow {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// Where, what for and how it is.
    #[serde(flatten)]
    pub listener: ListenerReport,
}

/// What `explain` says of one Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// A heading (`Address`, `Node ports`, `Listeners`, `Endpoints`, `Source`) and its sentences.
    pub sections: Vec<Section>,
    /// The last change of the Service, or a decision on it, is not in force: the section `Problems`
    /// or `Source` says why.
    #[serde(default)]
    pub held_back: bool,
}

/// One part of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Its sentences.
    pub sentences: Vec<String>,
}

/// Whether a process is ready, and what is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Nothing is missing.
    pub ready: bool,
    /// What is missing, a sentence each.
    pub missing: Vec<String>,
}

/// The problems there are in the manifests now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Problems {
    /// One for each.
    pub items: Vec<Problem>,
}
