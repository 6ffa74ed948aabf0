//! The rules, one case each: what there is, and what the Services end up with.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod announced;
mod changes;
mod controllers;
mod node_port_requests;
mod nodes;
mod peers;
mod probing;
mod programmed;
mod reports;
mod requests;
#[path = "../samples/mod.rs"]
mod samples;
mod world;

use fairway_config::names::ServiceName;
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::pool::AddressPool;
use fairway_config::service::*;

use crate::world::{World, label, pool, port, service, settings};

type Edit<'a> = &'a dyn Fn(&mut Service, &mut Service, &mut AddressPool);

#[test]
fn each_rule_gives_what_it_says() {
    // Two Services, `old` and `young`, and one pool, 10.0.0.0/30 without its ends; what a case
    // changes of that, and what the two get: address, node port, the reason of AddressAssigned.
    let cases: &[(&str, Edit<'_>, &str, &str)] = &[
        (
            "the older goes first",
            &|_, _, _| {},
            "10.0.0.1 30086 Assigned",
            "10.0.0.2 30087 Assigned",
        ),
        (
            "an end may be asked for",
            &|o, _, _| o.asks.addresses = vec!["10.0.0.3".parse().unwrap()],
            "10.0.0.3 30086 Assigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "a request goes before age",
            &|_, y, _| y.asks.addresses = vec!["10.0.0.1".parse().unwrap()],
            "10.0.0.2 30086 Assigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "outside every pool",
            &|o, _, _| o.asks.addresses = vec!["10.9.9.9".parse().unwrap()],
            "- 30086 AddressInNoPool",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "a wish is granted",
            &|_, y, _| y.status_addresses = vec!["10.0.0.1".parse().unwrap()],
            "10.0.0.2 30086 Assigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "a full quota",
            &|_, _, p| p.quota_per_namespace = Some(1),
            "10.0.0.1 30086 Assigned",
            "- 30087 QuotaExceeded",
        ),
        (
            "no automatic assignment",
            &|_, y, p| {
                p.auto_assign = false;
                y.asks.pool = Some("edge".into());
            },
            "- 30086 NotAutoAssigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "sharing needs disjoint ports",
            &|o, y, _| {
                o.asks.sharing_key = Some("k".into());
                y.asks.sharing_key = Some("k".into());
            },
            "10.0.0.1 30086 Assigned",
            "10.0.0.2 30087 Assigned",
        ),
        (
            "one key, one address",
            &|o, y, _| {
                o.asks.sharing_key = Some("k".into());
                y.asks.sharing_key = Some("k".into());
                y.ports[0].port = 81;
            },
            "10.0.0.1 30086 Assigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "a node port that is held",
            &|o, y, _| {
                o.ports[0].node_port = Some(30001);
                y.ports[0].node_port = Some(30001);
            },
            "10.0.0.1 30001 Assigned",
            "10.0.0.2 - Assigned",
        ),
        (
            "no node ports wanted",
            &|o, _, _| o.allocate_node_ports = false,
            "10.0.0.1 - Assigned",
            "10.0.0.2 30086 Assigned",
        ),
        (
            "another provider's class",
            &|o, _, _| o.class = Some("other/one".into()),
            "- 30086 -",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "both families or none",
            &|o, _, _| o.ip_family_policy = IpFamilyPolicy::RequireDualStack,
            "- 30086 DualStackUnavailable",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "Local has a health check",
            &|o, _, _| o.external_traffic_policy = ExternalTrafficPolicy::Local,
            "10.0.0.1 30086,+30087 Assigned",
            "10.0.0.2 30088 Assigned",
        ),
        (
            "a health check port asked for",
            &|o, y, _| {
                o.external_traffic_policy = ExternalTrafficPolicy::Local;
                o.health_check_node_port = Some(30500);
                y.ports[0].node_port = Some(30500);
            },
            "10.0.0.1 30086,+30500 Assigned",
            "10.0.0.2 - Assigned",
        ),
        (
            "NodePort with Local has none",
            &|o, _, _| {
                o.kind = ServiceType::NodePort;
                o.external_traffic_policy = ExternalTrafficPolicy::Local;
            },
            "- 30086 -",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "one number for both protocols",
            &|o, _, _| o.ports.push(port(Protocol::Udp, 80, None)),
            "10.0.0.1 30086,30086 Assigned",
            "10.0.0.2 30087 Assigned",
        ),
        (
            "one number for two ports",
            &|o, _, _| {
                o.ports[0].node_port = Some(30001);
                o.ports.push(port(Protocol::Tcp, 81, Some(30001)));
            },
            "10.0.0.1 30001 Assigned",
            "10.0.0.2 30086 Assigned",
        ),
        (
            "outside the range",
            &|o, _, _| o.ports[0].node_port = Some(29999),
            "10.0.0.1 - Assigned",
            "10.0.0.2 30086 Assigned",
        ),
        (
            "a selector for Services",
            &|_, y, p| {
                p.service_selector = label("edge", "yes");
                y.labels.insert("edge".into(), "yes".into());
            },
            "- 30086 NotSelected",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "a selector for namespaces, by the name that each has as a label",
            &|o, _, p| {
                p.namespace_selector = label("kubernetes.io/metadata.name", "web");
                o.name = ServiceName::new("db", "old");
            },
            "- 30086 NotSelected",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "a pool asked for that is not there",
            &|o, _, _| o.asks.pool = Some("nowhere".into()),
            "- 30086 NoSuchPool",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "an address that is not in the pool asked for",
            &|o, _, _| {
                o.asks.pool = Some("edge".into());
                o.asks.addresses = vec!["10.9.9.9".parse().unwrap()];
            },
            "- 30086 AddressNotInPool",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "an address asked for twice",
            &|o, y, _| {
                o.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
                y.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
            },
            "10.0.0.1 30086 Assigned",
            "- 30087 AddressHeld",
        ),
        (
            "an address asked for, shared, and a port in common",
            &|o, y, _| {
                for service in [o, y] {
                    service.asks.sharing_key = Some("k".into());
                    service.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
                }
            },
            "10.0.0.1 30086 Assigned",
            "- 30087 SharingPortClash",
        ),
        (
            "two namespaces that agree share",
            &|o, y, _| {
                o.name = ServiceName::new("db", "old");
                for (service, other) in [(o, "web"), (y, "db")] {
                    service.asks.sharing_key = Some("k".into());
                    service.asks.sharing_namespaces = SharingNamespaces::Listed(vec![other.into()]);
                    service.ports[0].port += other.len() as u16;
                }
            },
            "10.0.0.1 30086 Assigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "one that agrees is not enough",
            &|o, y, _| {
                o.name = ServiceName::new("db", "old");
                for service in [&mut *o, y] {
                    service.asks.sharing_key = Some("k".into());
                    service.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
                }
                o.asks.sharing_namespaces = SharingNamespaces::All;
                o.ports[0].port = 81;
            },
            "10.0.0.1 30086 Assigned",
            "- 30087 SharingWithoutConsent",
        ),
        (
            "a shared address counts once against a quota",
            &|o, y, p| {
                p.quota_per_namespace = Some(1);
                o.asks.sharing_key = Some("k".into());
                y.asks.sharing_key = Some("k".into());
                y.ports[0].port = 81;
            },
            "10.0.0.1 30086 Assigned",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "both families if there are both",
            &|o, _, _| o.ip_family_policy = IpFamilyPolicy::PreferDualStack,
            "10.0.0.1 30086 Assigned",
            "10.0.0.2 30087 Assigned",
        ),
        (
            "a family that is not there",
            &|o, _, _| o.ip_families = vec![IpFamily::IPv6],
            "- 30086 NoAddressOfFamily",
            "10.0.0.1 30087 Assigned",
        ),
        (
            "an address of a family that is left out",
            &|o, _, _| {
                o.ip_families = vec![IpFamily::IPv4];
                o.asks.addresses = vec!["2001:db8::1".parse().unwrap()];
            },
            "10.0.0.1 30086 FamilyNotWanted",
            "10.0.0.2 30087 Assigned",
        ),
        (
            "what is being deleted lets go of everything",
            &|o, _, _| o.deleting = true,
            "- - -",
            "10.0.0.1 30086 Assigned",
        ),
    ];
    for (what, edit, old_wanted, young_wanted) in cases {
        let (mut old, mut young, mut pool) = (service("old", 1), service("young", 2), pool());
        edit(&mut old, &mut young, &mut pool);
        let mut world = World::new(settings(), vec![pool]);
        world.put([young, old]);
        assert_eq!(
            (world.got("old"), world.got("young")),
            (old_wanted.to_string(), young_wanted.to_string()),
            "{what}"
        );
    }
}
