//! The limits of a port in words: which hold, and whom they have turned away lately.

use std::time::Duration;

use fairway_config::net::Protocol;
use fairway_gateway_core::route::{RoutePort, Tick};

use crate::port::Port;
use crate::refusal_words::in_words;

/// What holds for a port; none: no limit.
pub(crate) fn sentence(route: &RoutePort) -> Option<String> {
    let limits = &route.limits;
    let is_udp = route.key.protocol == Protocol::Udp;
    let what = if is_udp { "flows" } else { "connections" };
    let mut parts = Vec::new();
    if let Some(most) = limits.per_client {
        parts.push(format!("{most} {what} per client"));
    }
    if let Some(rate) = limits.rate {
        let (per_second, burst) = (rate.per_second, rate.burst);
        parts.push(format!(
            "{per_second} new connections per second per client ({burst} at once)"
        ));
    }
    if let Some(most) = limits.flows {
        parts.push(format!("{most} flows of all clients"));
    }
    if let Some(idle) = limits.idle {
        parts.push(format!("{what} end after {} without a byte", short(idle)));
    }
    if route.options.limits.closed {
        parts.push("nobody is let in, for a limit can't be read".to_owned());
    }
    (!parts.is_empty()).then(|| format!("Port {}: {}.", route.key, parts.join("; ")))
}

/// Whom a port has turned away in the last minute, as the rest of a sentence: «refused 312 connections in the last
/// minute: over connections-per-client 20»; one for each reason.
pub(crate) fn refused(port: &Port, now: Tick) -> Vec<String> {
    let route = port.route();
    let refused = port.refused_lately(now).into_iter();
    let refused = refused.filter(|(_, count)| *count > 0);
    let words = refused.map(|(why, count)| {
        let what = match (route.key.protocol, count) {
            (Protocol::Udp, 1) => "datagram",
            (Protocol::Udp, _) => "datagrams",
            (_, 1) => "connection",
            (_, _) => "connections",
        };
        let why = in_words(why, &route);
        format!("refused {count} {what} in the last minute: {why}")
    });
    words.collect()
}

/// A time as people write it: `1h`, `90s`.
fn short(time: Duration) -> String {
    let millis = time.as_millis();
    match (millis % 3_600_000, millis % 60_000, millis % 1000) {
        (0, _, _) => format!("{}h", millis / 3_600_000),
        (_, 0, _) => format!("{}m", millis / 60_000),
        (_, _, 0) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::num::NonZeroU32;
    use std::sync::Arc;

    use fairway_config::names::ServiceName;
    use fairway_config::port_limits::LimitsInForce;
    use fairway_config::service::PortKey;
    use fairway_gateway_core::route::EndpointSet;

    use super::*;
    use crate::counters::Rejection;

    #[test]
    fn limits_and_refusals_are_said() {
        let key = PortKey {
            protocol: Protocol::Tcp,
            port: 443,
        };
        let service = ServiceName::new("web", "shop");
        let mut route = RoutePort::new(service, key, EndpointSet::default());
        assert_eq!(sentence(&route), None);
        route.limits = LimitsInForce {
            per_client: NonZeroU32::new(20),
            rate: Some("10;burst=50".parse().unwrap()),
            idle: Some(Duration::from_secs(5400)),
            ..LimitsInForce::default()
        };
        assert_eq!(
            sentence(&route).unwrap(),
            "Port 443/TCP: 20 connections per client; 10 new connections per second per client (50 at once); \
             connections end after 90m without a byte."
        );
        let port = Port::new(Arc::new(route), 1);
        let now = Tick(100_000);
        assert_eq!(refused(&port, now), [""; 0]);
        port.refuse_many(Rejection::ConnectionsPerClient, 312, now);
        port.refuse_many(Rejection::DenyRange, 1, now);
        let said = [
            "refused 1 connection in the last minute: in deny-source-ranges",
            "refused 312 connections in the last minute: over connections-per-client 20",
        ];
        assert_eq!(refused(&port, now), said);
        assert_eq!(refused(&port, Tick(170_000)), [""; 0]);
    }

    #[test]
    fn times_are_short() {
        for (millis, said) in [
            (3_600_000, "1h"),
            (5_400_000, "90m"),
            (90_000, "90s"),
            (1_500, "1500ms"),
        ] {
            assert_eq!(short(Duration::from_millis(millis)), said);
        }
    }
}
