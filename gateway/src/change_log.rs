//! Changes of routes and listeners, collected over a batch and written to the log as one line for each kind.

use std::collections::BTreeMap;

/// The most addresses or listeners that a line names; the others are counted.
const NAMED: usize = 10;

/// A change of one address or listener. Often many change at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LoggedChange {
    /// An address was made local by a route.
    RouteMade,
    /// Such a route was removed.
    RouteRemoved,
    /// A listener that had failed listens now.
    ListenerRecovered,
    /// A listener can't be opened.
    ListenerFailed {
        /// The reason, in one word.
        reason: String,
        /// The reason, as a clause.
        error: String,
    },
}

/// The changes since the last line.
#[derive(Debug, Default)]
pub(crate) struct ChangeLog(BTreeMap<LoggedChange, Vec<String>>);

impl ChangeLog {
    /// Notes a change of an address or a listener.
    pub(crate) fn note(&mut self, change: LoggedChange, what: String) {
        self.0.entry(change).or_default().push(what);
    }

    /// Writes the changes to the log, one line for each kind.
    pub(crate) fn write(&mut self) {
        for (change, all) in std::mem::take(&mut self.0) {
            let (count, named) = (all.len(), named(&all));
            match change {
                LoggedChange::RouteMade => {
                    tracing::info!(count, addresses = named, "made local by routes");
                }
                LoggedChange::RouteRemoved => {
                    tracing::info!(count, addresses = named, "local routes removed");
                }
                LoggedChange::ListenerRecovered => {
                    tracing::info!(count, listeners = named, "listeners listen again");
                }
                LoggedChange::ListenerFailed { reason, error } => {
                    tracing::warn!(
                        count,
                        listeners = named,
                        reason,
                        error,
                        "listeners can't be opened"
                    );
                }
            }
        }
    }
}

fn named(all: &[String]) -> String {
    let some = all.get(..NAMED).unwrap_or(all).join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_some_and_counts_the_rest() {
        let all = |count| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(named(&all(2)), "0, 1");
        assert_eq!(named(&all(10)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9");
        assert_eq!(
            named(&all(200)),
            "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 190 more"
        );
    }
}
