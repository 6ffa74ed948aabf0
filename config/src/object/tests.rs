#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;
use crate::document::documents;
use crate::endpoints::EndpointHost;
use crate::net::{IpFamily, Protocol};
use crate::service::{AppProtocol, IpFamilyPolicy, PortKey, ServiceType, TargetPort};

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
        Ok(ReadObject {
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
            Ok(ReadObject {
                key: None,
                object: Object::Other { .. },
                ..
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
        Ok(ReadObject {
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
    ] {
        assert_eq!(slice(fields), Err(vec![problem.to_owned()]), "{fields}");
    }
}

#[test]
fn one_odd_value_of_a_slice_is_left_out_alone() {
    for (defect, problem) in [
        (
            "endpoints: [{}, GOOD]",
            "endpoints[0].addresses: is missing: an endpoint has an address: the endpoint is left out",
        ),
        (
            "endpoints: [{addresses: ['']}, GOOD]",
            "endpoints[0].addresses[0]: is empty, must be an address: the endpoint is left out",
        ),
        (
            "endpoints: [GOOD, {addresses: [010.0.0.1]}]",
            "endpoints[1].addresses[0]: is '010.0.0.1', must be an IPv4 address, as addressType says: the endpoint is left out",
        ),
        (
            "endpoints: [GOOD, {addresses: ['2001:db8::1']}]",
            "endpoints[1].addresses[0]: is '2001:db8::1', must be an IPv4 address, as addressType says: the endpoint is left out",
        ),
        (
            "endpoints: [GOOD, {addresses: [192.0.2.1], conditions: {ready: 'no'}}]",
            "endpoints[1].conditions.ready: is 'no', must be true or false: the endpoint is left out",
        ),
        (
            "endpoints: [GOOD], ports: [{port: 0}, {port: 8080}]",
            "ports[0].port: is 0, must be a whole number from 1 to 65535: the port is left out",
        ),
        (
            "endpoints: [GOOD], metadata: {name: a, annotations: {fairway.dev/weight: 'O'}}",
            "metadata.annotations[fairway.dev/weight]: is 'O', must be a whole number from 0 to 65535: it is left out, and the weight is 1",
        ),
    ] {
        let defect = defect.replace("GOOD", "{addresses: [192.0.2.9]}");
        let mut object = value(&format!("{{addressType: IPv4, {defect}}}"));
        object["apiVersion"] = json!("discovery.k8s.io/v1");
        object["kind"] = json!("EndpointSlice");
        if object.get("metadata").is_none() {
            object["metadata"] = json!({"name": "a"});
        }
        let found = read(&object).unwrap_or_else(|error| panic!("{defect}: {error:?}"));
        let said: Vec<_> = found.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said, [problem], "{defect}");
        let Object::EndpointSlice(slice) = found.object else {
            panic!("{defect}");
        };
        let good = EndpointHost::Ip("192.0.2.9".parse().unwrap());
        let hosts: Vec<_> = slice.endpoints.iter().map(|it| &it.address).collect();
        assert_eq!(hosts, [&good], "{defect}");
        assert!(slice.ports.len() < 2, "{defect}");
        assert_eq!(slice.weight, 1, "{defect}");
        // Who serves the Service can say it, too.
        assert!(slice.notices[0].message.contains(problem), "{defect}");
    }
    // An IPv4 address in the form of IPv6 is the IPv4 address, as it is to the nodes' own proxy.
    let mapped = slice("{addressType: IPv4, endpoints: [{addresses: ['::ffff:192.0.2.9']}]}");
    let good = EndpointHost::Ip("192.0.2.9".parse().unwrap());
    assert_eq!(mapped.unwrap().endpoints[0].address, good);
    let endpoints = value(
        "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{addresses: [{ip: 010.0.0.1}, {ip: 192.0.2.9}]}]}",
    );
    let Object::Endpoints(slices) = read(&endpoints).unwrap().object else {
        panic!("no Endpoints");
    };
    assert_eq!(slices[0].endpoints.len(), 1);
    assert!(
        slices[0].notices[0]
            .message
            .starts_with("Endpoints default/a, subsets[0]")
    );
    // An API server takes any text as the address of a Node.
    let node = value(
        "{apiVersion: v1, kind: Node, metadata: {name: a}, status: {addresses: [{type: InternalIP, address: 010.0.0.1}, {type: InternalIP, address: 192.0.2.9}]}}",
    );
    let node = read(&node).unwrap();
    assert_eq!(node.warnings.len(), 1);
    match node.object {
        Object::Node(node) => assert_eq!(node.internal_ips.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn empty_texts_stand_for_the_default() {
    let plain = service("{ports: [{port: 80}]}");
    let empty = service(
        "{type: '', sessionAffinity: '', externalTrafficPolicy: '', ipFamilyPolicy: '', clusterIP: '', loadBalancerIP: '', externalName: '', ports: [{port: 80, protocol: '', name: '', targetPort: '', appProtocol: ''}]}",
    );
    assert_eq!(plain, empty);
}

#[test]
fn what_restricts_and_can_not_be_read_lets_nobody_in() {
    let nobody = crate::annotations::parse::nobody();
    for spec in [
        "{ports: [{port: 80}], loadBalancerSourceRanges: [null]}",
        "{ports: [{port: 80}], loadBalancerSourceRanges: ['']}",
        "{ports: [{port: 80}], loadBalancerSourceRange: [10.0.0.0/8]}",
        "{ports: [{port: 80}], LoadBalancerSourceRanges: [10.0.0.0/8]}",
    ] {
        assert_eq!(service(spec).source_ranges, nobody, "{spec}");
    }
    let part = service("{ports: [{port: 80}], loadBalancerSourceRanges: [null, 10.0.0.0/8]}");
    assert_eq!(part.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn a_request_that_can_not_be_read_is_not_done_without() {
    for (spec, family) in [
        ("{loadBalancerIP: 203.0.113.300}", IpFamily::IPv4),
        ("{loadBalancerIp: 203.0.113.3}", IpFamily::IPv4),
        ("{loadBalancerClass: ''}", IpFamily::IPv6),
        ("{loadbalancerClass: fairway.dev/gateway}", IpFamily::IPv4),
    ] {
        let spec = spec.replace('{', "{type: LoadBalancer, ports: [{port: 80}], ");
        let spec = spec.replace(
            "ports: [{type: LoadBalancer, ports: [{port: 80}], port",
            "ports: [{port",
        );
        let service = service(&spec);
        assert!(service.asks.unreadable_address(family).is_some(), "{spec}");
        assert_eq!(service.notices.len(), 1, "{spec}: {:?}", service.notices);
    }
    let key = |port| PortKey {
        protocol: Protocol::Tcp,
        port,
    };
    for port in ["nodePort: 70000", "nodePort: -1", "nodeport: 30080"] {
        let spec = format!(
            "{{type: NodePort, ports: [{{name: a, port: 80, {port}}}, {{name: b, port: 81}}]}}"
        );
        let service = service(&spec);
        assert_eq!(service.ports.len(), 2, "{spec}");
        assert!(service.asks.is_node_port_unreadable(key(80)), "{spec}");
        assert!(!service.asks.is_node_port_unreadable(key(81)), "{spec}");
    }
    // A port that would be opened, or lead elsewhere, is left out alone.
    for field in ["protocl: UDP", "targetport: 8080", "Protocol: UDP"] {
        let spec = format!("{{ports: [{{name: a, port: 80, {field}}}, {{name: b, port: 81}}]}}");
        let service = service(&spec);
        let ports: Vec<_> = service.ports.iter().map(|it| it.port).collect();
        assert_eq!(ports, [81], "{spec}");
        assert_eq!(reasons(&service), ["InvalidField"], "{spec}");
    }
}

#[test]
fn ranges_of_one_family_are_said_to_refuse_the_other() {
    for (spec, refused) in [
        (
            "ipFamilyPolicy: PreferDualStack, loadBalancerSourceRanges: [0.0.0.0/0]",
            Some("IPv6"),
        ),
        (
            "ipFamilies: [IPv6], loadBalancerSourceRanges: [10.0.0.0/8]",
            Some("IPv6"),
        ),
        (
            "ipFamilies: [IPv4, IPv6], loadBalancerSourceRanges: ['::/0']",
            Some("IPv4"),
        ),
        (
            "ipFamilyPolicy: PreferDualStack, loadBalancerSourceRanges: [0.0.0.0/0, '::/0']",
            None,
        ),
        (
            "ipFamilies: [IPv4], loadBalancerSourceRanges: [0.0.0.0/0]",
            None,
        ),
        ("ipFamilyPolicy: PreferDualStack", None),
    ] {
        let service = service(&format!("{{ports: [{{port: 80}}], {spec}}}"));
        match refused {
            Some(family) => {
                assert_eq!(reasons(&service), ["SourceRangesOfOneFamily"], "{spec}");
                let message = &service.notices[0].message;
                assert!(
                    message.contains(&format!("every {family} client is refused")),
                    "{message}"
                );
            }
            None => assert!(service.notices.is_empty(), "{spec}"),
        }
    }
}

#[test]
fn a_kind_that_is_misspelt_is_named() {
    for (text, meant) in [
        (
            "{apiVersion: v1, kind: Servce, metadata: {name: a}}",
            Some("is Service meant?"),
        ),
        (
            "{apiVersion: v1, kind: service, metadata: {name: a}}",
            Some("is Service meant?"),
        ),
        (
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlices, metadata: {name: a}}",
            Some("is EndpointSlice meant?"),
        ),
        (
            "{apiVersion: v1, kind: EndpointSlice, metadata: {name: a}}",
            Some("is discovery.k8s.io/v1 meant?"),
        ),
        (
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}",
            None,
        ),
        ("{apiVersion: v1, kind: Pod, metadata: {name: a}}", None),
        (
            "{apiVersion: example.org/v1, kind: Device, metadata: {name: a}}",
            None,
        ),
        (
            "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}",
            None,
        ),
    ] {
        let read = read(&value(text)).unwrap();
        assert!(matches!(read.object, Object::Other { .. }), "{text}");
        let said: Vec<_> = read.warnings.iter().map(ToString::to_string).collect();
        match meant {
            Some(meant) => assert!(
                said.len() == 1 && said[0].contains(meant),
                "{text}: {said:?}"
            ),
            None => assert!(said.is_empty(), "{text}: {said:?}"),
        }
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
