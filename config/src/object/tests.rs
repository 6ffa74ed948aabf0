#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::document::documents;
use crate::endpoints::EndpointHost;
use crate::net::{IpFamily, Protocol};
use crate::service::{AppProtocol, IpFamilyPolicy, ServiceType, TargetPort};

fn value(yaml: &str) -> Value {
    documents(yaml).unwrap().remove(0).value
}

/// A Service whose `spec` is the given one.
fn service_value(spec: &str) -> Value {
    let spec = value(spec);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop", "namespace": "web"}, "spec": spec})
}

fn service(spec: &str) -> Arc<Service> {
    match read(&service_value(spec)) {
        Ok(Read {
            object: Object::Service(service),
            ..
        }) => service,
        other => panic!("{other:?}"),
    }
}

fn problems(value: &Value) -> Vec<String> {
    let unreadable = read(value).unwrap_err();
    assert!(!unreadable.problems.is_empty());
    unreadable
        .problems
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn reasons(service: &Service) -> Vec<&str> {
    service.notices.iter().map(|n| n.reason.as_ref()).collect()
}

#[test]
fn the_key_is_known_even_where_the_object_can_not_be_decoded() {
    let unreadable = read(&service_value("{ports: [{port: abc}]}")).unwrap_err();
    assert_eq!(unreadable.key.unwrap().to_string(), "Service web/shop");
    assert_eq!(unreadable.object, "Service web/shop");

    let nameless = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 0}]}});
    let unreadable = read(&nameless).unwrap_err();
    assert_eq!(unreadable.key, None);
    assert_eq!(unreadable.object, "Service");
    // What else is wrong is told as well.
    assert_eq!(unreadable.problems.len(), 2, "{:?}", unreadable.problems);
}

#[test]
fn what_is_no_object_of_ours_is_told_apart() {
    let table = [
        ("{apiVersion: apps/v1, kind: Deployment}", true),
        // The same kind in another group is another kind.
        ("{apiVersion: serving.knative.dev/v1, kind: Service}", true),
        (
            "{apiVersion: v1, kind: Secret, metadata: {name: a}, type: Opaque}",
            true,
        ),
        ("{replicaCount: 2}", false),
        ("{kind: Service, metadata: {name: a}}", false),
        ("[1, 2]", false),
        ("text", false),
        (
            "{apiVersion: discovery.k8s.io/v1beta1, kind: EndpointSlice, metadata: {name: a}}",
            false,
        ),
        (
            "{apiVersion: fairway.dev/v1, kind: AddressPool, metadata: {name: a}}",
            false,
        ),
        (
            "{apiVersion: fairway.dev/v1alpha1, kind: AdressPool, metadata: {name: a}}",
            false,
        ),
    ];
    for (text, other) in table {
        let read = read(&value(text));
        let is_other = matches!(
            &read,
            Ok(Read {
                key: None,
                object: Object::Other { .. }
            })
        );
        assert_eq!(is_other, other, "{text}: {read:?}");
        assert_eq!(read.is_ok(), other, "{text}: {read:?}");
    }
}

#[test]
fn names_that_could_lead_elsewhere_are_refused() {
    for name in [
        "..",
        ".",
        "a/b",
        "/etc",
        "",
        "a\0b",
        "-a",
        "A",
        "a b",
        &"a".repeat(300),
    ] {
        for kind in ["Service", "EndpointSlice", "Node", "Secret"] {
            let version = if kind == "EndpointSlice" {
                "discovery.k8s.io/v1"
            } else {
                "v1"
            };
            let object = json!({"apiVersion": version, "kind": kind,
                "type": "kubernetes.io/tls", "metadata": {"name": name}});
            assert_eq!(read(&object).unwrap_err().key, None, "{kind} {name}");
            if !name.is_empty() && kind != "Node" {
                let object = json!({"apiVersion": version, "kind": kind,
                    "metadata": {"name": "a", "namespace": name}});
                assert_eq!(read(&object).unwrap_err().key, None, "{kind} {name}");
            }
        }
    }
    let number = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": 5}});
    assert_eq!(
        problems(&number)[0],
        "metadata.name: is 5, must be a text: put it in quotes"
    );
}

