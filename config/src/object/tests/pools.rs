use super::*;
use crate::announce::{Announcement, BgpAnnouncement, Layer2Announcement};
use crate::selector::{Expression, Selector};

fn pool(spec: &str) -> Result<Arc<AddressPool>, Vec<String>> {
    let object = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": "edge"}, "spec": value(spec)});
    match read(&object) {
        Ok(ReadObject {
            object: Object::Pool(pool),
            ..
        }) if pool.problems.is_empty() => Ok(pool),
        Ok(ReadObject {
            object: Object::Pool(pool),
            ..
        }) => Err(pool.problems.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_has_the_defaults_of_its_schema() {
    let pool = pool("{addresses: ['203.0.113.0/28', 203.0.113.32-203.0.113.40, '2001:db8::/120']}")
        .unwrap();
    assert!(pool.auto_assign);
    assert_eq!(pool.priority, 100);
    assert_eq!(pool.quota_per_namespace, None);
    assert_eq!(pool.total(IpFamily::IPv4), 25);
    assert_eq!(pool.total(IpFamily::IPv6), 256);
    assert!(pool.service_selector.selects_all());
    assert!(pool.notices.is_empty(), "{:?}", pool.notices);
}

#[test]
fn a_pool_that_can_not_be_is_refused_with_the_field() {
    for (spec, problem) in [
        (
            "{addresses: []}",
            "spec.addresses: is missing: a pool has at least one CIDR, range or address",
        ),
        (
            "{addresses: [203.0.113.0/33]}",
            "spec.addresses[0]: is '203.0.113.0/33', which is no CIDR like 203.0.113.0/28 or 2001:db8::/120",
        ),
        (
            "{addresses: ['203.0.113.9-2001:db8::1']}",
            "spec.addresses[0]: is '203.0.113.9-2001:db8::1', a range from one family to the other",
        ),
        (
            "{addresses: [hello]}",
            "spec.addresses[0]: is 'hello', must be a CIDR, a range FIRST-LAST or an address",
        ),
        (
            "{addresses: [203.0.113.1], autoasign: false}",
            "spec.autoasign: is no field of this object; is autoAssign meant?",
        ),
        (
            "{addresses: [203.0.113.1], forwarding: proxy}",
            "spec.forwarding: is 'proxy', must be Proxy or Node",
        ),
        (
            "{addresses: [203.0.113.1], quotaPerNamespace: -1}",
            "spec.quotaPerNamespace: is -1, must be a whole number from 0 to 4294967295",
        ),
        (
            "{addresses: [203.0.113.1], serviceSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.serviceSelector.matchExpressions[0].values: is empty: In and NotIn need values",
        ),
        (
            "{addresses: [203.0.113.1], serviceSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            "spec.serviceSelector.matchExpressions[0].operator: is 'in', must be In, NotIn, Exists or DoesNotExist",
        ),
        (
            "{addresses: [203.0.113.1], namespaceSelector: {matchLabels: {team: null}}}",
            "spec.namespaceSelector.matchLabels.team: is null: leave the field out, or say what is meant",
        ),
        (
            "{addresses: [203.0.113.1], namespaceSelector: null}",
            "spec.namespaceSelector: is null: leave the field out, or say what is meant",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer3: {}}}",
            "spec.announce.layer3: is no field of this object; is layer2 meant?",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer2: null}}",
            "spec.announce.layer2: is null: leave the field out, or say what is meant",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer2: true}}",
            "spec.announce.layer2: is true, must be a mapping",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer2: {interfaces: [eth0/1]}}}",
            "spec.announce.layer2.interfaces[0]: is 'eth0/1', must be the name of an interface: at most 15 bytes, without slash, colon and space",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer2: {interfaces: [null]}}}",
            "spec.announce.layer2.interfaces[0]: is missing, must be the name of an interface: at most 15 bytes, without slash, colon and space",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer2: {nodeSelectors: [{}]}}}",
            "spec.announce.layer2.nodeSelectors: is no field of this object; is nodeSelector meant?",
        ),
        (
            "{addresses: [203.0.113.1], announce: {layer2: {nodeSelector: {matchLabels: {rack: 1}}}}}",
            "spec.announce.layer2.nodeSelector.matchLabels.rack: is 1, must be a text: put it in quotes",
        ),
        (
            "{addresses: [203.0.113.1], announce: {bgp: {communities: ['64512:70000']}}}",
            "spec.announce.bgp.communities[0]: is '64512:70000', must be a community like 64512:100, two numbers from 0 to 65535, or a large one like large:64512:1:2, three numbers from 0 to 4294967295",
        ),
        (
            "{addresses: [203.0.113.1], announce: {bgp: {peers: [Tor]}}}",
            "spec.announce.bgp.peers[0]: is 'Tor', must be the name of a BGPPeer",
        ),
        (
            "{addresses: [203.0.113.1], announce: {bgp: {aggregationLength: 33}}}",
            "spec.announce.bgp.aggregationLength: is 33, must be a whole number from 1 to 32",
        ),
        (
            "{addresses: [203.0.113.1], announce: {bgp: {localPreference: -1}}}",
            "spec.announce.bgp.localPreference: is -1, must be a whole number from 0 to 4294967295",
        ),
        (
            "{addresses: [203.0.113.1], announce: {routes: table}}",
            "spec.announce.routes: is 'table', must be kernel",
        ),
    ] {
        assert_eq!(pool(spec), Err(vec![problem.to_owned()]), "{spec}");
    }
}

