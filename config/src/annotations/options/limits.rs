//! Limits: `fairway.dev/connections-per-client` (`20`, `443=20,*=100`, `0` for none),
//! `fairway.dev/new-connections-per-second` (`10`, `10;burst=50`), `fairway.dev/udp-flows-per-client`,
//! `fairway.dev/udp-flows`, `fairway.dev/deny-source-ranges` with ports (`443=192.0.2.0/24;2001:db8::/64`) and
//! `fairway.dev/timeout-idle` (`90s`, `1h`, `0s` for none).

use std::num::NonZeroU32;
use std::time::Duration;

use super::OptionReader;
use super::client_address::{WhenUnreadable, ranges};
use crate::annotations::scoped::scoped;
use crate::annotations::{
    CONNECTIONS_PER_CLIENT, DENY_SOURCE_RANGES, NEW_CONNECTIONS_PER_SECOND, TIMEOUT_IDLE,
    UDP_FLOWS, UDP_FLOWS_PER_CLIENT, parse,
};
use crate::field::Shown;
use crate::net::Protocol;
use crate::port_limits::{ConnectionRate, LimitSetting, MOST, NotARate, PortLimits, number};
use crate::service::{Notice, ServicePort};

/// What follows from a limit that nobody can read.
const CLOSED: &str = "nobody is let in at this port until it can be read";

/// What follows from a time-out that nobody can read.
const DEFAULT: &str = "the gateway's default counts there";

/// The idle times that can be asked for. A shorter one would end connections whose peer is only slow.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(24);

impl OptionReader<'_> {
    /// Reads the limits of each port.
    pub(super) fn limits(&mut self, ports: &mut [ServicePort]) {
        use Protocol::{Tcp, Udp};
        let closes = Some(CLOSED);
        let per_client = |limits: &mut PortLimits, it: &_| limits.per_client = *it;
        self.limit(
            CONNECTIONS_PER_CLIENT,
            Some(Tcp),
            ports,
            count,
            closes,
            per_client,
        );
        self.limit(
            UDP_FLOWS_PER_CLIENT,
            Some(Udp),
            ports,
            count,
            closes,
            per_client,
        );
        let rate_of = |limits: &mut PortLimits, it: &_| limits.rate = *it;
        self.limit(
            NEW_CONNECTIONS_PER_SECOND,
            Some(Tcp),
            ports,
            rate,
            closes,
            rate_of,
        );
        let flows = |limits: &mut PortLimits, it: &_| limits.flows = *it;
        self.limit(UDP_FLOWS, Some(Udp), ports, count, closes, flows);
        // Without ports it is for the whole Service, and read with what else the Service asks for.
        let denied = self.annotations.get(DENY_SOURCE_RANGES);
        if denied.is_some_and(|text| text.contains('=')) {
            let closes = WhenUnreadable {
                so: CLOSED,
                close: |options| options.limits.closed = true,
            };
            self.said(
                DENY_SOURCE_RANGES,
                ports,
                ranges,
                Some(closes),
                |options, ranges| options.deny_source_ranges.clone_from(ranges),
            );
        }
        let idle_of = |limits: &mut PortLimits, it: &_| limits.idle = *it;
        self.limit(TIMEOUT_IDLE, None, ports, idle, None, idle_of);
    }

    /// Reads one annotation, which is for ports of this protocol; none: of each. What can't be read closes the ports
    /// that it is for, where `closes` says so.
    fn limit<T>(
        &mut self,
        name: &str,
        protocol: Option<Protocol>,
        ports: &mut [ServicePort],
        read: impl Fn(&str) -> Result<T, String>,
        closes: Option<&str>,
        set: impl Fn(&mut PortLimits, &T),
    ) {
        let Some(text) = self.annotations.get(name) else {
            return;
        };
        let found = scoped(text, ports, |value| Ok(read(value)));
        let is_meant =
            |port: &&mut ServicePort| protocol.is_none_or(|protocol| port.protocol == protocol);
        let mut is_used = false;
        for port in ports.iter_mut().filter(is_meant) {
            match found.values.of(port) {
                Some(Ok(value)) => set(&mut port.options.limits, value),
                Some(Err(_)) => port.options.limits.closed |= closes.is_some(),
                None => continue,
            }
            is_used = true;
        }
        let so = closes.unwrap_or(DEFAULT);
        let values = found.values.values();
        let unreadable = values.filter_map(|value| value.as_ref().err());
        let mut messages: Vec<String> = unreadable
            .map(|why| format!("{name} {why}: {so}"))
            .collect();
        let problems = found.problems.iter();
        messages.extend(problems.map(|it| format!("{name} {}: it is left out", it.message)));
        if let (true, false, Some(protocol)) = (messages.is_empty(), is_used, protocol) {
            messages.push(format!(
                "{name} is about {protocol}, and no port that it is for is of {protocol}: no effect"
            ));
        }
        for message in messages {
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
    }
}

