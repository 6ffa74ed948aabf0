use fairway_config::class::ClassFilter;
use serde_json::json;

use super::super::service_requests::{self, ServiceClaim, ServiceRequest};
use super::*;

const NOW: Timestamp = Timestamp(1_000);
const OURS: &str = "fairway-system/fairway.dev/gateway";
const OTHERS: &str = "other-system/example.com/other";

fn cache(decides: bool) -> ObjectCache {
    let class = ClassFilter {
        name: "fairway.dev/gateway".into(),
        is_default: true,
    };
    let controller = ControllerIdentity::new("fairway-system", class);
    ObjectCache::new(controller, decides)
}

fn service(version: u32, status: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "web", "name": "shop", "uid": "u-1",
            "resourceVersion": version.to_string(),
        },
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}]},
        "status": status,
    })
}

/// The status that a controller writes with an address.
fn assigned(address: &str) -> Value {
    json!({
        "loadBalancer": {"ingress": [{"ip": address, "ipMode": "Proxy"}]},
        "conditions": [{
            "type": conditions::ADDRESS_ASSIGNED, "status": "True", "reason": "Assigned",
            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    })
}

fn key() -> ObjectKey {
    "Service web/shop".parse().unwrap()
}

fn held(cache: &ObjectCache) -> Vec<String> {
    let stored = &cache.service(&key()).unwrap().stored;
    stored
        .held
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn an_answer_behind_the_watch_still_tells_what_is_held() {
    let mut cache = cache(true);
    cache.put(Kind::Service, &service(1, &Value::Null), NOW);
    let written = service(2, &assigned("203.0.113.1"));
    // The watch shows it with what was held before.
    assert!(cache.put(Kind::Service, &written, NOW).is_some());
    assert!(held(&cache).is_empty());
    let addresses = vec!["203.0.113.1".parse().unwrap()];
    let told = cache.wrote(&key(), "u-1", addresses.clone(), &written, NOW);
    let Some(Change::Service(_, Some(stored))) = told else {
        panic!("nothing is told");
    };
    assert_eq!(stored.held.addresses, addresses);
    // Once is enough.
    let told = cache.wrote(&key(), "u-1", addresses, &written, NOW);
    assert!(told.is_none());
}

#[test]
fn a_gateway_serves_what_a_controller_of_fairways_has_given() {
    let mut cache = cache(false);
    let mut of_another = assigned("192.0.2.9");
    of_another["conditions"] = json!([]);
    cache.put(Kind::Service, &service(0, &of_another), NOW);
    assert!(held(&cache).is_empty());
    cache
        .put(Kind::Service, &service(1, &json!({})), NOW)
        .unwrap();
    assert!(held(&cache).is_empty());
    cache
        .put(Kind::Service, &service(2, &assigned("192.0.2.1")), NOW)
        .unwrap();
    assert_eq!(held(&cache), ["192.0.2.1"]);
    cache
        .put(Kind::Service, &service(3, &json!({})), NOW)
        .unwrap();
    assert!(held(&cache).is_empty());
}

#[test]
fn a_controller_keeps_what_it_decided_whoever_writes_into_the_status() {
    let mut cache = cache(true);
    cache
        .put(Kind::Service, &service(1, &assigned("192.0.2.1")), NOW)
        .unwrap();
    cache
        .put(Kind::Service, &service(2, &assigned("192.0.2.9")), NOW)
        .unwrap();
    assert_eq!(held(&cache), ["192.0.2.1"]);
    let address = "192.0.2.3".parse().unwrap();
    let written = service(3, &assigned("192.0.2.3"));
    cache
        .wrote(&key(), "u-1", vec![address], &written, NOW)
        .unwrap();
    assert_eq!(held(&cache), ["192.0.2.3"]);
    // Another Service of that name has nothing of the one before.
    let mut other = service(4, &json!({}));
    other["metadata"]["uid"] = "u-2".into();
    cache.put(Kind::Service, &other, NOW).unwrap();
    assert!(held(&cache).is_empty());
    assert!(
        cache
            .wrote(&key(), "u-1", vec![address], &written, NOW)
            .is_none()
    );
}

#[test]
fn an_older_version_changes_nothing() {
    let mut cache = cache(false);
    cache
        .put(Kind::Service, &service(10, &assigned("192.0.2.1")), NOW)
        .unwrap();
    assert!(
        cache
            .put(Kind::Service, &service(9, &json!({})), NOW)
            .is_none()
    );
    assert!(
        cache
            .put(Kind::Service, &service(10, &json!({})), NOW)
            .is_none()
    );
    assert_eq!(held(&cache), ["192.0.2.1"]);
}

#[test]
fn a_list_counts_whatever_its_versions_are() {
    let mut cache = cache(false);
    cache
        .put(Kind::Service, &service(1_000, &assigned("192.0.2.1")), NOW)
        .unwrap();
    // The cluster was restored from a backup.
    cache.begin(Kind::Service);
    let restored = service(7, &assigned("192.0.2.2"));
    cache.put(Kind::Service, &restored, NOW).unwrap();
    assert_eq!(held(&cache), ["192.0.2.2"]);
    // What was heard since the list began is newer than what the list shows.
    let written = service(9, &assigned("192.0.2.3"));
    cache.put(Kind::Service, &written, NOW).unwrap();
    assert!(cache.put(Kind::Service, &restored, NOW).is_none());
    assert!(cache.end(Kind::Service).is_empty());
    assert_eq!(held(&cache), ["192.0.2.3"]);
    assert!(cache.put(Kind::Service, &restored, NOW).is_none());
    // The same version is no news in a list either.
    cache.begin(Kind::Service);
    assert!(cache.put(Kind::Service, &written, NOW).is_none());
    assert!(cache.end(Kind::Service).is_empty());
}

#[test]
fn what_was_written_down_stands_in_until_it_is_listed() {
    let mut cache = cache(false);
    cache.begin(Kind::Service);
    let old = service(50, &assigned("192.0.2.1"));
    cache.recall(&old, NOW).unwrap();
    assert!(cache.recall(&old, NOW).is_none());
    assert_eq!(held(&cache), ["192.0.2.1"]);
    // What is listed comes first, whatever its version.
    let listed = service(2, &assigned("192.0.2.2"));
    cache.put(Kind::Service, &listed, NOW).unwrap();
    assert!(cache.recall(&old, NOW).is_none());
    assert_eq!(held(&cache), ["192.0.2.2"]);
    assert!(cache.end(Kind::Service).is_empty());
    // And what a list does not show is gone.
    cache.begin(Kind::Service);
    cache.begin(Kind::Node);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    cache.recall(&node, NOW).unwrap();
    let gone = cache.end(Kind::Node);
    assert!(matches!(&gone[..], [Change::Node(_, None)]));
}

#[test]
fn what_a_list_does_not_show_is_gone() {
    let mut cache = cache(false);
    cache.begin(Kind::Service);
    cache
        .put(Kind::Service, &service(1, &json!({})), NOW)
        .unwrap();
    assert!(cache.end(Kind::Service).is_empty());
    cache.begin(Kind::Service);
    let gone = cache.end(Kind::Service);
    assert!(matches!(&gone[..], [Change::Service(_, None)]));
    assert!(cache.service(&key()).is_none());
}

#[test]
fn another_providers_service_is_seen_without_what_it_was_given() {
    let mut cache = cache(true);
    let mut theirs = service(1, &assigned("192.0.2.1"));
    theirs["spec"]["loadBalancerClass"] = "example.com/lb".into();
    theirs["metadata"]["finalizers"] = json!([FINALIZER]);
    cache.put(Kind::Service, &theirs, NOW).unwrap();
    let record = cache.service(&key()).unwrap();
    assert_eq!(record.stored.status, Default::default());
    assert!(record.stored.held.addresses.is_empty());
    assert!(!cache.needs_repair(&key()));
}

#[test]
fn an_object_that_cannot_be_read_keeps_its_last_good_form() {
    let mut cache = cache(true);
    cache
        .put(Kind::Service, &service(1, &json!({})), NOW)
        .unwrap();
    let mut bad = service(2, &json!({}));
    bad["spec"]["ports"][0]["port"] = "eighty".into();
    assert!(cache.put(Kind::Service, &bad, NOW).is_none());
    assert_eq!(cache.problems().len(), 1);
    assert_eq!(
        cache.service(&key()).unwrap().stored.service.ports[0].port,
        80
    );
    cache
        .put(Kind::Service, &service(3, &json!({})), NOW)
        .unwrap();
    assert!(cache.problems().is_empty());
}

#[test]
fn what_concerns_many_services_is_told_where_what_is_used_of_it_differs() {
    let node = |version: u32, heartbeat: u32, label: &str, address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "a", "resourceVersion": version.to_string(), "labels": {"rack": label},
            },
            "status": {
                "addresses": [{"type": "InternalIP", "address": address}],
                "conditions": [{"type": "Ready", "lastHeartbeatTime": heartbeat.to_string()}],
            },
        })
    };
    for decides in [false, true] {
        let mut cache = cache(decides);
        let mut told = |document: Value| cache.put(Kind::Node, &document, NOW).is_some();
        assert!(told(node(1, 1, "r1", "192.0.2.1")));
        assert!(!told(node(2, 2, "r1", "192.0.2.1")));
        // A gateway chooses by labels, a controller does not.
        assert_eq!(told(node(3, 2, "r2", "192.0.2.1")), !decides);
        assert!(told(node(4, 2, "r2", "192.0.2.2")));
        assert!(!told(node(3, 2, "r2", "192.0.2.1")));
        // What is gone is new when it comes again.
        assert!(cache.remove(&node(4, 2, "r2", "192.0.2.2")).is_some());
        assert!(
            cache
                .put(Kind::Node, &node(5, 3, "r2", "192.0.2.2"), NOW)
                .is_some()
        );
    }
    let pool = |version: u32, last: u32, used: u32| {
        json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "edge", "resourceVersion": version.to_string()},
            "spec": {"addresses": [format!("203.0.113.1-203.0.113.{last}")]},
            "status": {"ipv4": {"total": last, "used": used, "available": last - used}},
        })
    };
    let mut cache = cache(true);
    let mut told = |document: Value| cache.put(Kind::AddressPool, &document, NOW).is_some();
    assert!(told(pool(1, 9, 0)));
    assert!(!told(pool(2, 9, 5)));
    assert!(told(pool(3, 8, 5)));
}

