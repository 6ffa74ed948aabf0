//! What gateways say of their BGP sessions.

use serde::{Deserialize, Serialize};

/// A row of `get peers`: a router, and the BGP session of one gateway with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerRow {
    /// The name of the BGPPeer.
    pub name: String,
    /// The gateway that has the session.
    #[serde(default)]
    pub gateway: String,
    /// `metadata.generation` of the BGPPeer that the session is of; 0 in manifests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// The router's address; its interface where it has none.
    pub address: String,
    /// The number of its AS as it says; before it has, what is expected.
    pub asn: String,
    /// `Idle`, `Connect`, `OpenSent`, `OpenConfirm` or `Established` (RFC 4271); `Unknown`: nothing has been heard
    /// of the session for long.
    pub state: String,
    /// Since when; RFC 3339.
    pub since: String,
    /// How many prefixes it has been told.
    pub prefixes: usize,
    /// `Up`, `Init`, `Down` or `AdminDown` (RFC 5880); nothing: there is no BFD with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<String>,
    /// Why there is no session, or what it lacks; empty where there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// UPDATE messages that it was sent.
    #[serde(default)]
    pub updates_sent: u64,
    /// UPDATE messages that it sent, which were dropped.
    #[serde(default)]
    pub updates_received: u64,
}

impl BgpPeerRow {
    /// Whether it is told prefixes.
    pub fn is_established(&self) -> bool {
        self.state == "Established"
    }

    /// Whether both say the same, apart from what changes all the time.
    pub fn says_alike(&self, other: &Self) -> bool {
        let evidence = |it: &Self| (it.is_established(), it.generation);
        evidence(self) == evidence(other)
            && (&self.name, &self.why, &self.bfd) == (&other.name, &other.why, &other.bfd)
    }

    /// The same where nothing has been heard of it for long: `why` says of whom.
    #[must_use]
    pub fn unknown(&self, why: &str) -> Self {
        Self {
            state: "Unknown".to_owned(),
            why: why.to_owned(),
            bfd: None,
            prefixes: 0,
            ..self.clone()
        }
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}