/// A number of connections or flows; 0 is no limit.
fn count(text: &str) -> Result<LimitSetting<NonZeroU32>, String> {
    if text == "0" {
        return Ok(LimitSetting::Off);
    }
    let number = number(text).ok_or_else(|| {
        format!(
            "has '{}', must be a number from 0 (no limit) to {MOST}",
            Shown(text)
        )
    })?;
    Ok(LimitSetting::Is(number))
}

/// A rate, with its burst if one is said; 0 is no limit.
fn rate(text: &str) -> Result<LimitSetting<ConnectionRate>, String> {
    if text == "0" {
        return Ok(LimitSetting::Off);
    }
    let rate = text
        .parse()
        .map_err(|why: NotARate| format!("has '{}', {why}; 0 is no limit", Shown(text)))?;
    Ok(LimitSetting::Is(rate))
}

/// A time; 0 is no limit.
fn idle(text: &str) -> Result<LimitSetting<Duration>, String> {
    match parse::duration(text) {
        Some(Duration::ZERO) => Ok(LimitSetting::Off),
        Some(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(LimitSetting::Is(time)),
        None if text == "0" => Ok(LimitSetting::Off),
        _ => Err(format!(
            "has '{}', must be a time from 1s to 24h, as in 90s or 1h, or 0s for no limit",
            Shown(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::super::set_options;
    use super::*;

    /// What is said of 443/TCP, 80/TCP and 53/UDP, and the notices.
    fn read(annotations: &[(&str, &str)]) -> ([PortLimits; 3], Vec<String>) {
        let mut https = ServicePort::new(Protocol::Tcp, 443);
        https.name = Some("https".into());
        let mut ports = [
            https,
            ServicePort::new(Protocol::Tcp, 80),
            ServicePort::new(Protocol::Udp, 53),
        ];
        let annotations = annotations.iter().copied().collect::<BTreeMap<_, _>>();
        let notices = set_options(&annotations, &mut ports);
        assert!(notices.iter().all(|it| &*it.reason == "InvalidAnnotation"));
        let notices = notices.into_iter().map(|it| it.message).collect();
        (ports.map(|port| port.options.limits), notices)
    }

    fn is(number: u32) -> LimitSetting<NonZeroU32> {
        NonZeroU32::new(number).map_or(LimitSetting::Off, LimitSetting::Is)
    }

    fn rate_of(per_second: u32, burst: u32) -> LimitSetting<ConnectionRate> {
        LimitSetting::Is(ConnectionRate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        })
    }

    #[test]
    fn counts_by_port() {
        use LimitSetting::Default;
        let table = [
            ("20", [is(20), is(20), Default]),
            ("443=20,*=100", [is(20), is(100), Default]),
            ("https=20", [is(20), Default, Default]),
            ("*=5, 443/TCP=0", [is(0), is(5), Default]),
            ("16777216", [is(1 << 24), is(1 << 24), Default]),
        ];
        for (text, wanted) in table {
            let (limits, notices) = read(&[(CONNECTIONS_PER_CLIENT, text)]);
            assert_eq!(limits.map(|it| it.per_client), wanted, "{text}");
            assert_eq!(notices, [""; 0], "{text}");
        }
        let (limits, notices) = read(&[
            (UDP_FLOWS_PER_CLIENT, "8"),
            (UDP_FLOWS, "53=100"),
            (CONNECTIONS_PER_CLIENT, "2"),
        ]);
        assert_eq!(
            limits.clone().map(|it| it.per_client),
            [is(2), is(2), is(8)]
        );
        assert_eq!(limits.map(|it| it.flows), [Default, Default, is(100)]);
        assert_eq!(notices, [""; 0]);
    }

    #[test]
    fn rates_have_the_burst_of_a_second_unless_they_say_one() {
        let table = [
            ("10", rate_of(10, 10)),
            ("10;burst=50", rate_of(10, 50)),
            ("10 ; burst = 1", rate_of(10, 1)),
            ("0", LimitSetting::Off),
        ];
        for (text, wanted) in table {
            let (limits, notices) = read(&[(NEW_CONNECTIONS_PER_SECOND, text)]);
            assert_eq!(limits[0].rate, wanted, "{text}");
            assert_eq!(limits[2].rate, LimitSetting::Default);
            assert_eq!(notices, [""; 0], "{text}");
        }
    }

    #[test]
    fn idle_times_are_for_each_protocol() {
        let seconds = |it| LimitSetting::Is(Duration::from_secs(it));
        let (limits, notices) = read(&[(TIMEOUT_IDLE, "443=90s,53=2s,*=0s")]);
        let wanted = [seconds(90), LimitSetting::Off, seconds(2)];
        assert_eq!(limits.map(|it| it.idle), wanted);
        assert_eq!(notices, [""; 0]);
    }

    #[test]
    fn a_limit_that_can_not_be_read_closes_its_ports_alone() {
        let table = [
            (CONNECTIONS_PER_CLIENT, "2O", [true, true, false]),
            (CONNECTIONS_PER_CLIENT, "-1", [true, true, false]),
            (CONNECTIONS_PER_CLIENT, "+1", [true, true, false]),
            (CONNECTIONS_PER_CLIENT, "1.5", [true, true, false]),
            (CONNECTIONS_PER_CLIENT, "16777217", [true, true, false]),
            (CONNECTIONS_PER_CLIENT, "99999999999", [true, true, false]),
            (
                CONNECTIONS_PER_CLIENT,
                "443=many,80=3",
                [true, false, false],
            ),
            (CONNECTIONS_PER_CLIENT, "443=", [true, false, false]),
            (
                NEW_CONNECTIONS_PER_SECOND,
                "10;burst=0",
                [true, true, false],
            ),
            (NEW_CONNECTIONS_PER_SECOND, "10;burst", [true, true, false]),
            (NEW_CONNECTIONS_PER_SECOND, "10;bust=3", [true, true, false]),
            (NEW_CONNECTIONS_PER_SECOND, "0;burst=3", [true, true, false]),
            (NEW_CONNECTIONS_PER_SECOND, "80=10/s", [false, true, false]),
            (UDP_FLOWS_PER_CLIENT, "few", [false, false, true]),
            (UDP_FLOWS, "53=few", [false, false, true]),
            (TIMEOUT_IDLE, "90", [false, false, false]),
            (TIMEOUT_IDLE, "25h", [false, false, false]),
        ];
        for (name, text, wanted) in table {
            let (limits, notices) = read(&[(name, text)]);
            assert_eq!(limits.map(|it| it.closed), wanted, "{name}: {text}");
            assert_eq!(notices.len(), 1, "{name}: {text}: {notices:?}");
            let so = if wanted.contains(&true) {
                CLOSED
            } else {
                DEFAULT
            };
            assert!(notices[0].contains(so), "{notices:?}");
        }
    }

    #[test]
    fn denied_ranges_by_port() {
        let table = [
            ("443=192.0.2.0/24;2001:db8::/64", [2, 0, 0], [false; 3]),
            ("443=192.0.2.0/24,*=10.0.0.0/8", [1, 1, 1], [false; 3]),
            ("53/UDP=10.0.0.0/8", [0, 0, 1], [false; 3]),
            (
                "443=192.0.2.0/240,80=10.0.0.0/8",
                [0, 1, 0],
                [true, false, false],
            ),
            ("443=192.0.2.0/24,10.0.0.0/8", [0; 3], [true; 3]),
            // For all ports: not for this reader.
            ("192.0.2.0/24, nonsense", [0; 3], [false; 3]),
        ];
        for (text, ranges, closed) in table {
            let mut ports = [
                ServicePort::new(Protocol::Tcp, 443),
                ServicePort::new(Protocol::Tcp, 80),
                ServicePort::new(Protocol::Udp, 53),
            ];
            let annotations = BTreeMap::from([(DENY_SOURCE_RANGES, text)]);
            let notices = set_options(&annotations, &mut ports);
            let found = ports
                .each_ref()
                .map(|it| it.options.deny_source_ranges.len());
            assert_eq!(found, ranges, "{text}");
            assert_eq!(ports.map(|it| it.options.limits.closed), closed, "{text}");
            let is_bad = closed.contains(&true);
            assert_eq!(notices.len(), usize::from(is_bad), "{text}: {notices:?}");
        }
    }

    #[test]
    fn what_has_no_effect_is_said() {
        for (name, text, said) in [
            (CONNECTIONS_PER_CLIENT, "53=3", "no effect"),
            (UDP_FLOWS, "443=3", "no effect"),
            (CONNECTIONS_PER_CLIENT, "8443=3", "names port 8443"),
        ] {
            let (limits, notices) = read(&[(name, text)]);
            assert!(
                limits.iter().all(|it| *it == PortLimits::default()),
                "{text}"
            );
            assert_eq!(notices.len(), 1);
            assert!(notices[0].contains(said), "{notices:?}");
        }
    }
}