#[test]
fn a_peer_is_told_where_it_changed_and_its_problems_are_shown() {
    let peer = |version: u32, port: u32, ready: &str| {
        json!({
            "apiVersion": "fairway.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": "tor", "resourceVersion": version.to_string()},
            "spec": {"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "peerPort": port},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    let mut cache = cache(false);
    let put = |cache: &mut ObjectCache, document: Value| cache.put(Kind::BgpPeer, &document, NOW);
    let told = put(&mut cache, peer(1, 179, "True"));
    assert!(matches!(told, Some(Change::BgpPeer(_, Some(it))) if it.peer_port == 179));
    assert!(put(&mut cache, peer(2, 179, "False")).is_none());
    assert!(cache.problems().is_empty());
    // One that can't be is told as well: its session has to end.
    let told = put(&mut cache, peer(3, 0, "False"));
    assert!(matches!(told, Some(Change::BgpPeer(_, Some(it))) if it.problems.len() == 1));
    let problems = cache.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].object, "BGPPeer tor");
    assert_eq!(problems[0].field, "spec.peerPort");
    // A list without it: the kind may be gone from the cluster.
    cache.begin(Kind::BgpPeer);
    let gone = cache.end(Kind::BgpPeer);
    assert!(matches!(&gone[..], [Change::BgpPeer(name, None)] if &**name == "tor"));
    assert!(cache.problems().is_empty());
}

/// The same Service, taken by the controller of this class.
fn taken(version: u32, class: &str, status: &Value) -> Value {
    let mut taken = service(version, status);
    taken["metadata"]["annotations"] = json!({CONTROLLER: class});
    taken["metadata"]["finalizers"] = json!([FINALIZER]);
    taken
}

fn own(version: u32, status: &Value) -> Value {
    taken(version, OURS, status)
}

/// What this controller would write to bring the Service to where it has no address.
fn release(cache: &ObjectCache) -> Vec<ServiceRequest> {
    let record = cache.service(&key()).unwrap();
    service_requests::steps(record, cache.identity(), &[], &Status::default(), NOW)
}

#[test]
fn what_another_controller_has_is_neither_touched_nor_given_again() {
    let mut cache = cache(true);
    let said = json!({
        "loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]},
        "conditions": [{"type": "fairway.dev/AddressAssigned", "status": "True"}],
    });
    let theirs = taken(1, OTHERS, &said);
    cache.put(Kind::Service, &theirs, NOW).unwrap();
    let record = cache.service(&key()).unwrap();
    assert!(!record.ours && release(&cache).is_empty());
    // It counts as taken, and the core knows that it is another's.
    assert_eq!(held(&cache), ["192.0.2.1"]);
    let other = &record.stored.service.asks.other_controller;
    assert_eq!(other.as_deref(), Some(OTHERS));
    assert_eq!(cache.problems().len(), 1);
    // It lets go.
    cache
        .put(Kind::Service, &service(2, &json!({})), NOW)
        .unwrap();
    assert!(cache.service(&key()).unwrap().ours && cache.problems().is_empty());
}

#[test]
fn a_service_without_our_mark_is_not_released_whatever_its_conditions_say() {
    let mut cache = cache(true);
    let said = json!({"conditions": [{"type": "fairway.dev/AddressAssigned", "status": "True"}]});
    let mut not_ours = service(1, &said);
    not_ours["spec"]["loadBalancerClass"] = "example.com/other".into();
    cache.put(Kind::Service, &not_ours, NOW).unwrap();
    assert!(release(&cache).is_empty());
}

#[test]
fn finalizer_and_annotation_come_with_the_first_status_and_go_last() {
    let mut cache = cache(true);
    cache
        .put(Kind::Service, &service(1, &json!({})), NOW)
        .unwrap();
    let wanted = Status {
        has_foreign_ingress: true,
        ..Status::default()
    };
    let record = cache.service(&key()).unwrap();
    let steps = service_requests::steps(record, cache.identity(), &[], &wanted, NOW);
    let claim = ServiceClaim {
        finalizers: vec![FINALIZER.to_owned()],
        identity: Some(Arc::clone(cache.identity())),
    };
    let first = ServiceRequest::Status {
        status: wanted,
        beside: vec![status::taken_condition(OURS, None, NOW)],
        claim: Some(claim.clone()),
    };
    assert_eq!(steps, std::slice::from_ref(&first));
    let (patch, is_status) = first.patch("7");
    assert!(is_status);
    let metadata = json!({
        "resourceVersion": "7", "finalizers": [FINALIZER], "annotations": {CONTROLLER: OURS},
    });
    assert_eq!(patch["metadata"], metadata);
    // Where the API server takes the status alone.
    assert_eq!(first.claim_alone(), Some(ServiceRequest::Claim(claim)));
    // Its type changes, and the API server empties the status of its load balancer.
    let mut released = own(2, &assigned("192.0.2.1"));
    released["spec"]["type"] = "ClusterIP".into();
    cache.put(Kind::Service, &released, NOW).unwrap();
    let all = [
        ServiceRequest::Status {
            status: Status::default(),
            beside: vec![],
            claim: None,
        },
        ServiceRequest::Claim(ServiceClaim {
            finalizers: vec![],
            identity: None,
        }),
    ];
    assert_eq!(release(&cache), all);
    // Whoever takes over after a crash in between finds the rest.
    let mut emptied = own(3, &json!({}));
    emptied["spec"]["type"] = "ClusterIP".into();
    cache.put(Kind::Service, &emptied, NOW).unwrap();
    assert!(cache.needs_repair(&key()));
    assert_eq!(release(&cache), all[1..]);
}

#[test]
fn a_mark_that_a_person_takes_away_is_put_back_and_one_that_names_another_is_a_handover() {
    let mut cache = cache(true);
    let status = given_by(OURS);
    cache.put(Kind::Service, &own(1, &status), NOW).unwrap();
    assert!(!cache.needs_repair(&key()));
    cache.put(Kind::Service, &service(2, &status), NOW).unwrap();
    assert!(cache.needs_repair(&key()));
    cache.put(Kind::Service, &own(3, &status), NOW).unwrap();
    assert!(!cache.needs_repair(&key()));
    let handed_over = taken(4, OTHERS, &given_by(OTHERS));
    cache.put(Kind::Service, &handed_over, NOW).unwrap();
    assert!(release(&cache).is_empty());
    // Another takes the mark away: what it leaves is free for whoever is first.
    let free = service(5, &json!({}));
    cache.put(Kind::Service, &free, NOW).unwrap();
    assert_eq!(cache.service(&key()).unwrap().owner, ServiceOwner::Nobody);
}

/// A status with an address that the controller of this name has given.
fn given_by(identity: &str) -> Value {
    let mut status = assigned("192.0.2.1");
    let by = status::taken_condition(identity, None, NOW);
    let conditions = status["conditions"].as_array_mut().unwrap();
    conditions.push(by);
    status
}

#[test]
fn a_gateway_serves_what_a_controller_of_its_namespace_has_taken() {
    for (by, is_served) in [
        (OURS, true),
        // Any class of the same instance.
        ("fairway-system/example.com/other", true),
        (OTHERS, false),
        ("other-system/fairway.dev/gateway", false),
    ] {
        let mut cache = cache(false);
        // Whatever its owner writes into the annotation.
        for (version, mark) in [(1, by), (2, OURS), (3, OTHERS)] {
            let document = taken(version, mark, &given_by(by));
            cache.put(Kind::Service, &document, NOW).unwrap();
            assert_eq!(held(&cache).is_empty(), !is_served, "{by} {mark}");
        }
    }
    // What was given before controllers said so is served on.
    let mut cache = cache(false);
    cache
        .put(Kind::Service, &service(1, &assigned("192.0.2.1")), NOW)
        .unwrap();
    assert_eq!(held(&cache), ["192.0.2.1"]);
}

#[test]
fn an_annotation_gives_no_service_to_another_controller_than_the_status_names() {
    for (by, mark, owner) in [
        (OURS, OURS, ServiceOwner::Us),
        (OURS, OTHERS, ServiceOwner::Us),
        (OTHERS, OURS, ServiceOwner::Other(OTHERS.into())),
        (OTHERS, OTHERS, ServiceOwner::Other(OTHERS.into())),
        // A person who may say so does where the other is gone for good.
        (OTHERS, "", ServiceOwner::Nobody),
        (OURS, "", ServiceOwner::Us),
    ] {
        let mut cache = cache(true);
        let document = taken(1, mark, &given_by(by));
        cache.put(Kind::Service, &document, NOW).unwrap();
        let record = cache.service(&key()).unwrap();
        assert_eq!(record.owner, owner, "{by} {mark}");
        // Ours is marked again.
        let needs_repair = owner == ServiceOwner::Us && mark != OURS;
        assert!(!needs_repair || cache.needs_repair(&key()), "{by} {mark}");
    }
    // Nor does it get us to empty what another provider has given.
    let mut theirs = own(
        1,
        &json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}),
    );
    theirs["spec"]["loadBalancerClass"] = "example.com/lb".into();
    let mut cache = cache(true);
    cache.put(Kind::Service, &theirs, NOW).unwrap();
    assert!(!cache.needs_repair(&key()) && release(&cache).is_empty());
}

