#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fairway_config::net::EndpointAddr;
use proptest::prelude::*;

use super::*;

const UNPROVEN: DialFrom = DialFrom::Client { is_proven: false };
const IS_PROVEN: DialFrom = DialFrom::Client { is_proven: true };
const SILENT: DialFrom = DialFrom::Gateway(AddressLoss::NoAnswer);

fn way() -> WayName {
    WayName {
        node: Some("b".into()),
        family: IpFamily::IPv4,
    }
}

fn client(n: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, n])
}

fn at(seconds: u64) -> Tick {
    Tick(seconds * 1000)
}

#[test]
fn who_dials_follows_from_where_the_endpoint_is() {
    let whole = Surroundings {
        own: "a".into(),
        is_node: true,
        host: ["192.0.2.1".parse().unwrap()].into(),
        lacks: None,
        relays: [("b".into(), "192.0.2.2:9903".parse().unwrap())].into(),
        has_key: true,
        to_node_ports: false,
    };
    let mut outside = whole.clone();
    outside.is_node = false;
    let mut weak = whole.clone();
    weak.lacks = Some(AddressLoss::NotPermitted);
    let mut keyless = whole.clone();
    keyless.has_key = false;
    let mut node_ports = whole.clone();
    node_ports.to_node_ports = true;
    let four = "198.51.100.7";
    let (here, there) = (Ok(None), Ok(Some("192.0.2.2:9903".parse().unwrap())));
    use AddressLoss::{Client, Family, HostNetwork, NoGateway, NoKey, NodePort, NotPermitted};
    let table = [
        (&whole, "10.0.1.1:80", Some("a"), four, here),
        (&whole, "10.0.2.1:80", Some("b"), four, there),
        (&whole, "10.0.3.1:80", Some("c"), four, Err(NoGateway)),
        (&whole, "10.0.3.1:80", None, four, here),
        (&whole, "192.0.2.1:80", Some("a"), four, Err(HostNetwork)),
        (&whole, "10.0.1.1:80", Some("a"), "10.0.1.1", Err(Client)),
        (&whole, "10.0.1.1:80", Some("a"), "127.0.0.1", Err(Client)),
        (&whole, "10.0.1.1:80", Some("a"), "169.254.0.9", Err(Client)),
        (&whole, "10.0.1.1:80", Some("a"), "2001:db8::7", Err(Family)),
        (&whole, "[2001:db8:1::1]:80", Some("a"), four, Err(Family)),
        (
            &whole,
            "[2001:db8:1::1]:80",
            Some("a"),
            "fe80::1",
            Err(Client),
        ),
        (&whole, "[2001:db8:1::1]:80", Some("a"), "2001:db8::7", here),
        // It may be the router of all of them.
        (&outside, "10.0.3.1:80", Some("c"), four, here),
        (&outside, "10.0.2.1:80", Some("b"), four, there),
        // It needs nothing of its own where another one dials.
        (&weak, "10.0.1.1:80", Some("a"), four, Err(NotPermitted)),
        (&weak, "10.0.2.1:80", Some("b"), four, there),
        (&keyless, "10.0.1.1:80", Some("a"), four, here),
        (&keyless, "10.0.2.1:80", Some("b"), four, Err(NoKey)),
        (&node_ports, "10.0.1.1:80", Some("a"), four, Err(NodePort)),
    ];
    for (surroundings, addr, node, from, wanted) in table {
        let mut endpoint = Endpoint::new(EndpointAddr(addr.parse().unwrap()));
        endpoint.node = node.map(Into::into);
        let found = surroundings.way_to(&endpoint, from.parse().unwrap());
        assert_eq!(
            found.map(|it| it.relay),
            wanted,
            "{addr} on {node:?} for {from}"
        );
    }
}

