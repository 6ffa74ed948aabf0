use super::*;

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
            "{addresses: [203.0.113.1], forwarding: Node}",
            "spec.forwarding: is Node, which this version of Fairway does not do: nobody would announce the addresses; write Proxy",
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
        (
            "{addresses: [203.0.113.1], announce: {layer2: {}}}",
            "NotYetInForce",
        ),
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
