#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod nodes;
mod peers;
mod pools;
mod slices;

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
        (
            "{ports: [{port: 80}], trafficDistribution: PreferSameRack}",
            "TrafficDistributionIgnored",
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
fn the_preferred_endpoints_are_read() {
    use crate::service::TrafficDistribution::{PreferSameNode, PreferSameZone};
    for (text, wanted) in [
        ("PreferSameZone", Some(PreferSameZone)),
        ("PreferClose", Some(PreferSameZone)),
        ("PreferSameNode", Some(PreferSameNode)),
        ("''", None),
        ("null", None),
    ] {
        let service = service(&format!(
            "{{ports: [{{port: 80}}], trafficDistribution: {text}}}"
        ));
        assert_eq!(service.traffic_distribution, wanted, "{text}");
        assert!(service.notices.is_empty(), "{text}");
    }
    assert_eq!(service("{ports: [{port: 80}]}").traffic_distribution, None);
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
