//! What the log says of checks: a bounded number of lines.

use std::collections::{BTreeMap, BTreeSet};

use fairway_config::names::ServiceName;
use fairway_config::net::EndpointAddr;
use fairway_config::service::PortKey;
use fairway_gateway_core::checks::CheckNews;
use fairway_gateway_core::health::CheckVerdict;
use fairway_gateway_core::route::Tick;

/// The most lines in one [`WINDOW`] that say that an endpoint fails, for all Services and for one; further lines are
/// counted.
const LINES: usize = 30;
const LINES_OF_ONE: usize = 3;
/// In milliseconds.
const WINDOW: u64 = 60_000;

/// The lines, and their bound.
#[derive(Debug, Default)]
pub(super) struct CheckLog {
    began: Option<Tick>,
    lines: usize,
    lines_of: BTreeMap<ServiceName, usize>,
    unsaid: usize,
    /// The endpoints that were said to fail. Only of these the end is said, so it has the same bound.
    said: BTreeSet<(ServiceName, PortKey, EndpointAddr)>,
}

impl CheckLog {
    /// Says what is new of an endpoint.
    pub(super) fn say(
        &mut self,
        service: &ServiceName,
        port: PortKey,
        news: &CheckNews,
        now: Tick,
    ) {
        self.turn(now);
        let endpoint = news.endpoint;
        let key = (service.clone(), port, endpoint);
        match &news.verdict {
            Some(CheckVerdict::Failing { why, .. }) => {
                if self.may_say(service) {
                    self.said.insert(key);
                    tracing::warn!(%service, %port, %endpoint, %why, "endpoint fails its check");
                }
            }
            Some(CheckVerdict::Passing) => {
                if self.said.remove(&key) {
                    tracing::info!(%service, %port, %endpoint, "endpoint passes its check again");
                }
            }
            None => {
                self.said.remove(&key);
            }
        }
    }

    /// Says that all endpoints of a port fail.
    pub(super) fn ignored(&mut self, service: &ServiceName, port: PortKey, now: Tick) {
        self.turn(now);
        if self.may_say(service) {
            tracing::warn!(
                %service, %port,
                "all endpoints fail their check: it is ignored, and traffic goes to all of them"
            );
        }
    }

    /// Whether there is room for a line about this Service.
    fn may_say(&mut self, service: &ServiceName) -> bool {
        let of = self.lines_of.entry(service.clone()).or_default();
        let may = self.lines < LINES && *of < LINES_OF_ONE;
        if may {
            self.lines += 1;
            *of += 1;
        } else {
            self.unsaid += 1;
        }
        may
    }

    /// Begins a new window when the last one is over, and says how many lines had no room in it.
    fn turn(&mut self, now: Tick) {
        if self.began.is_some_and(|began| now.0 < began.0 + WINDOW) {
            return;
        }
        if self.unsaid > 0 {
            tracing::warn!(
                lines = self.unsaid,
                "more was to be said of endpoints that fail their checks: see fairway get endpoints"
            );
        }
        *self = Self {
            began: Some(now),
            said: std::mem::take(&mut self.said),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_for_one_service_and_for_all() {
        let mut log = CheckLog::default();
        let said = |log: &mut CheckLog, name: &str, times: usize| {
            let service = ServiceName::new("web", name);
            (0..times).filter(|_| log.may_say(&service)).count()
        };
        log.turn(Tick(0));
        assert_eq!(said(&mut log, "shop", 100), LINES_OF_ONE);
        let others: usize = (0..100)
            .map(|number| said(&mut log, &number.to_string(), 5))
            .sum();
        assert_eq!(LINES_OF_ONE + others, LINES);
        log.turn(Tick(WINDOW - 1));
        assert_eq!(said(&mut log, "shop", 1), 0);
        log.turn(Tick(WINDOW));
        assert_eq!(said(&mut log, "shop", 100), LINES_OF_ONE);
    }
}