#[test]
fn what_is_malformed_holds_the_service_back() {
    let table = [
        (
            "{}",
            "spec.ports: is missing: a Service that is neither headless nor an ExternalName has ports",
        ),
        (
            "{ports: []}",
            "spec.ports: is missing: a Service that is neither headless nor an ExternalName has ports",
        ),
        ("{ports: 80}", "spec.ports: is 80, must be a list"),
        ("{ports: [80]}", "spec.ports[0]: is 80, must be a mapping"),
        (
            "{ports: [{}]}",
            "spec.ports[0].port: is missing: a whole number from 1 to 65535",
        ),
        (
            "{ports: [{port: 0}]}",
            "spec.ports[0].port: is 0, must be a whole number from 1 to 65535",
        ),
        (
            "{ports: [{port: 65536}]}",
            "spec.ports[0].port: is 65536, must be a whole number from 1 to 65535",
        ),
        (
            "{ports: [{port: '80'}]}",
            "spec.ports[0].port: is '80', must be a whole number from 1 to 65535",
        ),
        (
            "{ports: [{port: 80, nodePort: abc}]}",
            "spec.ports[0].nodePort: is 'abc', must be a whole number",
        ),
        (
            "{ports: [{port: 80, targetPort: [1]}]}",
            "spec.ports[0].targetPort: is a list, must be a port number from 1 to 65535 or the name of a port",
        ),
        (
            "{ports: [{port: 80, targetPort: 70000}]}",
            "spec.ports[0].targetPort: is 70000, must be a whole number from 1 to 65535",
        ),
        (
            "{ports: [{port: 80, name: a}, {port: 80, name: b}]}",
            "spec.ports[1].port: is 80/TCP, as that of spec.ports[0]: protocol and port stand once in a Service",
        ),
        (
            "{ports: [{port: 80, name: a}, {port: 81, name: a}]}",
            "spec.ports[1].name: is 'a', as that of spec.ports[0]: each port has a name of its own",
        ),
        (
            "{ports: [{port: 80, name: a}, {port: 81}]}",
            "spec.ports[1].name: is missing: where there are several ports, each has a name",
        ),
        (
            "{type: Loadbalancer, ports: [{port: 80}]}",
            "spec.type: is 'Loadbalancer', must be ClusterIP, NodePort, LoadBalancer or ExternalName",
        ),
        (
            "{type: ExternalName}",
            "spec.externalName: is missing: a Service of type ExternalName has one",
        ),
        (
            "{clusterIP: x, ports: [{port: 80}]}",
            "spec.clusterIP: is 'x', must be an IP address or None",
        ),
        (
            "{sessionAffinity: clientip, ports: [{port: 80}]}",
            "spec.sessionAffinity: is 'clientip', must be None or ClientIP",
        ),
        (
            "{sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ports: [{port: 80}]}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: is 0, must be a whole number from 1 to 86400",
        ),
        (
            "{externalTrafficPolicy: local, ports: [{port: 80}]}",
            "spec.externalTrafficPolicy: is 'local', must be Cluster or Local",
        ),
        (
            "{ipFamilies: [IPv4, IPv4], ports: [{port: 80}]}",
            "spec.ipFamilies[1]: is IPv4, which stands there already",
        ),
        (
            "{publishNotReadyAddresses: 'true', ports: [{port: 80}]}",
            "spec.publishNotReadyAddresses: is 'true', must be true or false",
        ),
        (
            "{loadBalancerSourceRanges: 10.0.0.0/8, ports: [{port: 80}]}",
            "spec.loadBalancerSourceRanges: is '10.0.0.0/8', must be a list",
        ),
        (
            "{selector: [app], ports: [{port: 80}]}",
            "spec.selector: is a list, must be a mapping",
        ),
    ];
    for (spec, problem) in table {
        assert_eq!(problems(&service_value(spec)), [problem], "{spec}");
    }
}

