//! `fairway.dev/balance`: `443=least-connections;slow-start=30s,*=maglev`.
//!
//! A value is an algorithm, and after a semicolon how long an endpoint that comes back takes until it has its full
//! share.

use std::time::Duration;

use super::OptionReader;
use crate::annotations::BALANCE;
use crate::balance::{Balance, BalanceAlgorithm};
use crate::service::ServicePort;

/// The shortest and the longest slow start.
const SLOW_START: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(3600);

impl OptionReader<'_> {
    /// Reads how the endpoints of each port are chosen.
    pub(super) fn balance(&mut self, ports: &mut [ServicePort]) {
        let so = "the default is used there";
        self.each(BALANCE, ports, read, so, |port, balance| {
            port.options.balance = Some(*balance);
        });
    }
}

/// Reads one value.
fn read(text: &str) -> Result<Balance, String> {
    let (name, more) = match text.split_once(';') {
        Some((name, more)) => (name.trim(), Some(more.trim())),
        None => (text, None),
    };
    let algorithm = BalanceAlgorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.as_str() == name)
        .ok_or_else(|| format!("must be {}", algorithms()))?;
    let slow_start = more.map(slow_start).transpose()?;
    if slow_start.is_some() && algorithm.is_by_client() {
        return Err(format!(
            "must be {name} alone: a slow start would have gateways choose differently for a client"
        ));
    }
    Ok(Balance {
        algorithm,
        slow_start,
    })
}

/// The algorithms in a row: `a, b or c`.
fn algorithms() -> String {
    let mut names = BalanceAlgorithm::ALL.map(BalanceAlgorithm::as_str).to_vec();
    let last = names.pop().unwrap_or_default();
    format!("{} or {last}", names.join(", "))
}

fn slow_start(text: &str) -> Result<Duration, String> {
    let must = || {
        "must have slow-start=TIME after the semicolon, from 1s to 1h, as in slow-start=30s"
            .to_owned()
    };
    let time = text
        .strip_prefix("slow-start")
        .and_then(|rest| rest.trim_start().strip_prefix('='))
        .and_then(|time| duration(time.trim()))
        .ok_or_else(must)?;
    SLOW_START.contains(&time).then_some(time).ok_or_else(must)
}

/// A number with its unit: `500ms`, `30s`, `2m`, `1h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().ok()?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return None,
    };
    unit.checked_mul(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::super::set_options;
    use super::*;
    use crate::net::Protocol;

    /// What is said of 443/TCP and of 53/UDP, and the notices.
    fn said(text: &str) -> ([Option<Balance>; 2], Vec<String>) {
        let mut ports = [
            ServicePort::new(Protocol::Tcp, 443),
            ServicePort::new(Protocol::Udp, 53),
        ];
        let notices = set_options(&BTreeMap::from([(BALANCE, text)]), &mut ports);
        assert!(notices.iter().all(|it| &*it.reason == "InvalidAnnotation"));
        let messages = notices.into_iter().map(|it| it.message).collect();
        (ports.map(|port| port.options.balance), messages)
    }

    fn balance(algorithm: BalanceAlgorithm, seconds: u64) -> Option<Balance> {
        Some(Balance {
            algorithm,
            slow_start: (seconds > 0).then(|| Duration::from_secs(seconds)),
        })
    }

    #[test]
    fn every_algorithm_is_read() {
        for algorithm in BalanceAlgorithm::ALL {
            let (found, notices) = said(algorithm.as_str());
            assert_eq!(found, [balance(algorithm, 0); 2]);
            assert_eq!(notices, [""; 0]);
        }
    }

    #[test]
    fn scopes_and_slow_starts() {
        use BalanceAlgorithm::{LeastConnections, Maglev, RandomTwo, RoundRobin};
        let table = [
            (
                "443=least-connections,*=maglev",
                [balance(LeastConnections, 0), balance(Maglev, 0)],
            ),
            (
                " 443 = least-connections ; slow-start = 30s , 53/UDP=random-two",
                [balance(LeastConnections, 30), balance(RandomTwo, 0)],
            ),
            ("round-robin;slow-start=2m", [balance(RoundRobin, 120); 2]),
            (
                "443=round-robin;slow-start=1h",
                [balance(RoundRobin, 3600), None],
            ),
            ("", [None, None]),
        ];
        for (text, wanted) in table {
            assert_eq!(said(text), (wanted, Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_and_the_default_is_used() {
        let table = [
            ("fastest", "has 'fastest', must be round-robin, "),
            ("443=Maglev", "has 'Maglev', must be round-robin, "),
            ("443=;slow-start=30s", "has ';slow-start=30s', must be "),
            ("443=maglev;slow-start=30s", "must be maglev alone"),
            ("random-two;slow-start", "from 1s to 1h"),
            ("random-two;slow-start=30", "from 1s to 1h"),
            ("random-two;slow-start=-3s", "from 1s to 1h"),
            ("random-two;slow-start=999ms", "from 1s to 1h"),
            ("random-two;slow-start=61m", "from 1s to 1h"),
            ("random-two;slow-start=99999999999s", "from 1s to 1h"),
            ("random-two;slow-start=30s;slow-start=30s", "from 1s to 1h"),
            ("random-two;", "from 1s to 1h"),
            (
                "80=maglev",
                "names port 80, which the Service does not have",
            ),
        ];
        for (text, part) in table {
            let (found, notices) = said(text);
            assert_eq!(found, [None, None], "{text}");
            assert_eq!(notices.len(), 1, "{text}: {notices:?}");
            let notice = &notices[0];
            assert!(notice.starts_with(BALANCE), "{notice}");
            assert!(notice.contains(part), "{notice}");
            assert!(notice.contains("the default"), "{notice}");
        }
        let (found, notices) = said("443=nonsense,*=maglev");
        // What is said for the others was not meant for this one.
        assert_eq!(found, [None, balance(BalanceAlgorithm::Maglev, 0)]);
        assert_eq!(notices.len(), 1);
    }
}