#[test]
fn what_another_controller_says_of_our_service_is_found_and_can_be_taken_away() {
    let mut cache = cache(true);
    let mut status = given_by(OURS);
    cache.put(Kind::Service, &own(1, &status), NOW).unwrap();
    assert!(cache.contended().is_empty());
    let said = status::contested_condition(OTHERS, OURS, NOW);
    let foreign = json!({"type": "example.com/Scanned", "status": "True"});
    let conditions = status["conditions"].as_array_mut().unwrap();
    conditions.extend([foreign, said]);
    cache.put(Kind::Service, &own(2, &status), NOW).unwrap();
    // While that one lives it is no fault: it is no reason to write.
    assert!(!cache.needs_repair(&key()));
    assert_eq!(cache.contended(), [(OTHERS.to_owned(), vec![key()])].into());
    let removed = service_requests::end_contest(cache.service(&key()).unwrap()).unwrap();
    assert_eq!(
        removed,
        json!([
            {"op": "replace", "path": "/metadata/resourceVersion", "value": "2"},
            {"op": "remove", "path": "/status/conditions/3"},
        ])
    );
    // What we say of the Service of another one is not that one's to judge here.
    status["conditions"][3] = status::contested_condition(OURS, OTHERS, NOW);
    cache
        .put(Kind::Service, &taken(3, OTHERS, &status), NOW)
        .unwrap();
    assert!(cache.contended().is_empty());
}

