//! Values for single ports: `443=tcp,*=http:/healthz`.
//!
//! An entry is a scope, `=` and a value; an entry without a scope is for all ports. A scope is a port's number,
//! number and protocol (`53/UDP`), its name, or `*`. Where several match a port the most exact one counts, in this
//! order. Entries are separated by commas, so no value has one.

use std::fmt;

use super::parse;
use crate::field::Shown;
use crate::net::Protocol;
use crate::service::{PortKey, ServicePort};

/// What an annotation says for each port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scoped<T> {
    /// Each scope once; none in place of a value: it can't be read.
    entries: Vec<(PortScope, Option<T>)>,
}

impl<T> Default for Scoped<T> {
    /// Nothing is said for any port.
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<T> Scoped<T> {
    /// What is said for this port. Where the most exact entry can't be read that is nothing: what another entry says of
    /// more ports is not what was meant for this one.
    pub fn of(&self, port: &ServicePort) -> Option<&T> {
        let matching = self.entries.iter().filter(|(scope, _)| scope.has(port));
        matching
            .min_by_key(|(scope, _)| scope.rank())
            .and_then(|(_, value)| value.as_ref())
    }

    /// Whether nothing is said for any port.
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    /// The values of all scopes.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, value)| value.as_ref())
    }
}

/// Which ports an entry is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortScope {
    /// One port, by number and protocol.
    Key(PortKey),
    /// The ports with this number.
    Number(u16),
    /// The port with this name.
    Name(Box<str>),
    /// All ports: `*`, or no scope.
    All,
}

impl PortScope {
    /// The scope that a text stands for; none where it can't be one.
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Ok(number) = text.parse::<u16>() {
            return Some(Self::Number(number));
        }
        if let Some((number, protocol)) = text.split_once('/') {
            let port = number.parse().ok()?;
            let protocol = Protocol::ALL
                .into_iter()
                .find(|known| known.as_str().eq_ignore_ascii_case(protocol))?;
            return Some(Self::Key(PortKey { protocol, port }));
        }
        parse::is_dns_label(text).then(|| Self::Name(text.into()))
    }

    fn has(&self, port: &ServicePort) -> bool {
        match self {
            Self::Key(key) => port.key() == *key,
            Self::Number(number) => port.port == *number,
            Self::Name(name) => port.name.as_deref() == Some(name),
            Self::All => true,
        }
    }

    /// The lower, the more exact.
    fn rank(&self) -> u8 {
        match self {
            Self::Key(_) => 0,
            Self::Number(_) => 1,
            Self::Name(_) => 2,
            Self::All => 3,
        }
    }
}

impl fmt::Display for PortScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::All => f.write_str("*"),
        }
    }
}

/// A text that was read, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedText<T> {
    /// The entries that can be read.
    pub values: Scoped<T>,
    /// What can't be read: each reads on after the annotation's name.
    pub problems: Vec<ScopedProblem>,
}

/// What is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedProblem {
    /// The ports that the entry is for.
    pub scope: PortScope,
    /// What is wrong: «has '443=tpc', which is …».
    pub message: String,
}

/// Reads a text of an annotation, each value by `read`. Its error ends a sentence that begins with the value:
/// «must be tcp or http:/PATH». `ports` are the Service's, where they are known: a scope that none of them has is a problem.
pub fn scoped<T>(
    text: &str,
    ports: &[ServicePort],
    read: impl Fn(&str) -> Result<T, String>,
) -> ScopedText<T> {
    let mut entries: Vec<(PortScope, Option<T>)> = Vec::new();
    let mut problems = Vec::new();
    for entry in parse::list(text) {
        let (scope, value) = split(entry);
        let mut problem = |message| {
            problems.push(ScopedProblem {
                scope: scope.clone(),
                message,
            });
        };
        if !ports.is_empty() && !ports.iter().any(|port| scope.has(port)) {
            problem(format!(
                "names port {}, which the Service does not have",
                Shown(&scope.to_string())
            ));
        } else if entries.iter().any(|(other, _)| *other == scope) {
            problem(format!(
                "says two things of port {scope}: the first one counts"
            ));
        } else {
            let value = read(value)
                .map_err(|must| problem(format!("has '{}', {must}", Shown(value))))
                .ok();
            entries.push((scope, value));
        }
    }
    ScopedText {
        values: Scoped { entries },
        problems,
    }
}

/// Scope and value. A value may have `=` in it, so what is before the first one is a scope only if it reads as one.
fn split(entry: &str) -> (PortScope, &str) {
    if let Some((scope, value)) = entry.split_once('=')
        && let Some(scope) = PortScope::parse(scope.trim())
    {
        return (scope, value.trim());
    }
    (PortScope::All, entry)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ports() -> Vec<ServicePort> {
        let mut https = ServicePort::new(Protocol::Tcp, 443);
        https.name = Some("https".into());
        let mut dns = ServicePort::new(Protocol::Udp, 53);
        dns.name = Some("dns".into());
        let mut dns_tcp = ServicePort::new(Protocol::Tcp, 53);
        dns_tcp.name = Some("dns-tcp".into());
        vec![https, dns, dns_tcp]
    }

    fn read(text: &str) -> ScopedText<String> {
        scoped(text, &ports(), |value| match value {
            "bad" => Err("must be good".to_owned()),
            value => Ok(value.to_owned()),
        })
    }

    /// What the text says for 443/TCP, 53/UDP and 53/TCP.
    fn says(text: &str) -> [Option<String>; 3] {
        let values = read(text).values;
        let mut ports = ports().into_iter();
        std::array::from_fn(|_| values.of(&ports.next().unwrap()).cloned())
    }

    #[test]
    fn the_most_exact_scope_counts() {
        let some = |text: &str| Some(text.to_owned());
        let table: [(&str, [Option<String>; 3]); 9] = [
            ("", [None, None, None]),
            ("a", [some("a"), some("a"), some("a")]),
            ("*=a", [some("a"), some("a"), some("a")]),
            ("443=a", [some("a"), None, None]),
            ("443=a, *=b", [some("a"), some("b"), some("b")]),
            ("*=b,443=a", [some("a"), some("b"), some("b")]),
            ("53/UDP=a,53=b", [None, some("a"), some("b")]),
            ("53/udp=a,dns=b,dns-tcp=c", [None, some("a"), some("c")]),
            (
                "http:/x?y=z",
                [
                    some("http:/x?y=z"),
                    some("http:/x?y=z"),
                    some("http:/x?y=z"),
                ],
            ),
        ];
        for (text, wanted) in table {
            assert_eq!(says(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_names_the_entry_and_the_others_count() {
        let table = [
            ("443=bad,53=a", "443", "has 'bad', must be good"),
            (
                "444=a",
                "444",
                "names port 444, which the Service does not have",
            ),
            (
                "ftp=a",
                "ftp",
                "names port ftp, which the Service does not have",
            ),
            (
                "443=a,443=b",
                "443",
                "says two things of port 443: the first one counts",
            ),
            ("bad", "*", "has 'bad', must be good"),
        ];
        for (text, scope, message) in table {
            let found = read(text);
            let problem = found.problems.first().unwrap();
            assert_eq!(problem.scope.to_string(), scope, "{text}");
            assert_eq!(problem.message, message, "{text}");
            assert_eq!(found.problems.len(), 1, "{text}");
        }
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(says("443=bad,53=a"), [None, some("a"), some("a")]);
        // The entry for all ports does not stand in for one that can't be read.
        assert_eq!(says("443=bad,*=a"), [None, some("a"), some("a")]);
        assert_eq!(says("443=a,*=bad"), [some("a"), None, None]);
    }
}
