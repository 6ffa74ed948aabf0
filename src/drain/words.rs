//! What people are told, and how often is looked for it.

use std::io::Write as _;
use std::time::Duration;

use crate::table;

/// How often the gateway is looked at.
pub(super) const EVERY: Duration = Duration::from_millis(250);

/// Prints one line; that nobody reads it is no error.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{}", table::printable(line));
}

pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "fairway: {}", table::printable(line));
}