#[test]
fn all_problems_come_together() {
    let mut value =
        service_value("{type: Foo, ports: [{port: a}, {port: 1, name: B, nodePort: {}}]}");
    value["metadata"]["annotations"] = json!({"a": 1});
    let found = problems(&value);
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn what_is_well_formed_and_wrong_is_a_notice() {
    let table = [
        (
            "{ports: [{port: 80, protocol: SCTP}]}",
            "UnsupportedProtocol",
        ),
        ("{ports: [{port: 80, protocol: QUIC}]}", "UnknownProtocol"),
        (
            "{ports: [{port: 80, nodePort: 70000}]}",
            "NodePortOutOfRange",
        ),
        ("{ports: [{port: 80, nodePort: -1}]}", "NodePortOutOfRange"),
        (
            "{ports: [{port: 80}], healthCheckNodePort: 99999}",
            "NodePortOutOfRange",
        ),
        (
            "{ports: [{port: 80}], externalIPs: [192.0.2.1]}",
            "ExternalIPsIgnored",
        ),
        (
            "{ports: [{port: 80}], loadBalancerIP: nonsense}",
            "InvalidAddress",
        ),
        (
            "{ports: [{port: 80}], loadBalancerSourceRanges: [nonsense, 10.0.0.0/8]}",
            "InvalidSourceRange",
        ),
    ];
    for (spec, reason) in table {
        let service = service(spec);
        assert_eq!(reasons(&service), [reason], "{spec}");
    }
    let mixed = service("{ports: [{name: a, port: 80, protocol: SCTP}, {name: b, port: 80}]}");
    assert_eq!(mixed.ports.len(), 1);
    assert_eq!(mixed.ports[0].protocol, Protocol::Tcp);
    assert!(mixed.notices[0].message.contains("port 80 is SCTP"));
}

#[test]
fn what_is_left_out_is_filled_in_as_kubernetes_does() {
    let service = service("{ports: [{port: 80}]}");
    assert_eq!(service.kind, ServiceType::ClusterIP);
    assert_eq!(service.ports[0].target, TargetPort::Number(80));
    assert_eq!(service.ports[0].protocol, Protocol::Tcp);
    assert_eq!(service.ip_family_policy, IpFamilyPolicy::SingleStack);
    assert!(service.allocate_node_ports);
    assert!(service.notices.is_empty());

    for (text, target) in [
        ("0", TargetPort::Number(80)),
        ("'8080'", TargetPort::Number(8080)),
        ("''", TargetPort::Number(80)),
        ("8080", TargetPort::Number(8080)),
        ("web", TargetPort::Name("web".into())),
    ] {
        let spec = format!("{{ports: [{{port: 80, targetPort: {text}}}]}}");
        assert_eq!(self::service(&spec).ports[0].target, target, "{text}");
    }
    for (text, app) in [
        ("http", AppProtocol::Http),
        ("kubernetes.io/ws", AppProtocol::Http),
        ("kubernetes.io/h2c", AppProtocol::H2c),
        ("grpc", AppProtocol::H2c),
        ("https", AppProtocol::Opaque),
        ("kubernetes.io/wss", AppProtocol::Opaque),
        ("example.org/other", AppProtocol::Opaque),
    ] {
        let spec = format!("{{ports: [{{port: 80, appProtocol: {text}}}]}}");
        assert_eq!(self::service(&spec).ports[0].app, app, "{text}");
    }
    let dual = self::service("{ipFamilies: [IPv6, IPv4], ports: [{port: 80}]}");
    assert_eq!(dual.ip_family_policy, IpFamilyPolicy::RequireDualStack);
    assert_eq!(dual.ip_families, [IpFamily::IPv6, IpFamily::IPv4]);
    let headless = self::service("{clusterIP: None, clusterIPs: [None]}");
    assert!(headless.headless && headless.cluster_ips.is_empty());
    // A creation time that can't be read is no reason to hold anything back.
    let mut value = service_value("{ports: [{port: 80}]}");
    value["metadata"]["creationTimestamp"] = json!("yesterday");
    assert!(read(&value).is_ok());
}

fn slice(fields: &str) -> Result<Arc<EndpointSlice>, Vec<String>> {
    let mut object = value(fields);
    object["apiVersion"] = json!("discovery.k8s.io/v1");
    object["kind"] = json!("EndpointSlice");
    if object.get("metadata").is_none() {
        object["metadata"] = json!({"name": "a"});
    }
    match read(&object) {
        Ok(Read {
            object: Object::EndpointSlice(slice),
            ..
        }) => Ok(slice),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.problems.iter().map(ToString::to_string).collect()),
    }
}

