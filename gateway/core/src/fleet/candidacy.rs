//! Who may own an address, and how an address stands among them.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::message::MemberName;
use super::rank::rank;
use super::timing::BootTime;

/// Who may own an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidacy {
    /// The members that may, by what the cluster says of their nodes.
    pub candidates: Arc<BTreeSet<MemberName>>,
    /// Those of them that come before all others, since they serve more of what is there. None: all are alike.
    pub preferred: Arc<BTreeSet<MemberName>>,
    /// Whether this gateway can serve it now.
    pub ability: Ability,
    /// What its checks say of the endpoints.
    pub reach: EndpointReach,
}

/// What the checks of a gateway say of the endpoints behind an address. Each gateway knows its own alone: who fails to
/// reach them offers the address, and only who has nothing against them takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointReach {
    /// It reaches some of each port, or they are not checked.
    #[default]
    NothingAgainst,
    /// They are checked, and none has passed yet.
    Unknown,
    /// All endpoints of a port fail.
    Failing,
}

/// Whether a gateway can serve an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ability {
    /// It can.
    Able,
    /// It takes it no more. Where it owns it, it goes on with the connections that it has, and answers until another
    /// one has taken it or nobody does.
    Ceasing,
    /// It can't.
    #[default]
    Unable,
}

/// An address that members contend for.
#[derive(Debug, Default)]
pub(super) struct Contest {
    named: Arc<BTreeSet<MemberName>>,
    /// Those that may own it, the best first.
    pub(super) candidates: Vec<MemberName>,
    preferred: Arc<BTreeSet<MemberName>>,
    pub(super) ability: Ability,
    pub(super) reach: EndpointReach,
    /// Since when this gateway can serve it.
    pub(super) able_since: BootTime,
    /// Since when it ceases to.
    pub(super) ceasing_since: BootTime,
    /// Nobody owns it since then, but for members that have become silent.
    pub(super) vacant_since: BootTime,
    /// When it was found the last time that no other host uses it.
    pub(super) free_since: Option<BootTime>,
    /// Since when another one goes on with an older term than ours.
    pub(super) older_since: Option<BootTime>,
    /// The member that had it before this gateway took it, if one had.
    pub(super) taken_from: Option<MemberName>,
    /// Whom it was offered to, in turn, and when the last time.
    pub(super) offered: Vec<MemberName>,
    pub(super) offered_at: BootTime,
}

impl Contest {
    /// An address that is new.
    pub(super) fn new(now: BootTime) -> Self {
        Self {
            vacant_since: now,
            ..Self::default()
        }
    }

    /// Whether this is so already.
    pub(super) fn is(&self, it: &Candidacy) -> bool {
        let known = (&self.named, &self.preferred, self.ability, self.reach);
        known == (&it.candidates, &it.preferred, it.ability, it.reach)
    }

    /// This is so from now on.
    pub(super) fn set(&mut self, address: IpAddr, now: BootTime, candidacy: Candidacy) {
        // Most changes concern no candidate.
        if self.named != candidacy.candidates {
            let mut sorted: Vec<_> = candidacy.candidates.iter().cloned().collect();
            sorted.sort_by_cached_key(|name| Reverse(rank(address, name)));
            self.candidates = sorted;
            self.named = candidacy.candidates;
        }
        self.preferred = candidacy.preferred;
        if !self.is_able() {
            self.able_since = now;
        }
        if self.ability != Ability::Ceasing {
            self.ceasing_since = now;
        }
        self.ability = candidacy.ability;
        self.reach = candidacy.reach;
    }

    /// Whether this gateway can serve it.
    pub(super) fn is_able(&self) -> bool {
        self.ability == Ability::Able
    }

    /// Whether a member comes before all others, or there are none that do.
    pub(super) fn is_preferred(&self, name: &str) -> bool {
        self.preferred.is_empty() || self.preferred.contains(name)
    }

    /// Whether that member goes on with the address only while no better one takes it.
    pub(super) fn is_handed_over_by(&self, name: &str) -> bool {
        let is_failing = self.reach == EndpointReach::Failing;
        self.ability == Ability::Ceasing || is_failing || !self.is_preferred(name)
    }
}
