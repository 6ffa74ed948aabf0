//! The filter of the log: which lines are written.

use std::fmt;

use fairway_config::field::nearest;
use tracing_subscriber::EnvFilter;

/// Libraries that log faults of clients, some of them as errors. They are off, because a client
/// could fill the log; `h2=debug` turns one on.
const QUIET: &str = "h2=off,hyper=off,hyper_util=off,pingora_core=off,pingora_http=off,\
                     pingora_pool=off,pingora_proxy=off,pingora_runtime=off,tower=off";

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level, or levels of parts of the program: `warn,fairway_gateway=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFilter(String);

impl LogFilter {
    /// Reads a filter. A target that does not exist is no error.
    ///
    /// # Errors
    /// With a sentence that says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() {
                continue;
            }
            // tracing would take a single word that is no level for the name of a module.
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            let level = level.to_ascii_lowercase();
            if !LEVELS.contains(&level.as_str()) {
                let same_letters = |known: &&str| letters(known) == letters(&level);
                let meant = LEVELS
                    .into_iter()
                    .find(same_letters)
                    .or_else(|| nearest(&level, LEVELS))
                    .map(|level| format!("; is {level} meant?"))
                    .unwrap_or_default();
                return Err(format!(
                    "'{part}' must be a level ({}) or MODULE=LEVEL{meant}",
                    LEVELS.join(", ")
                ));
            }
            parts.push(part);
        }
        if parts.is_empty() {
            return Err(format!("a level is missing: one of {}", LEVELS.join(", ")));
        }
        let filter = Self(parts.join(","));
        EnvFilter::try_new(&filter.0).map_err(|error| format!("'{}': {error}", filter.0))?;
        Ok(filter)
    }

    /// The same as a filter of tracing. The libraries above are off unless they are named.
    pub(super) fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::new(format!("{QUIET},{}", self.0))
    }
}

/// The letters of a word, in order: two that were swapped are what is mistyped most.
fn letters(word: &str) -> Vec<u8> {
    let mut letters = word.as_bytes().to_vec();
    letters.sort_unstable();
    letters
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_levels_of_modules_and_anything_else_is_an_error_that_helps() {
        for (text, read) in [
            ("debug", "debug"),
            ("WARN", "WARN"),
            (" info , h2=debug,", "info,h2=debug"),
            ("fairway_gateway::http=trace", "fairway_gateway::http=trace"),
        ] {
            assert_eq!(LogFilter::parse(text).unwrap().to_string(), read);
        }
        for (text, says) in [
            ("debgu", "is debug meant?"),
            ("info,fairway_gateway=wran", "is warn meant?"),
            ("fairway_gateway", "must be a level (off, error"),
            ("", "a level is missing"),
            ("info=", "must be a level"),
        ] {
            let error = LogFilter::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        use tracing_subscriber::layer::SubscriberExt as _;

        let heard = |filter: &str| {
            let filter = LogFilter::parse(filter).unwrap().to_env_filter();
            let log = tracing_subscriber::registry().with(filter);
            tracing::subscriber::with_default(log, || {
                (
                    tracing::event_enabled!(target: "h2::server", tracing::Level::ERROR),
                    tracing::event_enabled!(target: "fairway", tracing::Level::DEBUG),
                )
            })
        };
        assert_eq!(heard("info"), (false, false));
        assert_eq!(heard("debug"), (false, true));
        assert_eq!(heard("info,h2=error"), (true, false));
    }
}
