//! What the gateways of a fleet tell each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// The name of a gateway in its fleet: that of its node.
pub type MemberName = Arc<str>;

/// One message from one member to another.
///
/// Whoever carries it has to make sure that a member of the fleet wrote it (a keyed hash over all of it). That
/// it is no copy of an older one the receiver finds out itself, by `run` and `sequence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetMessage {
    /// Who wrote it.
    pub from: MemberName,
    /// A random number that is new with each start of the process.
    pub run: u64,
    /// Grows with each message of this run.
    pub sequence: u64,
    /// The sender's time of day, in milliseconds since 1970.
    pub sent_at: u64,
    /// What it is about to do.
    pub stage: MemberStage,
    /// What the sender has of other members.
    pub hears: BTreeMap<MemberName, LastHeard>,
    /// A digest of the addresses that the sender knows and has dealt with, whether it can serve them or not.
    pub addresses: u64,
    /// The version of the sender's terms: it grows with each change of one.
    pub version: u64,
    /// Those of them that the receiver has not said to know.
    pub terms: Option<TermChanges>,
}

/// What a member is about to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberStage {
    /// It has begun, was frozen, or can serve no address, and takes nothing yet.
    #[default]
    Listening,
    /// It takes what nobody owns.
    Ready,
    /// It is about to stop, and takes nothing.
    Leaving,
    /// It goes on, and hands over what it owns to those that are ready. It takes only what none of these takes.
    Draining,
}

/// What a member has of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastHeard {
    /// The run that wrote the last message.
    pub run: u64,
    /// The number of that message.
    pub sequence: u64,
    /// How long ago it came; nothing where that run has not been shown to be a present one.
    pub age: Option<Duration>,
    /// Up to which version the sender knows its terms.
    pub known: u64,
}

/// The terms of a member that were changed by the versions after one, up to another one: all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermChanges {
    /// Those after this version.
    pub after: u64,
    /// The last one.
    pub upto: u64,
    /// In the order of their versions.
    pub changed: Vec<TermChange>,
}

/// See [`TermChanges`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermChange {
    /// The version that changed it last.
    pub version: u64,
    /// Whose term it is.
    pub address: IpAddr,
    /// What it is from then on.
    pub term: Term,
}

/// The time during which an address has one owner, as that owner tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The terms of an address are counted: the one of the greatest number counts.
    pub number: u64,
    /// Where it stands.
    pub state: TermState,
}

/// See [`Term`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TermState {
    /// It goes on.
    Owned,
    /// It goes on until that member begins the next one, which it shall do at once.
    Offered(MemberName),
    /// It is over.
    Over,
}

impl Term {
    /// Whether the address has an owner.
    pub(super) fn goes_on(&self) -> bool {
        self.state != TermState::Over
    }
}

/// Why a message does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FleetRejection {
    /// Nobody of that name is a member.
    #[error("its sender is no member of the fleet")]
    Unknown,
    /// It was received before, or is older than one that was.
    #[error("it is a copy of an older message")]
    Replayed,
    /// Its run may be an older one that somebody plays back: it has not answered us yet.
    #[error("its sender has not answered yet")]
    NotYetPresent,
}