#[test]
fn a_pool_that_is_odd_gets_a_notice() {
    for (spec, reason) in [
        ("{addresses: [203.0.113.5/28]}", "HostBitsSet"),
        (
            "{addresses: [203.0.113.0/28, 203.0.113.4-203.0.113.20]}",
            "OverlappingAddresses",
        ),
        ("{addresses: [169.254.1.0/24]}", "LinkLocalAddresses"),
        ("{addresses: ['fe80::/64']}", "LinkLocalAddresses"),
    ] {
        let pool = pool(spec).unwrap();
        let reasons: Vec<_> = pool.notices.iter().map(|n| n.reason.as_ref()).collect();
        assert_eq!(reasons, [reason], "{spec}");
    }
    // A pool of loopback addresses is how Fairway is tried on one machine.
    assert!(
        pool("{addresses: [127.1.0.0/24, '::1']}")
            .unwrap()
            .notices
            .is_empty()
    );
}

#[test]
fn an_entry_that_gives_no_addresses_is_left_out_and_the_others_count() {
    for (entry, why) in [
        (
            "203.0.113.9-203.0.113.1",
            "a range whose last address lies before the first (swap them)",
        ),
        (
            "0.0.0.0/0",
            "which holds addresses that stand for no host (0.0.0.0/8, ::)",
        ),
        (
            "::/0",
            "which holds addresses that stand for no host (0.0.0.0/8, ::)",
        ),
        ("128.0.0.0/1", "which holds multicast addresses"),
        ("ff02::1", "which holds multicast addresses"),
    ] {
        let pool = pool(&format!("{{addresses: [203.0.113.20, '{entry}']}}")).unwrap();
        assert_eq!(pool.total(IpFamily::IPv4), 1, "{entry}");
        assert_eq!(pool.total(IpFamily::IPv6), 0, "{entry}");
        let [notice] = &pool.notices[..] else {
            panic!("{:?}", pool.notices);
        };
        assert_eq!(&*notice.reason, "UnusableAddresses");
        let message = format!(
            "spec.addresses[1] is '{entry}', {why}: nothing is given out of it, the other entries count"
        );
        assert_eq!(notice.message, message);
    }
}

/// What a notice says of parts that this version does not act on is in each of these.
fn reasons_of(pool: &AddressPool) -> Vec<&str> {
    let reasons = pool.notices.iter().map(|it| it.reason.as_ref());
    reasons.filter(|it| *it != "NotYetInForce").collect()
}

#[test]
fn what_a_pool_is_announced_by_is_read_whole() {
    let pool = pool(
        "{addresses: [203.0.113.0/28], announce: {layer2: {interfaces: [eth0, bond0.7], nodeSelector: {matchLabels: {edge: 'yes'}}}, \
         bgp: {peers: [tor-a, tor-b], communities: ['64512:100', 'large:64512:1:2', '65535:65281'], localPreference: 200, \
         aggregationLength: 29, aggregationLengthV6: 64, nodeSelector: {matchLabels: {rack: a}}}, routes: kernel}}",
    )
    .unwrap();
    let selector = |key: &str, value: &str| {
        Selector::from_iter([Expression::Equal(key.to_owned(), value.to_owned())])
    };
    assert_eq!(
        *pool.announce,
        Announcement {
            layer2: Some(Layer2Announcement {
                interfaces: vec!["eth0".into(), "bond0.7".into()],
                node_selector: selector("edge", "yes"),
            }),
            bgp: Some(BgpAnnouncement {
                peers: vec!["tor-a".into(), "tor-b".into()],
                communities: vec![64_512 << 16 | 100, 0xffff_ff01],
                large_communities: vec![[64_512, 1, 2]],
                local_preference: Some(200),
                aggregation_length: Some(29),
                aggregation_length_v6: Some(64),
                node_selector: selector("rack", "a"),
            }),
            kernel_routes: true,
        }
    );
    assert!(reasons_of(&pool).is_empty(), "{:?}", pool.notices);
}

