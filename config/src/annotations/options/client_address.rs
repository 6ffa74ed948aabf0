//! Who tells whom the client's address: `fairway.dev/proxy-protocol` (`v2`, `443=v2,*=v1`),
//! `fairway.dev/accept-proxy-protocol` and `fairway.dev/trusted-proxies` (`192.0.2.0/24, 2001:db8::/64`); and
//! `fairway.dev/client-address` (`transparent`), by which nobody has to be told.
//!
//! Ranges for single ports: `443=192.0.2.0/24;198.51.100.7,80=…`. A comma separates ports there, so a semicolon
//! separates ranges. Without a port either one does.

use ipnet::IpNet;

use super::OptionReader;
use crate::annotations::scoped::scoped;
use crate::annotations::{
    ACCEPT_PROXY_PROTOCOL, CLIENT_ADDRESS, PROXY_PROTOCOL, TRUSTED_PROXIES, parse,
};
use crate::field::Shown;
use crate::net::Protocol;
use crate::port_options::{PortOptions, ProxyVersion};
use crate::service::{AppProtocol, Notice, ServicePort};

/// What follows where nobody knows who is to be believed.
const CLOSED: &str = "nobody is let in at this port until it can be read";

/// How ports are closed whose annotation can't be read, and what is said of it.
pub(super) struct WhenUnreadable<'a> {
    pub(super) so: &'a str,
    pub(super) close: fn(&mut PortOptions),
}

fn close(options: &mut PortOptions) {
    options.closed = true;
}

/// What follows where an entry has no meaning.
const LEFT_OUT: &str = "it is left out";

