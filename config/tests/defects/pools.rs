//! AddressPools: who gets addresses, and to whom they are announced.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::announce::{Announcement, BgpAnnouncement, Layer2Announcement};
use fairway_config::object::Object;
use fairway_config::pool::AddressPool;
use fairway_config::selector::SelectorExt as _;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::defect::{Defect, every_defect, labels, object};

fn pool(value: &Value) -> Option<Arc<AddressPool>> {
    match object(value)? {
        Object::Pool(pool) => Some(pool),
        _ => None,
    }
}

fn any_pool() -> impl Strategy<Value = Value> {
    any::<[bool; 6]>().prop_map(|with| {
        let mut spec =
            json!({"addresses": ["203.0.113.0/28", "203.0.113.32-203.0.113.40", "2001:db8::/120"]});
        let fields = spec.as_object_mut().unwrap();
        let optional = [
            ("autoAssign", json!(false)),
            ("avoidEnds", json!(true)),
            ("quotaPerNamespace", json!(2)),
            (
                "serviceSelector",
                json!({"matchExpressions": [
                {"key": "team", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"}]}),
            ),
            ("namespaceSelector", json!({"matchLabels": {"team": "a"}})),
            (
                "announce",
                json!({"layer2": {"interfaces": ["eth0", "eth1"],
                        "nodeSelector": {"matchLabels": {"team": "a"}}},
                    "bgp": {"peers": ["tor-a", "tor-b"], "communities": ["64512:100", "large:1:2:3"],
                        "localPreference": 7, "aggregationLength": 32, "aggregationLengthV6": 128,
                        "nodeSelector": {"matchExpressions":
                            [{"key": "team", "operator": "In", "values": ["a", "b"]}]}},
                    "routes": "kernel"}),
            ),
        ];
        for ((key, value), with) in optional.into_iter().zip(with) {
            if with {
                fields.insert(key.into(), value);
            }
        }
        json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "edge"}, "spec": spec})
    })
}

/// Whether a list, of which an empty one stands for everything, names no more than before.
fn names_no_more<T: PartialEq>(before: &[T], now: &[T]) -> bool {
    before.is_empty() || (!now.is_empty() && now.iter().all(|it| before.contains(it)))
}

/// An announcement goes to nobody, and by nobody, that it did not go to before, whatever else is wrong
/// with the pool.
fn announces_no_more(before: &Announcement, now: &Announcement, what: &str) {
    if let Some(now) = &now.layer2 {
        let Layer2Announcement {
            interfaces,
            node_selector,
        } = before.layer2.as_ref().unwrap();
        assert!(names_no_more(interfaces, &now.interfaces), "{what}");
        for labels in labels() {
            let (was, is) = (
                node_selector.matches(&labels),
                now.node_selector.matches(&labels),
            );
            assert!(was || !is, "from {labels:?}: {what}");
        }
    }
    if let Some(now) = &now.bgp {
        let before: &BgpAnnouncement = before.bgp.as_ref().unwrap();
        assert!(names_no_more(&before.peers, &now.peers), "{what}");
        // What keeps a route where it is stays on it.
        assert_eq!(now.communities, before.communities, "{what}");
        assert_eq!(now.large_communities, before.large_communities, "{what}");
        let lengths = |it: &BgpAnnouncement| (it.aggregation_length, it.aggregation_length_v6);
        assert_eq!(lengths(now), lengths(before), "{what}");
        for labels in labels() {
            let selects = |it: &BgpAnnouncement| it.node_selector.matches(&labels);
            assert!(selects(before) || !selects(now), "from {labels:?}: {what}");
        }
    }
    assert!(before.kernel_routes || !now.kernel_routes, "{what}");
}

fn pools_keep_closed(whole: &Value) {
    let before = pool(whole).unwrap();
    assert!(before.problems.is_empty(), "{:?}", before.problems);
    every_defect(whole, |path, defect, defective, _| {
        let Some(now) = pool(defective) else {
            return;
        };
        let what = format!("{defect:?} at {path:?}: {defective}");
        announces_no_more(&before.announce, &now.announce, &what);
        if !now.problems.is_empty() {
            return;
        }
        for labels in labels() {
            let selects = |pool: &AddressPool| {
                (
                    pool.service_selector.matches(&labels),
                    pool.namespace_selector.matches(&labels),
                )
            };
            let (was, is) = (selects(&before), selects(&now));
            assert!(was.0 || !is.0, "serviceSelector selects {labels:?}: {what}");
            assert!(
                was.1 || !is.1,
                "namespaceSelector selects {labels:?}: {what}"
            );
        }
        let quota = |pool: &AddressPool| pool.quota_per_namespace.unwrap_or(u32::MAX);
        assert!(
            quota(&now) <= quota(&before) || defect == Defect::OutOfRange,
            "{what}"
        );
        assert!(before.auto_assign || !now.auto_assign, "{what}");
        assert!(
            now.avoid_ends_of_all() || !before.avoid_ends_of_all(),
            "{what}"
        );
        for address in [
            "203.0.113.5",
            "203.0.113.0",
            "203.0.113.35",
            "203.0.113.200",
            "2001:db8::5",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(
                before.contains(address) || !now.contains(address),
                "{address}: {what}"
            );
        }
    });
}

trait AvoidEnds {
    fn avoid_ends_of_all(&self) -> bool;
}

impl AvoidEnds for AddressPool {
    /// Whether the ends of its CIDR are left alone.
    fn avoid_ends_of_all(&self) -> bool {
        !self.usable("203.0.113.0".parse().unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_pool_with_a_defect_gives_nobody_more(whole in any_pool()) {
        pools_keep_closed(&whole);
    }

    /// Whatever the schema of the kind takes, the reader has something to say about: a pool that is
    /// used, or one that says why it is not.
    #[test]
    fn a_pool_that_the_schema_takes_is_never_passed_over(
        addresses in proptest::collection::vec("[0-9a-f.:/ -]{0,20}|203\\.0\\.113\\.[0-9]{1,2}", 1..4),
        operator in "In|NotIn|Exists|DoesNotExist|in|[A-Za-z]{0,8}",
        key in "[a-z./]{0,9}",
        values in proptest::option::of(proptest::collection::vec("[a-z]{0,3}", 0..3)),
        forwarding in proptest::sample::select(vec!["Proxy", "Node"]),
        quota in proptest::option::of(0..=u32::MAX),
        which in any::<Index>(),
    ) {
        let mut requirement = json!({"key": key, "operator": operator});
        if let Some(values) = values {
            requirement["values"] = json!(values);
        }
        let mut spec = json!({"addresses": addresses, "forwarding": forwarding});
        let selector = ["serviceSelector", "namespaceSelector"][which.index(2)];
        spec[selector] = json!({"matchExpressions": [requirement]});
        if let Some(quota) = quota {
            spec["quotaPerNamespace"] = json!(quota);
        }
        let document = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "edge"}, "spec": spec});
        let pool = pool(&document).expect("it is there");
        for problem in &pool.problems {
            prop_assert!(problem.field.starts_with("spec."), "{}", problem);
            prop_assert!(!problem.message.is_empty());
        }
        if pool.problems.is_empty() {
            prop_assert!(["In", "NotIn", "Exists", "DoesNotExist"].contains(&operator.as_str()));
            prop_assert!(!key.is_empty());
            let usable = pool.blocks.iter().any(|block| block.total() > 0);
            prop_assert!(usable || !pool.notices.is_empty());
        }
    }
}
