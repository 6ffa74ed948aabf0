//! What was done to many things in one batch, said in one line for each kind of it.

use std::collections::BTreeMap;

/// So many things are named in a line; of the others the number is given.
const NAMED: usize = 10;

/// Something that is done to one address or listener, and often to many at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    /// An address was made local by a route.
    RouteMade,
    /// Such a route was removed.
    RouteRemoved,
    /// A listener that could not stand does.
    ListenerStands,
    /// A listener can't stand.
    ListenerFailed {
        /// Why, in a word.
        reason: String,
        /// Why, in a clause.
        error: String,
    },
}

/// What was done since it was last told.
#[derive(Debug, Default)]
pub(crate) struct Deeds(BTreeMap<Deed, Vec<String>>);

impl Deeds {
    /// It was done to this.
    pub(crate) fn note(&mut self, deed: Deed, what: String) {
        self.0.entry(deed).or_default().push(what);
    }

    /// Says it in the log, a line for each kind of deed.
    pub(crate) fn tell(&mut self) {
        for (deed, all) in std::mem::take(&mut self.0) {
            let (count, named) = (all.len(), named(&all));
            match deed {
                Deed::RouteMade => {
                    tracing::info!(count, addresses = named, "made local by routes");
                }
                Deed::RouteRemoved => {
                    tracing::info!(count, addresses = named, "local routes removed");
                }
                Deed::ListenerStands => {
                    tracing::info!(count, listeners = named, "listeners stand");
                }
                Deed::ListenerFailed { reason, error } => {
                    tracing::warn!(
                        count,
                        listeners = named,
                        reason,
                        error,
                        "listeners can't stand"
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
