//! Which gateway owns an external address, as gateways say; and who the gateways are.
//!
//! An address has one owner, however many Services share it. So reports of addresses stand beside those of
//! Services.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::ClusterName;
use crate::time::Timestamp;

/// What a gateway says of an external address that it may announce on layer 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressReport {
    /// Where the address is.
    pub state: AddressState,
    /// Who owns it, as far as the gateway knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ClusterName>,
    /// Since when it is so.
    pub since: Timestamp,
    /// The number of the owner's term; of two owners the one of the greater number counts. 0 where none is known.
    #[serde(default)]
    pub term: u64,
    /// Why it is so: the end of a sentence, as in `because edge-1 was not heard of for 500 ms`; the first word may
    /// be left out.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub why: Arc<str>,
    /// The interfaces on which it is announced, or would be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Box<str>>,
    /// Another host that answers for the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<AddressConflict>,
    /// Who takes it where the gateway that owns it drains. Only the owner says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Successor>,
    /// The number of the controller's probe ([`PoolStatus::probing`](super::PoolStatus::probing)) that this answers:
    /// [`AddressState::Unowned`] means then that this gateway can't ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<u64>,
}

/// Who takes an address of a gateway that drains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Successor {
    /// That gateway is asked first.
    Gateway(ClusterName),
    /// Nobody can. Why: the end of a sentence.
    Nobody(Arc<str>),
}

impl AddressReport {
    /// Who owns the address by this report; `gateway` is the one whose report it is.
    pub fn owner_by<'a>(&'a self, gateway: &'a str) -> Option<&'a str> {
        match self.state {
            AddressState::Owned => Some(gateway),
            AddressState::Elsewhere => self.owner.as_deref(),
            AddressState::Unowned | AddressState::Conflict | AddressState::Free => None,
        }
    }

    /// What people are told of it. `gateway` is the one whose report it is.
    pub fn sentence(&self, address: IpAddr, gateway: &str) -> String {
        let since = self.since;
        let because = match self.why.strip_prefix("because ").unwrap_or(&self.why) {
            "" => String::new(),
            why => format!(", because {}", why.trim_end_matches('.')),
        };
        let owner = match (self.state, &self.owner) {
            (AddressState::Owned, _) => gateway,
            (AddressState::Elsewhere, Some(owner)) => owner,
            (AddressState::Elsewhere, None) => "another gateway",
            (AddressState::Unowned | AddressState::Conflict | AddressState::Free, _) => {
                "no gateway"
            }
        };
        let mut sentence = format!("{address} is owned by {owner} since {since}{because}.");
        if let Some(conflict) = &self.conflict {
            sentence += &format!(
                " Another host answers for it since {}: the one with the hardware address {}.",
                conflict.since, conflict.hardware_address
            );
        }
        sentence
    }
}

/// Where an address is, as one gateway sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressState {
    /// This gateway owns it, and answers for it.
    Owned,
    /// Another gateway owns it.
    Elsewhere,
    /// No gateway does.
    Unowned,
    /// No gateway does, because a host that is no gateway uses it.
    Conflict,
    /// No gateway does, and nobody answers for it: it can be given out.
    Free,
}

impl AddressState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Owned,
        Self::Elsewhere,
        Self::Unowned,
        Self::Conflict,
        Self::Free,
    ];

    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Elsewhere => "elsewhere",
            Self::Unowned => "unowned",
            Self::Conflict => "conflict",
            Self::Free => "free",
        }
    }
}

impl fmt::Display for AddressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A host that is no gateway and answers for an address of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressConflict {
    /// Its hardware address, as `52:54:00:12:34:56`.
    pub hardware_address: Box<str>,
    /// Since when it has been seen.
    pub since: Timestamp,
}

/// Another gateway, as its Lease or `--peers` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMember {
    /// Its name: that of its node.
    pub name: ClusterName,
    /// The addresses of its interfaces, with their prefixes.
    pub addresses: Vec<IpNet>,
}

/// The key by which gateways of one fleet know each other.
#[derive(Clone, PartialEq, Eq)]
pub struct FleetKey([u8; Self::LENGTH]);

impl FleetKey {
    /// So many bytes it has.
    pub const LENGTH: usize = 32;

    /// A key of these bytes.
    pub fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Debug for FleetKey {
    /// Shows nothing of it: what is logged must not let anybody in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_sentence_and_comes_back_from_its_text() {
        let report = |state, owner: Option<&str>, why: &str| AddressReport {
            state,
            owner: owner.map(Into::into),
            since: Timestamp(1_800_000_000),
            term: 7,
            why: why.into(),
            interfaces: vec!["br0".into()],
            conflict: None,
            successor: None,
            probe: None,
        };
        let since = "since 2027-01-15T08:00:00Z";
        let address = "203.0.113.1".parse().unwrap();
        for (report, wanted) in [
            (
                report(
                    AddressState::Owned,
                    None,
                    "because edge-2 was not heard of for 500 ms",
                ),
                format!("edge-1 {since}, because edge-2 was not heard of for 500 ms."),
            ),
            (
                report(
                    AddressState::Elsewhere,
                    Some("edge-2"),
                    "edge-1 was stopped",
                ),
                format!("edge-2 {since}, because edge-1 was stopped."),
            ),
            (
                report(AddressState::Elsewhere, None, ""),
                format!("another gateway {since}."),
            ),
            (
                AddressReport {
                    conflict: Some(AddressConflict {
                        hardware_address: "52:54:00:12:34:56".into(),
                        since: Timestamp(1_800_000_000),
                    }),
                    ..report(AddressState::Conflict, None, "")
                },
                format!(
                    "no gateway {since}. Another host answers for it {since}: the one with the hardware address 52:54:00:12:34:56."
                ),
            ),
        ] {
            let sentence = report.sentence(address, "edge-1");
            assert_eq!(sentence, format!("203.0.113.1 is owned by {wanted}"));
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(
                serde_json::from_str::<AddressReport>(&text).unwrap(),
                report,
                "{text}"
            );
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!(
            "{:?} {:#?}",
            FleetKey::new([77; 32]),
            FleetKey::new([77; 32])
        );
        assert!(!shown.contains("77") && !shown.contains("4d"), "{shown}");
    }
}