#[test]
fn a_way_that_was_never_seen_to_work_is_lost_by_one_client() {
    let mut ways = WaysBack::default();
    assert_eq!(ways.choose(&way(), client(1), at(0)), UNPROVEN);
    ways.not_answered(&way(), client(1), at(0));
    assert_eq!(ways.choose(&way(), client(2), at(1)), SILENT);
    let lost = ways.lost_ways(at(1));
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].since, Some(at(0)));
    // One connection tries it again, of another client than the one that is known to have none.
    assert_eq!(ways.choose(&way(), client(1), at(5)), SILENT);
    assert_eq!(ways.choose(&way(), client(2), at(5)), UNPROVEN);
    assert_eq!(ways.choose(&way(), client(3), at(5)), SILENT);
    assert_eq!(ways.choose(&way(), client(3), at(14)), SILENT);
    // The pause is twice as long.
    assert_eq!(ways.choose(&way(), client(3), at(15)), UNPROVEN);
    ways.worked(&way(), client(3), at(15));
    assert_eq!(ways.choose(&way(), client(2), at(15)), IS_PROVEN);
    assert_eq!(
        ways.choose(&way(), client(1), at(15)),
        SILENT,
        "its own verdict stays"
    );
    assert_eq!(ways.choose(&way(), client(1), at(60)), IS_PROVEN);
    assert!(ways.lost_ways(at(61)).is_empty());
    assert_eq!(ways.choose(&way(), client(2), at(75)), UNPROVEN, "long ago");
}

#[test]
fn a_client_without_a_way_takes_it_from_nobody_else() {
    let mut ways = WaysBack::default();
    ways.worked(&way(), client(1), at(0));
    for second in 1..50 {
        ways.not_answered(&way(), client(9), at(second));
        assert_eq!(ways.choose(&way(), client(9), at(second)), SILENT);
        assert_eq!(ways.choose(&way(), client(1), at(second)), IS_PROVEN);
    }
    assert_eq!(ways.lost_ways(at(50))[0].since, None);
    // An IPv6 host is one client, whatever addresses it takes.
    for n in 0..100_u128 {
        let of_one = Ipv6Addr::from_bits((0x2001_0db8 << 96) | n);
        ways.not_answered(&way(), of_one.into(), at(50));
    }
    assert_eq!(ways.choose(&way(), client(1), at(50)), IS_PROVEN);
    ways.not_answered(&way(), client(8), at(50));
    assert_eq!(
        ways.choose(&way(), client(1), at(50)),
        SILENT,
        "three clients"
    );
}

#[test]
fn what_is_known_of_a_way_is_told_and_ends() {
    let mut ways = WaysBack::default();
    ways.lost(&way(), AddressLoss::NotRelayed, at(1));
    ways.lost(&way(), AddressLoss::NotRelayed, at(2));
    let lost = &ways.lost_ways(at(2))[0];
    assert_eq!(
        (lost.why, lost.since),
        (AddressLoss::NotRelayed, Some(at(1)))
    );
    ways.retain(|way| way.node.is_none());
    assert!(ways.lost_ways(at(2)).is_empty());
}

proptest! {
    /// Whatever happens, memory is bounded, a lost way is tried again within the longest pause, and one that works now
    /// is not lost.
    #[test]
    fn no_verdict_lasts_for_ever(steps in prop::collection::vec((0_u8..4, any::<u8>(), 0_u64..30), 0..300)) {
        let mut ways = WaysBack::default();
        let mut now = 0;
        for (what, who, later) in steps {
            now += later;
            match what {
                0 => ways.not_answered(&way(), client(who), at(now)),
                1 => ways.lost(&way(), AddressLoss::NotRelayed, at(now)),
                2 => { ways.choose(&way(), client(who), at(now)); }
                _ => {
                    ways.worked(&way(), client(who), at(now));
                    prop_assert_eq!(ways.choose(&way(), client(who), at(now)), IS_PROVEN);
                }
            }
            let known = ways.ways.get(&way());
            prop_assert!(known.is_none_or(|it| it.clients.len() <= MOST_CLIENTS && it.failed.len() <= CLIENTS));
        }
        let after = at(now + LONGEST.as_secs().max(CLIENT_RETRY.as_secs()));
        let is_tried = matches!(ways.choose(&way(), client(0), after), DialFrom::Client { .. });
        prop_assert!(is_tried);
    }
}
