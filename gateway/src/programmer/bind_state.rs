//! The state of one bind key: which Services request it, which one has it, and whether its sockets are open.

use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::ClaimKind;
use fairway_config::names::ServiceName;
use tokio::time::Instant;

use crate::binding::Binding;
use crate::slot::{BindKey, Slot, Target};
use crate::socket::BindError;

/// The back-off after failures: the first pause, doubled each time up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// The longest pause where the address is not local. (When it comes to an interface, that is noticed at once; see
/// [`super::Programmer::addresses_changed`].)
const RETRY_ADDRESS: Duration = Duration::from_secs(5);

/// A listener that a Service requests.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) place: BindKey,
    /// The port number in reports.
    pub(crate) port: u16,
    pub(crate) target: Target,
}

/// One bind key.
#[derive(Debug)]
pub(super) struct PlaceState {
    pub(super) slot: Arc<Slot>,
    /// The Service that has it.
    pub(super) owner: ServiceName,
    /// All Services that request it.
    pub(super) claimants: Claimants,
    pub(super) standing: BindState,
}

impl PlaceState {
    /// Whether its address is an external one.
    pub(super) fn is_vip(&self) -> bool {
        self.slot.target.load().kind() == ClaimKind::Vip
    }
}

/// The Services that request a bind key, by name. There is one, except between two batches of which one takes it from a
/// Service and the other gives it to another. So this is no map: a node of a BTreeMap has room for eleven.
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

/// Whether a bind key has sockets.
#[derive(Debug)]
pub(super) enum BindState {
    /// It was not tried yet.
    New,
    /// Its sockets are open.
    Listening(Binding),
    /// It has no endpoint, so it has no sockets.
    Refusing,
    /// Its sockets can't be opened.
    Failed(Box<Failed>),
}

/// Why sockets can't be opened, and when that is tried again.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) error: BindError,
    /// The pause after the last try.
    retry: Duration,
    pub(super) at: Instant,
}

impl Failed {
    /// The failure after an error at `now`, where `before` is the failure of the try before.
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
