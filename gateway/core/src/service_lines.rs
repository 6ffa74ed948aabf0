//! How many lines a log may have about Services: a bound for one and for all, so that the endpoints or clients of one
//! tenant fill neither the log nor the others' part of it.

use std::collections::BTreeMap;

use fairway_config::names::ServiceName;

use crate::route::Tick;

/// The most lines in one minute, for all Services.
pub const LINES: usize = 30;
/// The most of them for one Service.
pub const LINES_OF_ONE: usize = 3;
/// In milliseconds.
const WINDOW: u64 = 60_000;

/// Counts the lines of one kind.
#[derive(Debug, Default)]
pub struct ServiceLines {
    began: Option<Tick>,
    lines: usize,
    lines_of: BTreeMap<ServiceName, usize>,
    unsaid: usize,
}

impl ServiceLines {
    /// Begins a new minute where the last one is over. Returns how many lines had no room in it: to be said, where it is
    /// more than none.
    pub fn turn(&mut self, now: Tick) -> usize {
        if self.began.is_some_and(|began| now.0 < began.0 + WINDOW) {
            return 0;
        }
        let last = std::mem::replace(
            self,
            Self {
                began: Some(now),
                ..Self::default()
            },
        );
        last.unsaid
    }

    /// Whether there is room for a line about this Service; counts it in either case.
    pub fn may_say(&mut self, service: &ServiceName) -> bool {
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

    /// Whether a line had no room, which [`turn`](Self::turn) will tell.
    pub fn has_unsaid(&self) -> bool {
        self.unsaid > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_for_one_service_and_for_all() {
        let mut lines = ServiceLines::default();
        let said = |lines: &mut ServiceLines, name: &str, times: usize| {
            let service = ServiceName::new("web", name);
            (0..times).filter(|_| lines.may_say(&service)).count()
        };
        assert_eq!(lines.turn(Tick(0)), 0);
        assert_eq!(said(&mut lines, "shop", 100), LINES_OF_ONE);
        let others: usize = (0..100)
            .map(|number| said(&mut lines, &number.to_string(), 5))
            .sum();
        assert_eq!(LINES_OF_ONE + others, LINES);
        assert_eq!(lines.turn(Tick(WINDOW - 1)), 0);
        assert_eq!(said(&mut lines, "shop", 1), 0);
        assert!(lines.has_unsaid());
        assert_eq!(lines.turn(Tick(WINDOW)), 100 + 500 + 1 - LINES);
        assert!(!lines.has_unsaid());
        assert_eq!(said(&mut lines, "shop", 100), LINES_OF_ONE);
    }
}
