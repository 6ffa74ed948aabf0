//! What the gateway of this process says of external addresses, for tables and metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use fairway_config::exchange::{AddressReport, AddressState};

use crate::feed::lock;

/// An external address, as the gateway of this process sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnAddress {
    /// What it said last.
    pub report: Arc<AddressReport>,
    /// How often it became its owner, or ceased to be.
    pub transitions: u64,
}

impl OwnAddress {
    /// Whether this gateway owns it.
    pub fn is_owned(&self) -> bool {
        self.report.state == AddressState::Owned
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses(Mutex<BTreeMap<IpAddr, OwnAddress>>);

impl OwnAddresses {
    /// Takes reports; nothing: there is none any more.
    pub(crate) fn take(&self, said: &[(IpAddr, Option<Arc<AddressReport>>)]) {
        let mut all = lock(&self.0);
        for (address, report) in said {
            let Some(report) = report else {
                all.remove(address);
                continue;
            };
            let before = all.get(address);
            let was_owned = before.is_some_and(OwnAddress::is_owned);
            let transitions = before.map_or(0, |it| it.transitions);
            let mut now = OwnAddress {
                report: Arc::clone(report),
                transitions,
            };
            now.transitions += u64::from(now.is_owned() != was_owned);
            all.insert(*address, now);
        }
    }

    /// All of them as they are now.
    pub(crate) fn all(&self) -> BTreeMap<IpAddr, OwnAddress> {
        lock(&self.0).clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::time::Timestamp;

    use super::*;

    #[test]
    fn each_time_that_an_address_comes_or_goes_is_counted_and_nothing_else() {
        let own = OwnAddresses::default();
        let address = IpAddr::from([203, 0, 113, 1]);
        let report = |state, term| {
            let report = AddressReport {
                state,
                owner: None,
                since: Timestamp(0),
                term,
                why: "".into(),
                interfaces: Vec::new(),
                conflict: None,
                successor: None,
                probe: None,
            };
            vec![(address, Some(Arc::new(report)))]
        };
        for (state, term, transitions) in [
            (AddressState::Unowned, 0, 0),
            (AddressState::Owned, 1, 1),
            (AddressState::Owned, 2, 1),
            (AddressState::Elsewhere, 3, 2),
            (AddressState::Unowned, 3, 2),
            (AddressState::Owned, 4, 3),
            (AddressState::Conflict, 4, 4),
        ] {
            own.take(&report(state, term));
            assert_eq!(
                own.all()[&address].transitions,
                transitions,
                "{state} {term}"
            );
        }
        own.take(&[(address, None)]);
        assert!(own.all().is_empty());
    }
}
