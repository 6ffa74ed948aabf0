//! One place: who wants it, who has it, and how it stands.

use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::ClaimKind;
use fairway_config::names::ServiceName;
use tokio::time::Instant;

use crate::binding::Binding;
use crate::slot::{BindKey, Slot, Target};
use crate::socket::BindError;

/// After a failure a place is tried again after the first, then after ever longer times.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// The longest where nothing changes by itself: an address that is not the host's. (One that comes
/// to an interface is noticed; see [`super::Programmer::addresses_changed`].)
const RETRY_ADDRESS: Duration = Duration::from_secs(5);

/// What a Service wants at one place.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) place: BindKey,
    /// The port that reports show.
    pub(crate) port: u16,
    pub(crate) target: Target,
}

/// One place.
#[derive(Debug)]
pub(super) struct PlaceState {
    pub(super) slot: Arc<Slot>,
    /// Who has it.
    pub(super) owner: ServiceName,
    /// All who want it.
    pub(super) claimants: Claimants,
    pub(super) standing: BindState,
}

impl PlaceState {
    /// Whether it is one of an external address.
    pub(super) fn is_vip(&self) -> bool {
        self.slot.target.load().kind() == ClaimKind::Vip
    }
}

/// Who wants a place, by name. There is one, but for the moment between two batches in which a place
/// passes from one Service to another: so it is no map, whose nodes have room for eleven.
#[derive(Debug, Default)]
pub(super) struct Claimants(Vec<(ServiceName, Wanted)>);

impl Claimants {
    pub(super) fn insert(&mut self, service: ServiceName, wanted: Wanted) {
        match self.find(&service) {
            Ok(found) => {
                if let Some((_, there)) = self.0.get_mut(found) {
                    *there = wanted;
                }
            }
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (service, wanted));
            }
        }
    }

    pub(super) fn remove(&mut self, service: &ServiceName) {
        self.0.retain(|(name, _)| name != service);
    }

    pub(super) fn get(&self, service: &ServiceName) -> Option<&Wanted> {
        let (_, wanted) = self.0.get(self.find(service).ok()?)?;
        Some(wanted)
    }

    pub(super) fn contains(&self, service: &ServiceName) -> bool {
        self.find(service).is_ok()
    }

    pub(super) fn first(&self) -> Option<&ServiceName> {
        self.0.first().map(|(service, _)| service)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = ServiceName> {
        self.0.iter().map(|(service, _)| service.clone())
    }

    fn find(&self, service: &ServiceName) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| name.cmp(service))
    }
}

#[derive(Debug)]
pub(super) enum BindState {
    /// Not tried yet.
    New,
    /// Sockets stand.
    Listening(Binding),
    /// No endpoints, so no sockets.
    Refusing,
    /// It can't stand.
    Failed(Box<Failed>),
}

/// Why a place can't stand, and when it is tried again.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) error: BindError,
    /// The time since the last try.
    retry: Duration,
    pub(super) at: Instant,
}

impl Failed {
    /// What comes of an error at `now`, where the try before ended so.
    pub(super) fn next(before: Option<&Self>, error: BindError, now: Instant) -> Self {
        let longest = match error {
            BindError::AddressNotLocal(_) => RETRY_ADDRESS,
            _ => RETRY_LONGEST,
        };
        let retry = match before {
            Some(before) if before.error == error => (before.retry * 2).min(longest),
            _ => RETRY_FIRST,
        };
        Self {
            error,
            retry,
            at: now + retry,
        }
    }
}
