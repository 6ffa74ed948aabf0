//! What a session is made from, as another process is told of it. Of a password they have the digest alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fairway_config::bgp_peer::{BGP_PORT, BgpPeer, CONNECT_TIME, HOLD_TIME, PeerAsn};

/// The settings of a session by name. What is as it is where nothing is given is left out: so a setting that one of two
/// versions does not know makes no difference as long as nobody uses it.
pub(super) fn settings(peer: &BgpPeer) -> BTreeMap<String, String> {
    let BgpPeer {
        name,
        // What these say changes no session.
        generation: _,
        node_selectors: _,
        notices: _,
        password_secret: _,
        my_asn,
        peer_asn,
        peer_address,
        interface,
        peer_port,
        source_address,
        router_id,
        hold_time,
        keepalive_time,
        connect_time,
        password,
        bfd,
        ebgp_multi_hop,
        ttl_security,
        graceful_restart,
        next_hop,
        problems,
    } = peer;
    let peer_asn = match peer_asn {
        PeerAsn::Number(asn) => asn.to_string(),
        PeerAsn::External => "external".to_owned(),
        PeerAsn::Internal => "internal".to_owned(),
    };
    let bfd = bfd.map(|it| {
        let (receive, transmit) = (it.receive_interval, it.transmit_interval);
        let multiplier = it.detect_multiplier;
        format!(
            "{} {} {multiplier}",
            receive.as_micros(),
            transmit.as_micros()
        )
    });
    let given = |is: bool| is.then(|| "true".to_owned());
    let port = (*peer_port != BGP_PORT).then(|| peer_port.to_string());
    let time =
        |is: &_, usual| (*is != usual).then(|| std::time::Duration::as_millis(is).to_string());
    let problems = problems.iter().map(ToString::to_string);
    let problems: Vec<String> = problems.collect();
    let all = [
        ("myASN", Some(my_asn.to_string())),
        ("peerASN", Some(peer_asn)),
        ("peerAddress", peer_address.map(|it| it.to_string())),
        ("interface", interface.as_ref().map(|it| it.to_string())),
        ("peerPort", port),
        ("sourceAddress", source_address.map(|it| it.to_string())),
        ("routerID", router_id.map(|it| it.to_string())),
        ("holdTime", time(hold_time, HOLD_TIME)),
        ("keepaliveTime", time(keepalive_time, *hold_time / 3)),
        ("connectTime", time(connect_time, CONNECT_TIME)),
        ("password", password.as_ref().map(|it| digest(name, it))),
        ("bfd", bfd),
        ("ebgpMultiHop", given(*ebgp_multi_hop)),
        ("ttlSecurity", given(*ttl_security)),
        ("enableGracefulRestart", given(*graceful_restart)),
        ("nextHop", next_hop.map(|it| it.to_string())),
        (
            "problems",
            (!problems.is_empty()).then(|| problems.join("; ")),
        ),
    ];
    let all = all.into_iter();
    all.filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn digest(name: &str, password: &str) -> String {
    let whole = [name, password].join("\0");
    let digest = ring::digest::digest(&ring::digest::SHA256, whole.as_bytes());
    let mut text = String::new();
    for byte in digest.as_ref() {
        // Nothing that is written to memory fails.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::time::Duration;

    use fairway_config::bgp_peer::{BfdSettings, PeerPassword};
    use fairway_config::selector::Selector;

    use super::*;

    #[test]
    fn settings_differ_where_a_session_would_and_tell_no_password() {
        let plain = || {
            let address = "192.0.2.1".parse().unwrap();
            BgpPeer::new("tor".into(), 64512, PeerAsn::External, address)
        };
        let password = |text: &str| BgpPeer {
            password: Some(PeerPassword::new(text)),
            ..plain()
        };
        let same = BgpPeer {
            generation: 7,
            node_selectors: vec![Selector::default()],
            ..plain()
        };
        assert_eq!(settings(&plain()), settings(&same));
        let names: Vec<String> = settings(&plain()).into_keys().collect();
        assert_eq!(names, ["myASN", "peerASN", "peerAddress"]);
        let bfd = BfdSettings {
            receive_interval: Duration::from_millis(100),
            transmit_interval: Duration::from_millis(100),
            detect_multiplier: 3,
        };
        let other = "192.0.2.2".parse().unwrap();
        let peers = [
            plain(),
            BgpPeer::new("tor".into(), 64513, PeerAsn::External, other),
            BgpPeer {
                my_asn: 64511,
                ..plain()
            },
            BgpPeer {
                peer_asn: PeerAsn::Number(1),
                ..plain()
            },
            BgpPeer {
                peer_port: 1179,
                ..plain()
            },
            BgpPeer {
                hold_time: Duration::from_secs(9),
                ..plain()
            },
            BgpPeer {
                router_id: Some([192, 0, 2, 9].into()),
                ..plain()
            },
            BgpPeer {
                next_hop: Some(other),
                ..plain()
            },
            BgpPeer {
                bfd: Some(bfd),
                ..plain()
            },
            BgpPeer {
                ttl_security: true,
                ..plain()
            },
            BgpPeer {
                graceful_restart: true,
                ..plain()
            },
            password("one"),
            password("other"),
        ];
        for (n, one) in peers.iter().enumerate() {
            for (m, other) in peers.iter().enumerate() {
                assert_eq!(settings(one) == settings(other), n == m, "{n} {m}");
            }
        }
        let said = format!("{:?}", settings(&password("hush")));
        assert!(!said.contains("hush"), "{said}");
    }
}