#[test]
fn who_would_take_what_another_has_says_so_once_and_takes_it_back() {
    let mut cache = cache(true);
    let mut status = given_by(OTHERS);
    cache
        .put(Kind::Service, &taken(1, OTHERS, &status), NOW)
        .unwrap();
    assert!(cache.needs_repair(&key()));
    let record = cache.service(&key()).unwrap();
    let said = service_requests::contest(record, OURS, NOW).unwrap();
    assert_eq!(said[1]["path"], "/status/conditions/-");
    let conditions = status["conditions"].as_array_mut().unwrap();
    conditions.push(said[1]["value"].clone());
    cache
        .put(Kind::Service, &taken(2, OTHERS, &status), NOW)
        .unwrap();
    assert!(!cache.needs_repair(&key()));
    assert_eq!(
        service_requests::contest(cache.service(&key()).unwrap(), OURS, NOW),
        None
    );
    // It is of another class from now on.
    let mut theirs = taken(3, OTHERS, &status);
    theirs["spec"]["loadBalancerClass"] = "example.com/other".into();
    cache.put(Kind::Service, &theirs, NOW).unwrap();
    assert!(cache.needs_repair(&key()));
    let record = cache.service(&key()).unwrap();
    let removed = service_requests::contest(record, OURS, NOW).unwrap();
    assert_eq!(
        removed[1],
        json!({"op": "remove", "path": "/status/conditions/2"})
    );
    // Or the other one lets go of it, and what we write has no such condition.
    let free = service(4, &json!({"conditions": [said[1]["value"]]}));
    cache.put(Kind::Service, &free, NOW).unwrap();
    let record = cache.service(&key()).unwrap();
    let steps = service_requests::steps(record, cache.identity(), &[], &Status::default(), NOW);
    assert!(
        matches!(&steps[..], [ServiceRequest::Status { beside, .. }] if beside.is_empty()),
        "{steps:?}"
    );
}