#[test]
fn a_pool_without_announce_is_announced_by_nothing() {
    for announce in ["", ", announce: {}"] {
        let pool = pool(&format!("{{addresses: [203.0.113.0/28]{announce}}}")).unwrap();
        assert!(pool.announce.is_nothing() && pool.notices.is_empty());
    }
    let pool = pool("{addresses: [203.0.113.0/28], announce: {layer2: {}}}").unwrap();
    assert_eq!(pool.announce.layer2, Some(Layer2Announcement::default()));
    assert_eq!(pool.announce.bgp, None);
}

#[test]
fn a_part_of_announce_that_can_not_be_read_announces_nothing_and_the_other_part_does() {
    let read = |announce: &str| {
        let spec = value(&format!(
            "{{addresses: [203.0.113.1], announce: {announce}}}"
        ));
        let object = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "edge"}, "spec": spec});
        match read(&object).unwrap().object {
            Object::Pool(pool) => pool,
            other => panic!("{other:?}"),
        }
    };
    let pool = read("{layer2: {nodeSelector: {matchLabels: {rack: null}}}, bgp: {peers: [tor]}}");
    assert_eq!(pool.problems.len(), 1, "{:?}", pool.problems);
    assert_eq!(pool.announce.layer2, None);
    assert!(pool.announce.bgp.is_some());
    let pool = read("{layer2: {}, bgp: {communities: [none]}}");
    assert!(pool.announce.layer2.is_some() && pool.announce.bgp.is_none());
}

#[test]
fn an_odd_announcement_gets_a_notice() {
    for (spec, reason, said) in [
        (
            "{addresses: [203.0.113.1], announce: {layer2: {interfaces: [eth0, eth1, eth0]}}}",
            "DuplicateEntry",
            "spec.announce.layer2.interfaces[2] is 'eth0', which stands there already",
        ),
        (
            "{addresses: [203.0.113.1], announce: {bgp: {communities: ['1:1', '01:1']}}}",
            "DuplicateEntry",
            "spec.announce.bgp.communities[1] is '01:1'",
        ),
        (
            "{addresses: [203.0.113.0/28], announce: {bgp: {aggregationLength: 24}}}",
            "AggregateBeyondPool",
            "203.0.113.0/24 is announced",
        ),
        (
            "{addresses: [203.0.113.0-203.0.113.14], announce: {bgp: {aggregationLength: 29}}}",
            "AggregateBeyondPool",
            "203.0.113.8/29 is announced",
        ),
        (
            "{addresses: ['2001:db8::/120'], announce: {bgp: {aggregationLengthV6: 64}}}",
            "AggregateBeyondPool",
            "2001:db8::/64 is announced",
        ),
    ] {
        let pool = pool(spec).unwrap();
        assert_eq!(reasons_of(&pool), [reason], "{spec}");
        let notice = pool
            .notices
            .iter()
            .find(|it| &*it.reason == reason)
            .unwrap();
        assert!(notice.message.contains(said), "{notice:?}");
        assert!(notice.is_warning());
    }
    // A prefix of several entries that lie side by side, and one for the other family.
    for spec in [
        "{addresses: [203.0.113.8/29, 203.0.113.0-203.0.113.7], announce: {bgp: {aggregationLength: 28}}}",
        "{addresses: ['255.255.255.0-255.255.255.254'], announce: {bgp: {aggregationLengthV6: 64}}}",
        "{addresses: ['2001:db8::/32'], announce: {bgp: {aggregationLengthV6: 48}}}",
    ] {
        let pool = pool(spec).unwrap();
        assert!(reasons_of(&pool).is_empty(), "{spec}: {:?}", pool.notices);
    }
}
