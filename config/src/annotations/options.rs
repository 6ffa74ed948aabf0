//! The annotations that say how ports are carried: each is read once, and what it says stands with each port
//! ([`PortOptions`](crate::port_options::PortOptions)).

mod balance;
mod client_address;
mod health_check;
mod limits;

use std::collections::BTreeMap;

use super::scoped::{ScopedProblem, scoped};
use crate::service::{Notice, ServicePort};

/// Notices of one Service, at most.
const MOST_NOTICES: usize = 20;

/// Reads them, and sets the options of `ports`. Returns what was not understood.
pub fn set_options(annotations: &BTreeMap<&str, &str>, ports: &mut [ServicePort]) -> Vec<Notice> {
    let mut reader = OptionReader {
        annotations,
        notices: Vec::new(),
    };
    reader.balance(ports);
    reader.health_checks(ports);
    reader.client_address(ports);
    reader.limits(ports);
    reader.notices()
}

/// Reads annotations with port scopes.
pub(super) struct OptionReader<'a> {
    annotations: &'a BTreeMap<&'a str, &'a str>,
    notices: Vec<Notice>,
}

impl OptionReader<'_> {
    /// The notices, a bounded number of them: they end in a condition, and a list may have thousands of entries.
    fn notices(mut self) -> Vec<Notice> {
        let omitted = self.notices.len().saturating_sub(MOST_NOTICES);
        if omitted > 0 {
            self.notices.truncate(MOST_NOTICES);
            let message = format!("{omitted} more are not listed");
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
        self.notices
    }

    /// Reads the annotation `name`, each value by `read`, and gives what it says of a port to `set`. Returns the entries that
    /// can't be read; each is said in a notice, whose end says what follows from it (`so`).
    pub(super) fn each<T>(
        &mut self,
        name: &str,
        ports: &mut [ServicePort],
        read: impl Fn(&str) -> Result<T, String>,
        so: &str,
        set: impl Fn(&mut ServicePort, &T),
    ) -> Vec<ScopedProblem> {
        let Some(text) = self.annotations.get(name) else {
            return Vec::new();
        };
        let found = scoped(text, ports, read);
        for port in ports.iter_mut() {
            if let Some(value) = found.values.of(port) {
                set(port, value);
            }
        }
        for problem in &found.problems {
            let message = format!("{name} {}: {so}", problem.message);
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
        found.problems
    }
}
