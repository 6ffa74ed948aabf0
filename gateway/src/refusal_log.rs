//! What the log says of clients that are refused for a limit.

use std::sync::{Mutex, PoisonError};

use fairway_config::names::ServiceName;
use fairway_config::service::PortKey;
use fairway_gateway_core::route::Tick;
use fairway_gateway_core::service_lines::ServiceLines;

/// A port asks for a line once in this time at most, in milliseconds.
const QUIET: u64 = 60_000;

/// The lines of all ports, within the bound of lines about Services.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog(Mutex<ServiceLines>);

/// When a port may ask for a line again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QuietUntil(Tick);

impl QuietUntil {
    /// Whether the port may ask for a line now. Then it may not for a while.
    pub(crate) fn is_over(&mut self, now: Tick) -> bool {
        let is_over = self.0 <= now;
        if is_over {
            self.0 = Tick(now.0 + QUIET);
        }
        is_over
    }
}

impl RefusalLog {
    /// Clients of a port are refused, and the reason in words.
    pub(crate) fn say(&self, service: &ServiceName, port: PortKey, why: &str, now: Tick) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaid = lines.turn(now);
        if unsaid > 0 {
            tracing::warn!(
                ports = unsaid,
                "more ports have refused clients over a limit"
            );
        }
        if lines.may_say(service) {
            tracing::warn!(
                %service,
                %port,
                why,
                "clients over a limit are refused; said once in a minute, fairway_rejected_total counts them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_asks_for_a_line_once_in_a_minute() {
        let mut quiet = QuietUntil::default();
        let asks = [0, 1, 59_999, 60_000, 60_001, 119_999, 120_000];
        let may = asks.map(|now| quiet.is_over(Tick(now)));
        assert_eq!(may, [true, false, false, true, false, false, true]);
    }
}
