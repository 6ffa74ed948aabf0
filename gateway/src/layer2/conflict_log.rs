//! The log of address conflicts. Whoever is on the network can make one of each address, again and again: so one line
//! is for all that have begun or ended since the last one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::layer2::SeenConflict;

/// The shortest time between two lines, after some that came at once.
const QUIET: Duration = Duration::from_secs(30);

/// So many may come at once.
const AT_ONCE: u32 = 4;

/// The most addresses that one line names.
const NAMED: usize = 5;

/// What has not been logged yet, on one interface.
#[derive(Debug, Default)]
pub(super) struct ConflictLog {
    begun: BTreeMap<IpAddr, SeenConflict>,
    ended: BTreeMap<IpAddr, ()>,
    /// When the lines until now are paid for.
    quiet_until: BootTime,
}

impl ConflictLog {
    /// These conflicts have begun, and those ended.
    pub(super) fn note(
        &mut self,
        begun: Vec<(IpAddr, SeenConflict)>,
        ended: impl Iterator<Item = IpAddr>,
    ) {
        self.begun.extend(begun);
        self.ended.extend(ended.map(|it| (it, ())));
    }

    /// Logs what has not been, if it is time to.
    pub(super) fn say(&mut self, now: BootTime, interface: &str) {
        if let Some((count, addresses)) = self.take_begun(now) {
            tracing::warn!(interface, count, addresses, "address conflict");
        }
        if let Some((count, addresses)) = self.take_ended(now) {
            tracing::info!(interface, count, addresses, "address conflict is over");
        }
    }

    fn take_begun(&mut self, now: BootTime) -> Option<(usize, String)> {
        if self.begun.is_empty() || !self.may_say(now) {
            return None;
        }
        let begun = std::mem::take(&mut self.begun);
        let named = begun.iter();
        let named = named.map(|(address, it)| format!("{address} at {}", it.hardware_address));
        Some((begun.len(), list(named)))
    }

    fn take_ended(&mut self, now: BootTime) -> Option<(usize, String)> {
        // What has ended before it was told of needs no line.
        self.ended
            .retain(|address, ()| self.begun.remove(address).is_none());
        if self.ended.is_empty() || !self.may_say(now) {
            return None;
        }
        let ended = std::mem::take(&mut self.ended);
        Some((ended.len(), list(ended.keys().map(IpAddr::to_string))))
    }

    fn may_say(&mut self, now: BootTime) -> bool {
        let may = self.quiet_until.since(now) < QUIET * AT_ONCE;
        if may {
            self.quiet_until = self.quiet_until.max(now).after(QUIET);
        }
        may
    }
}

/// The first ones, and that there are more.
fn list(all: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for (n, one) in all.take(NAMED + 1).enumerate() {
        let comma = if n > 0 { ", " } else { "" };
        let one = if n < NAMED { &*one } else { "…" };
        let _ = write!(text, "{comma}{one}");
    }
    text
}

#[cfg(test)]
mod tests {
    use fairway_gateway_core::layer2::HardwareAddress;

    use super::*;

    #[test]
    fn conflicts_that_come_and_go_all_the_time_are_some_lines_in_a_minute() {
        let mut log = ConflictLog::default();
        let seen = SeenConflict {
            hardware_address: HardwareAddress([2, 0, 0, 0, 0, 1]),
            since: BootTime::default(),
        };
        let all: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([198, 19, 1, n])).collect();
        let mut lines = Vec::new();
        for second in 0..600 {
            let now = BootTime(Duration::from_secs(1_000 + second));
            match second % 2 {
                0 => log.note(
                    all.iter().map(|it| (*it, seen)).collect(),
                    std::iter::empty(),
                ),
                _ => log.note(Vec::new(), all.iter().copied()),
            }
            lines.extend(log.take_begun(now));
            lines.extend(log.take_ended(now));
        }
        assert!(lines.len() <= 24, "{}", lines.len());
        let (count, named) = &lines[0];
        assert_eq!(*count, 200);
        assert!(named.starts_with("198.19.1.0 at 02:00:00:00:00:01, 198.19.1.1"));
        assert!(
            named.ends_with("198.19.1.4 at 02:00:00:00:00:01, …"),
            "{named}"
        );
    }
}