impl OptionReader<'_> {
    /// Reads what each port's endpoints are told of its clients, and whom the port believes.
    pub(super) fn client_address(&mut self, ports: &mut [ServicePort]) {
        self.said(
            PROXY_PROTOCOL,
            ports,
            version,
            Some(WhenUnreadable { so: CLOSED, close }),
            |options, version| {
                options.proxy_protocol = Some(*version);
            },
        );
        self.said(
            ACCEPT_PROXY_PROTOCOL,
            ports,
            ranges,
            Some(WhenUnreadable { so: CLOSED, close }),
            |options, ranges| {
                options.accept_proxy_protocol.clone_from(ranges);
            },
        );
        self.said(TRUSTED_PROXIES, ports, ranges, None, |options, ranges| {
            options.trusted_proxies.clone_from(ranges);
        });
        // Where it can't be read endpoints see the gateway's address, as they do where there is no way back.
        self.each(CLIENT_ADDRESS, ports, transparent, LEFT_OUT, |port, &()| {
            port.options.transparent = true
        });
        self.without_effect(ports);
    }

    /// Reads one of the annotations. What can't be read closes the ports that it is for by `closes`, where that is given
    /// with what is said of it.
    pub(super) fn said<T>(
        &mut self,
        name: &str,
        ports: &mut [ServicePort],
        read: impl Fn(&str) -> Result<T, String>,
        closes: Option<WhenUnreadable<'_>>,
        set: impl Fn(&mut PortOptions, &T),
    ) {
        let Some(text) = self.annotations.get(name) else {
            return;
        };
        let mut list = parse::list(text).map(|entry| entry.contains('='));
        // A comma inside the list of one port would give its end to all ports.
        let is_mixed = text.contains('=') && !list.all(|has_port| has_port);
        let whole;
        let text = if text.contains('=') {
            *text
        } else {
            whole = parse::list(text).collect::<Vec<_>>().join(";");
            whole.as_str()
        };
        let found = if is_mixed {
            scoped("*=", ports, |_| {
                Ok(Err(format!(
                    "has '{}', where only a part has ports: write PORT=RANGE;RANGE,*=RANGE",
                    Shown(text)
                )))
            })
        } else {
            scoped(text, ports, |value| {
                Ok(read(value).map_err(|why| format!("has '{}', {why}", Shown(value))))
            })
        };
        for port in ports.iter_mut() {
            match found.values.of(port) {
                Some(Ok(value)) => set(&mut port.options, value),
                Some(Err(_)) => {
                    if let Some(closes) = &closes {
                        (closes.close)(&mut port.options);
                    }
                }
                None => {}
            }
        }
        let unreadable = found
            .values
            .values()
            .filter_map(|value| value.as_ref().err());
        let so = closes.map_or("nobody is trusted", |closes| closes.so);
        let unreadable = unreadable.map(|why| format!("{name} {why}: {so}"));
        let problems = found.problems.iter();
        let problems = problems.map(|it| format!("{name} {}: {LEFT_OUT}", it.message));
        for message in unreadable.chain(problems) {
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
    }

    /// Says what is asked of ports that can't have it.
    fn without_effect(&mut self, ports: &mut [ServicePort]) {
        let mut names = Vec::new();
        for port in ports
            .iter_mut()
            .filter(|port| port.protocol != Protocol::Tcp)
        {
            let options = &port.options;
            let is_asked = options.proxy_protocol.is_some()
                || !options.accept_proxy_protocol.is_empty()
                || options.closed;
            if is_asked {
                names.push(port.key().to_string());
            }
            // Such a port has no connection that a header could be at the beginning of.
            port.options.proxy_protocol = None;
            port.options.accept_proxy_protocol = Vec::new();
            port.options.closed = false;
        }
        if !names.is_empty() {
            let message = format!(
                "the PROXY protocol is for TCP: {} is carried without, and its endpoints do not see the client's address",
                names.join(", ")
            );
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
        let udp = ports
            .iter_mut()
            .filter(|port| port.protocol != Protocol::Tcp && port.options.transparent);
        let names: Vec<String> = udp
            .map(|port| {
                port.options.transparent = false;
                port.key().to_string()
            })
            .collect();
        if !names.is_empty() {
            let message = format!(
                "{CLIENT_ADDRESS} is for TCP: the endpoints of {} see the gateway's address",
                names.join(", ")
            );
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
        let trusting = |port: &&ServicePort| !port.options.trusted_proxies.is_empty();
        let mut trusting = ports.iter().filter(trusting).peekable();
        if trusting.peek().is_some() && trusting.all(|port| port.app == AppProtocol::Opaque) {
            let message = format!(
                "{TRUSTED_PROXIES} is about HTTP headers, and no port that it is for has an appProtocol of HTTP: no effect"
            );
            self.notices.push(Notice::new("InvalidAnnotation", message));
        }
    }
}

fn transparent(text: &str) -> Result<(), String> {
    match text {
        "transparent" => Ok(()),
        _ => Err("must be transparent".to_owned()),
    }
}

fn version(text: &str) -> Result<ProxyVersion, String> {
    match text {
        "v1" => Ok(ProxyVersion::V1),
        "v2" => Ok(ProxyVersion::V2),
        _ => Err("must be v1 or v2".to_owned()),
    }
}

/// Ranges between semicolons. One that can't be read spoils the list: nobody knows who is missing.
pub(super) fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let all = text.split(';').map(str::trim);
    let all = all.filter(|range| !range.is_empty());
    let ranges: Vec<IpNet> = all
        .map(|range| parse::cidr(range).map_err(|_| must_be_ranges()))
        .collect::<Result<_, _>>()?;
    if ranges.is_empty() {
        return Err(must_be_ranges());
    }
    Ok(ranges)
}

fn must_be_ranges() -> String {
    "must be CIDRs like 203.0.113.0/24".to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::super::set_options;
    use super::*;

    /// What is said of 443/TCP (HTTP), 80/TCP and 53/UDP, and the notices.
    fn read(annotations: &[(&str, &str)]) -> ([PortOptions; 3], Vec<String>) {
        let mut https = ServicePort::new(Protocol::Tcp, 443);
        https.name = Some("https".into());
        https.app = AppProtocol::Http;
        let mut ports = [
            https,
            ServicePort::new(Protocol::Tcp, 80),
            ServicePort::new(Protocol::Udp, 53),
        ];
        let annotations = annotations.iter().copied().collect::<BTreeMap<_, _>>();
        let notices = set_options(&annotations, &mut ports);
        let notices = notices.into_iter().map(|it| it.message).collect();
        (ports.map(|port| port.options), notices)
    }

    fn list(ranges: &[&str]) -> Vec<IpNet> {
        ranges.iter().map(|range| range.parse().unwrap()).collect()
    }

    #[test]
    fn versions_by_port() {
        use ProxyVersion::{V1, V2};
        let table = [
            ("443=v2", [Some(V2), None]),
            ("443/TCP=v1,80=v2", [Some(V1), Some(V2)]),
            ("https=v1", [Some(V1), None]),
            ("*=v1,443=v2", [Some(V2), Some(V1)]),
        ];
        for (text, wanted) in table {
            let (options, notices) = read(&[(PROXY_PROTOCOL, text)]);
            let found = [&options[0], &options[1]].map(|it| it.proxy_protocol);
            assert_eq!(found, wanted, "{text}");
            let udp = text.contains('*');
            assert_eq!(notices.len(), usize::from(udp), "{text}: {notices:?}");
        }
    }

    #[test]
    fn transparent_by_port() {
        let table = [
            ("transparent", [true, true], 1),
            ("443=transparent", [true, false], 0),
            ("https=transparent,80=transparent", [true, true], 0),
            ("Transparent", [false, false], 1),
            ("443=yes,80=transparent", [false, true], 1),
            ("443=", [false, false], 1),
            ("8443=transparent", [false, false], 1),
        ];
        for (text, wanted, said) in table {
            let (options, notices) = read(&[(CLIENT_ADDRESS, text)]);
            let found = [&options[0], &options[1]].map(|it| it.transparent);
            assert_eq!(found, wanted, "{text}");
            assert!(!options[2].transparent, "UDP: {text}");
            assert!(options.iter().all(|it| !it.closed), "{text}");
            assert_eq!(notices.len(), said, "{text}: {notices:?}");
        }
        let (_, notices) = read(&[(CLIENT_ADDRESS, "transparent")]);
        assert!(
            notices[0].contains("the endpoints of 53/UDP see"),
            "{notices:?}"
        );
    }

    #[test]
    fn ranges_with_and_without_ports() {
        let both = list(&["192.0.2.0/24", "2001:db8::/64"]);
        let table = [
            ("192.0.2.0/24, 2001:db8::/64", [both.clone(), both.clone()]),
            ("192.0.2.0/24;2001:db8::/64", [both.clone(), both.clone()]),
            ("443=192.0.2.0/24;2001:db8::/64", [both.clone(), Vec::new()]),
            (
                "443=192.0.2.9/24; ::ffff:10.0.0.0/104, 80 = 198.51.100.7",
                [
                    list(&["192.0.2.0/24", "10.0.0.0/8"]),
                    list(&["198.51.100.7/32"]),
                ],
            ),
        ];
        for (text, wanted) in table {
            for name in [ACCEPT_PROXY_PROTOCOL, TRUSTED_PROXIES] {
                let (options, _) = read(&[(name, text)]);
                let of = |options: &PortOptions| match name {
                    TRUSTED_PROXIES => options.trusted_proxies.clone(),
                    _ => options.accept_proxy_protocol.clone(),
                };
                assert_eq!([of(&options[0]), of(&options[1])], wanted, "{text}");
                assert!(!options[0].closed && !options[1].closed, "{text}");
            }
        }
    }

    #[test]
    fn what_can_not_be_read_closes_its_ports() {
        let table = [
            (PROXY_PROTOCOL, "v3", [true, true]),
            (PROXY_PROTOCOL, "V2", [true, true]),
            (PROXY_PROTOCOL, "443=v3,80=v2", [true, false]),
            (PROXY_PROTOCOL, "443=", [true, false]),
            (ACCEPT_PROXY_PROTOCOL, "192.0.2.0/240", [true, true]),
            (ACCEPT_PROXY_PROTOCOL, "192.0.2.0/24,nonsense", [true, true]),
            (ACCEPT_PROXY_PROTOCOL, "443=nonsense", [true, false]),
            (ACCEPT_PROXY_PROTOCOL, "443=192.0.2.0/24,*=;", [false, true]),
            // The comma gives the second range to all ports.
            (
                ACCEPT_PROXY_PROTOCOL,
                "443=192.0.2.0/24,198.51.100.0/24",
                [true, true],
            ),
            (TRUSTED_PROXIES, "nonsense", [false, false]),
        ];
        for (name, text, wanted) in table {
            let (options, notices) = read(&[(name, text)]);
            assert_eq!(
                [options[0].closed, options[1].closed],
                wanted,
                "{name}: {text}"
            );
            assert!(!options[2].closed, "UDP has nothing to do with it: {text}");
            let closing = notices.iter().filter(|it| it.contains("nobody is"));
            assert_eq!(closing.count(), 1, "{text}: {notices:?}");
            for (options, closed) in options.iter().zip(wanted) {
                let believed = &options.accept_proxy_protocol;
                assert!(!closed || believed.is_empty(), "{text}: {believed:?}");
            }
        }
    }

    #[test]
    fn a_port_that_is_not_there_is_said_and_closes_nothing() {
        let (options, notices) = read(&[(ACCEPT_PROXY_PROTOCOL, "8443=192.0.2.0/24")]);
        assert!(options.iter().all(|it| *it == PortOptions::default()));
        assert_eq!(notices.len(), 1);
        assert!(notices[0].contains("names port 8443"), "{notices:?}");
    }

    #[test]
    fn udp_and_ports_without_http_are_said() {
        let (options, notices) =
            read(&[(PROXY_PROTOCOL, "v2"), (TRUSTED_PROXIES, "80=10.0.0.0/8")]);
        assert_eq!(options[2], PortOptions::default());
        assert!(
            notices[0].contains("53/UDP is carried without"),
            "{notices:?}"
        );
        assert!(notices[1].contains("no effect"), "{notices:?}");
        assert_eq!(notices.len(), 2);
    }

    #[test]
    fn whoever_is_in_a_range_announces() {
        let (options, _) = read(&[(ACCEPT_PROXY_PROTOCOL, "192.0.2.0/24,2001:db8::/64")]);
        for (peer, announces) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.3.7", false),
            ("2001:db8::1", true),
            ("2001:db8:1::1", false),
        ] {
            let peer: std::net::IpAddr = peer.parse().unwrap();
            assert_eq!(options[0].announces(peer), announces, "{peer}");
            assert!(!options[0].trusts(peer));
        }
    }
}
