//! What the log says of checks: a bounded number of lines.

use std::collections::BTreeSet;

use fairway_config::names::ServiceName;
use fairway_config::net::EndpointAddr;
use fairway_config::service::PortKey;
use fairway_gateway_core::checks::CheckNews;
use fairway_gateway_core::health::CheckVerdict;
use fairway_gateway_core::route::Tick;
use fairway_gateway_core::service_lines::ServiceLines;

/// The lines, and their bound.
#[derive(Debug, Default)]
pub(super) struct CheckLog {
    lines: ServiceLines,
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
                if self.lines.may_say(service) {
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
        if self.lines.may_say(service) {
            tracing::warn!(
                %service, %port,
                "all endpoints fail their check: it is ignored, and traffic goes to all of them"
            );
        }
    }

    /// Says how many lines had no room in the minute that is over.
    fn turn(&mut self, now: Tick) {
        let unsaid = self.lines.turn(now);
        if unsaid > 0 {
            tracing::warn!(
                lines = unsaid,
                "more was to be said of endpoints that fail their checks: see fairway get endpoints"
            );
        }
    }
}
