#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fairway_config::selector::Expression;

use super::*;

fn host() -> HostNetwork {
    let interface = |is_up, addresses: &[&str]| HostInterface {
        index: 1,
        is_up,
        addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
    };
    let interfaces = [
        ("eth0", interface(true, &["192.0.2.11/24", "fe80::1/64"])),
        (
            "eth1",
            interface(
                true,
                &["198.51.100.11/24", "2001:db8:1::b/64", "fe80::2/64"],
            ),
        ),
        // A second one on the same network, with an address that is another gateway's elsewhere.
        ("eth2", interface(false, &["198.51.100.12/24"])),
        // An address without a subnet: nobody else is there.
        ("tunnel", interface(true, &["203.0.113.9/32"])),
    ];
    HostNetwork {
        interfaces: interfaces
            .into_iter()
            .map(|(name, it)| (name.into(), it))
            .collect(),
        default_routes: [(IpFamily::IPv4, "eth0".into())].into(),
    }
}

/// Interfaces as `NAME: STATE members addresses`.
fn shown(segments: &BTreeMap<InterfaceName, Segment>) -> Vec<String> {
    let line = |(name, it): (&InterfaceName, &Segment)| {
        let members = it.members.iter();
        let members: Vec<_> = members
            .map(|(name, path)| format!("{name}={}<{}", path.theirs, path.own))
            .collect();
        let addresses: Vec<_> = it.addresses.iter().map(IpAddr::to_string).collect();
        let (members, addresses) = (members.join(","), addresses.join(","));
        format!("{name} {:?} [{members}] [{addresses}]", it.link)
    };
    segments.iter().map(line).collect()
}

#[test]
fn an_address_belongs_to_the_named_interfaces_else_to_its_subnet_else_to_the_default_route() {
    let none: &[&str] = &[];
    for (address, named, wanted) in [
        ("192.0.2.200", none, vec!["eth0 Up [] [192.0.2.200]"]),
        (
            "198.51.100.200",
            none,
            vec![
                "eth1 Up [] [198.51.100.200]",
                "eth2 Down [] [198.51.100.200]",
            ],
        ),
        ("2001:db8:1::9", none, vec!["eth1 Up [] [2001:db8:1::9]"]),
        // Outside every subnet; there is no default route of IPv6.
        ("203.0.113.1", none, vec!["eth0 Up [] [203.0.113.1]"]),
        ("2001:db8:f::1", none, vec![]),
        // Neither an address without a subnet nor a link-local subnet counts.
        ("203.0.113.9", none, vec!["eth0 Up [] [203.0.113.9]"]),
        ("fe80::9", none, vec![]),
        // What is named counts alone, also where it is not there.
        (
            "192.0.2.200",
            &["eth1"][..],
            vec!["eth1 Up [] [192.0.2.200]"],
        ),
        (
            "192.0.2.200",
            &["eth2", "lan"][..],
            vec!["eth2 Down [] [192.0.2.200]", "lan Missing [] [192.0.2.200]"],
        ),
    ] {
        let named: Vec<InterfaceName> = named.iter().map(|name| (*name).into()).collect();
        let addresses = [(address.parse().unwrap(), &named[..])];
        let found = segments(&host(), [], addresses, &BTreeMap::new());
        assert_eq!(shown(&found), wanted, "{address} {named:?}");
    }
}

#[test]
fn a_pool_has_its_segments_before_it_has_addresses() {
    let pool = |first: &str, last: &str| PlacedRange {
        range: AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap(),
        named: &[],
    };
    for (pools, wanted) in [
        (vec![], vec![]),
        (
            vec![pool("192.0.2.200", "192.0.2.210")],
            vec!["eth0 Up [] []"],
        ),
        (
            vec![
                pool("203.0.113.0", "203.0.113.255"),
                pool("2001:db8:1::", "2001:db8:1::ff"),
            ],
            vec!["eth0 Up [] []", "eth1 Up [] []"],
        ),
    ] {
        let found = segments(&host(), pools, [], &BTreeMap::new());
        assert_eq!(shown(&found), wanted);
    }
}

#[test]
fn members_of_a_segment_are_the_gateways_with_an_address_in_a_subnet_of_its_interface() {
    let members = [
        // In both networks.
        ("edge-2", &["192.0.2.12", "198.51.100.13"][..]),
        // By the one that comes first where there are two of them.
        ("edge-3", &["2001:db8:1::c", "198.51.100.14"]),
        // An address of this host is no other gateway's.
        ("edge-4", &["198.51.100.11"]),
        ("far", &["203.0.113.77", "fe80::77"]),
        ("nowhere", &[]),
    ];
    let members: BTreeMap<ClusterName, BTreeSet<IpAddr>> = members
        .iter()
        .map(|(name, addresses)| {
            let addresses = addresses.iter().map(|it| it.parse().unwrap());
            ((*name).into(), addresses.collect())
        })
        .collect();
    let named: Vec<InterfaceName> = ["eth0", "eth1", "tunnel", "lan"].map(Into::into).into();
    let addresses = [("192.0.2.200".parse().unwrap(), &named[..])];
    let found = segments(&host(), [], addresses, &members);
    assert_eq!(
        shown(&found),
        [
            "eth0 Up [edge-2=192.0.2.12<192.0.2.11] [192.0.2.200]",
            "eth1 Up [edge-2=198.51.100.13<198.51.100.11,edge-3=198.51.100.14<198.51.100.11] [192.0.2.200]",
            "lan Missing [] [192.0.2.200]",
            "tunnel Up [] [192.0.2.200]",
        ]
    );
    let own = |name: &str| {
        let own = found[name].own.iter();
        own.map(IpAddr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(own("eth1"), ["198.51.100.11", "2001:db8:1::b"]);
    assert_eq!(own("tunnel"), [""; 0]);
}

#[test]
fn candidates_are_the_gateways_whose_node_the_selector_matches() {
    let node = |name: &str, edge: bool| {
        let labels = edge.then(|| ("edge".to_owned(), "true".to_owned()));
        let node = Node {
            name: name.into(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            zone: None,
            labels: labels.into_iter().collect(),
            excluded: None,
            draining: None,
        };
        (ClusterName::from(name), Arc::new(node))
    };
    let nodes = BTreeMap::from([node("a", true), node("b", false)]);
    let gateways: Vec<ClusterName> = ["a", "b", "no-node"].map(Into::into).into();
    let equal = Expression::Equal("edge".to_owned(), "true".to_owned());
    let absent = Expression::DoesNotExist("edge".to_owned());
    for (selector, wanted) in [
        (Selector::default(), &["a", "b", "no-node"][..]),
        (equal.into(), &["a"]),
        // A gateway that is no Node is not said to lack the label.
        (absent.into(), &["b"]),
    ] {
        let found = candidates(&selector, &nodes, &gateways);
        let found: Vec<&str> = found.iter().map(|it| &**it).collect();
        assert_eq!(found, wanted, "{selector}");
    }
}
