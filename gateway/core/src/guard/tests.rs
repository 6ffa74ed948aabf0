#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::testing::ip;

fn guard(allow_loopback: bool) -> Guard {
    let mut guard = Guard::new(allow_loopback);
    let host = ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"];
    guard.set_own(host.map(ip).into(), [ip("198.51.100.99")].into());
    let range = |first, last| AddressRange::new(ip(first), ip(last)).unwrap();
    for (name, first, last) in [
        ("edge", "203.0.113.0", "203.0.113.15"),
        ("local", "127.1.0.0", "127.1.0.255"),
        ("six", "2001:db8:5::", "2001:db8:5::ff"),
    ] {
        set_pool(&mut guard, (name, 100), vec![range(first, last)]);
    }
    for address in ["10.96.0.10", "fd00:96::a", "2002:a60:b::1"] {
        guard.set_cluster_ip(ip(address), &ServiceName::new("web", "shop"), true);
    }
    guard
}

fn set_pool(guard: &mut Guard, (name, priority): (&str, i32), ranges: Vec<AddressRange>) {
    let precedence = Precedence::of(name.into(), priority);
    guard.set_pool(&name.into(), Some((precedence, ranges)));
}

fn verdict(guard: &Guard, address: &str) -> String {
    guard
        .check(ip(address))
        .err()
        .map(|refusal| refusal.to_string())
        .unwrap_or_default()
}

#[test]
fn what_must_not_be_dialled_is_refused_in_every_spelling() {
    let guard = guard(false);
    for (address, why) in [
        ("10.0.0.1", ""),
        ("2001:db8:9::1", ""),
        ("::ffff:10.0.0.1", ""),
        ("203.0.113.16", ""),
        ("202.255.255.255", ""),
        ("127.0.0.1", "is a loopback address"),
        ("127.9.9.9", "is a loopback address"),
        ("::1", "is a loopback address"),
        ("::ffff:127.0.0.1", "is a loopback address"),
        ("::127.0.0.1", "is a loopback address"),
        ("64:ff9b::127.0.0.1", "is a loopback address"),
        ("2002:7f00:1::", "is a loopback address"),
        ("169.254.169.254", "is link-local"),
        ("::ffff:169.254.169.254", "is link-local"),
        ("2002:a9fe:a9fe::1", "is link-local"),
        ("fe80::1", "is link-local"),
        ("224.0.0.1", "is multicast"),
        ("239.255.255.255", "is multicast"),
        ("ff02::1", "is multicast"),
        ("0.0.0.0", "is the unspecified address"),
        ("0.1.2.3", "is the unspecified address"),
        ("::", "is the unspecified address"),
        ("::ffff:0.0.0.0", "is the unspecified address"),
        ("255.255.255.255", "is the broadcast address"),
        ("192.0.2.1", "is an address of this host"),
        ("::ffff:192.0.2.1", "is an address of this host"),
        ("2001:db8::1", "is an address of this host"),
        ("203.0.113.0", "is an address of pool 'edge'"),
        ("203.0.113.15", "is an address of pool 'edge'"),
        ("::ffff:203.0.113.15", "is an address of pool 'edge'"),
        ("2001:db8:5::80", "is an address of pool 'six'"),
        ("127.1.0.1", "is an address of pool 'local'"),
        ("198.51.100.99", "is the external address of a Service"),
        ("10.96.0.9", ""),
        ("10.96.0.11", ""),
        ("10.96.0.10", "is the cluster IP of Service web/shop"),
        ("::ffff:10.96.0.10", "is the cluster IP of Service web/shop"),
        (
            "64:ff9b::10.96.0.10",
            "is the cluster IP of Service web/shop",
        ),
        ("fd00:96::a", "is the cluster IP of Service web/shop"),
        ("2002:a60:b::1", "is the cluster IP of Service web/shop"),
    ] {
        assert_eq!(verdict(&guard, address), why, "{address}");
    }
}

#[test]
fn a_cluster_ip_is_refused_as_long_as_a_service_has_it() {
    let mut guard = Guard::new(true);
    let address = ip("10.96.0.10");
    let (a, b) = (ServiceName::new("web", "a"), ServiceName::new("web", "b"));
    guard.set_cluster_ip(address, &b, true);
    guard.set_cluster_ip(ip("::ffff:10.96.0.10"), &a, true);
    let of = |name| format!("is the cluster IP of Service {name}");
    assert_eq!(verdict(&guard, "10.96.0.10"), of("web/a"));
    guard.set_cluster_ip(address, &a, false);
    assert_eq!(verdict(&guard, "10.96.0.10"), of("web/b"));
    guard.set_cluster_ip(address, &b, false);
    assert_eq!(verdict(&guard, "10.96.0.10"), "");
}

#[test]
fn where_loopback_is_allowed_the_host_may_be_dialled_and_nothing_else() {
    let guard = guard(true);
    for (address, why) in [
        ("127.0.0.1", ""),
        ("::1", ""),
        ("192.0.2.1", ""),
        ("::ffff:127.0.0.1", ""),
        ("127.1.0.1", "is an address of pool 'local'"),
        ("198.51.100.99", "is the external address of a Service"),
        ("169.254.169.254", "is link-local"),
        ("0.0.0.0", "is the unspecified address"),
    ] {
        assert_eq!(verdict(&guard, address), why, "{address}");
    }
}

#[test]
fn a_pool_that_is_gone_is_refused_no_more() {
    let mut guard = guard(false);
    guard.set_pool(&"edge".into(), None);
    assert_eq!(verdict(&guard, "203.0.113.1"), "");
}

#[test]
fn of_pools_that_overlap_the_lower_priority_goes_first_and_then_the_name() {
    let range = |first, last| AddressRange::new(ip(first), ip(last)).unwrap();
    let wide = || vec![range("10.0.0.0", "10.0.0.99")];
    let parts = || {
        vec![
            range("10.0.0.10", "10.0.0.19"),
            range("10.0.0.90", "10.0.0.120"),
        ]
    };
    for ((of_wide, of_parts), shared) in [((100, 100), "a"), ((1, 100), "b"), ((100, 1), "a")] {
        let mut guard = Guard::new(false);
        set_pool(&mut guard, ("b", of_wide), wide());
        set_pool(&mut guard, ("a", of_parts), parts());
        for n in 0..=255_u8 {
            let pool = guard
                .pool_of(Ipv4Addr::new(10, 0, 0, n).into())
                .map(|pool| &**pool);
            let expected = match n {
                10..=19 | 90..=99 => Some(shared),
                100..=120 => Some("a"),
                0..=99 => Some("b"),
                _ => None,
            };
            assert_eq!(pool, expected, "10.0.0.{n}");
        }
    }
}