#[test]
fn the_conditions_of_an_endpoint_have_kubernetes_defaults() {
    for (conditions, expected) in [
        ("null", (true, true, false)),
        ("{}", (true, true, false)),
        ("{ready: null}", (true, true, false)),
        ("{ready: false}", (false, false, false)),
        (
            "{ready: false, serving: true, terminating: true}",
            (false, true, true),
        ),
    ] {
        let slice = slice(&format!(
            "{{addressType: IPv4, endpoints: [{{addresses: [192.0.2.1, 192.0.2.2], conditions: {conditions}}}]}}"
        ))
        .unwrap();
        let [endpoint] = slice.endpoints.as_slice() else {
            panic!()
        };
        assert_eq!(
            (endpoint.ready, endpoint.serving, endpoint.terminating),
            expected,
            "{conditions}"
        );
        assert_eq!(
            endpoint.address,
            EndpointHost::Ip("192.0.2.1".parse().unwrap())
        );
        assert_eq!(slice.weight, 1);
        assert_eq!(slice.service, None);
    }
}

#[test]
fn a_malformed_slice_says_what_is_wrong() {
    for (fields, problem) in [
        (
            "{endpoints: []}",
            "addressType: is missing: IPv4, IPv6 or FQDN",
        ),
        (
            "{addressType: IPv5}",
            "addressType: is 'IPv5', must be IPv4, IPv6 or FQDN",
        ),
        (
            "{addressType: IPv4, endpoints: [{}]}",
            "endpoints[0].addresses: is missing: an endpoint has an address",
        ),
        (
            "{addressType: IPv4, endpoints: [{addresses: ['2001:db8::1']}]}",
            "endpoints[0].addresses[0]: is '2001:db8::1', must be an IPv4 address, as addressType says",
        ),
        (
            "{addressType: FQDN, endpoints: [{addresses: ['192.0.2.1']}]}",
            "endpoints[0].addresses[0]: is '192.0.2.1', must be a DNS name, as addressType says",
        ),
        (
            "{addressType: IPv4, ports: [{port: 0}]}",
            "ports[0].port: is 0, must be a whole number from 1 to 65535",
        ),
        (
            "{addressType: IPv4, metadata: {name: a, annotations: {fairway.dev/weight: '-1'}}}",
            "metadata.annotations[fairway.dev/weight]: is '-1', must be a whole number from 0 to 65535",
        ),
    ] {
        assert_eq!(slice(fields), Err(vec![problem.to_owned()]), "{fields}");
    }
}

#[test]
fn nodes_are_left_out_by_kubernetes_rules() {
    for (metadata, spec, excluded) in [
        (json!({}), json!({}), false),
        (
            json!({"deletionTimestamp": "2026-03-02T08:14:03Z"}),
            json!({}),
            true,
        ),
        (
            json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: ""}}),
            json!({}),
            true,
        ),
        (
            json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: "nonsense"}}),
            json!({}),
            true,
        ),
        (
            json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: "false"}}),
            json!({}),
            false,
        ),
        (
            json!({}),
            json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}),
            true,
        ),
        (
            json!({}),
            json!({"taints": [{"key": "node.kubernetes.io/not-ready"}]}),
            false,
        ),
    ] {
        let mut metadata = metadata;
        metadata["name"] = json!("a");
        let object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec});
        match read(&object).unwrap().object {
            Object::Node(node) => assert_eq!(node.excluded.is_some(), excluded, "{object}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_tls_secret_is_decoded_and_never_printed() {
    let secret = |data: Value| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "a"}, "data": data})
    };
    match read(&secret(json!({"tls.crt": "Y3J0", "tls.key": "a2V5"})))
        .unwrap()
        .object
    {
        Object::Secret(secret) => {
            assert_eq!(secret.certificate, b"crt");
            assert_eq!(secret.key, b"key");
            assert!(!format!("{secret:?}").contains("107"));
        }
        other => panic!("{other:?}"),
    }
    let found = problems(&secret(json!({"tls.crt": "-----BEGIN", "tls.key": 5})));
    assert_eq!(
        found,
        [
            "data[tls.crt]: is not in base64; plain text goes under stringData",
            "data[tls.key]: is 5, must be a text: put it in quotes",
        ]
    );
    assert!(
        problems(&secret(json!({"tls.crt": "Y3J0"})))[0].starts_with("data[tls.key]: is missing")
    );
}

fn pool(spec: &str) -> Result<Arc<AddressPool>, Vec<String>> {
    let object = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": "edge"}, "spec": value(spec)});
    match read(&object) {
        Ok(Read {
            object: Object::Pool(pool),
            ..
        }) => Ok(pool),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.problems.iter().map(ToString::to_string).collect()),
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
    assert!(pool.service_selector.requirements.is_empty());
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
