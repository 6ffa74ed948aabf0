//! `validate`: what is wrong between objects that are each well-formed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use fairway_config::document::documents;
use fairway_config::object::read;
use fairway_config::validate::{Located, check};

fn problems(text: &str) -> Vec<String> {
    let located: Vec<Located> = documents(text)
        .unwrap()
        .iter()
        .filter_map(|document| {
            let read = read(&document.value).unwrap_or_else(|error| panic!("{error:?}"));
            Some(Located {
                place: document.place(&Arc::from("a.yaml")),
                key: read.key?,
                object: read.object,
            })
        })
        .collect();
    check(&located, &(30_000..=32_767))
        .iter()
        .map(ToString::to_string)
        // What may be kept elsewhere has a test of its own.
        .filter(|problem| ![" here: "].iter().any(|word| problem.contains(word)))
        .collect()
}

fn unserved(text: &str) -> Vec<String> {
    let located: Vec<Located> = documents(text)
        .unwrap()
        .iter()
        .map(|document| {
            let read = read(&document.value).unwrap();
            Located {
                place: document.place(&Arc::from("a.yaml")),
                key: read.key.unwrap(),
                object: read.object,
            }
        })
        .collect();
    let all = check(&located, &(30_000..=32_767));
    assert!(all.iter().all(|it| !it.is_error()), "{all:?}");
    all.into_iter().map(|it| it.message).collect()
}

#[test]
fn a_service_that_nothing_serves_is_a_warning() {
    let pool = pool("edge", "203.0.113.0/28");
    let slice = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: shop}}, addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [192.0.2.1]}]}\n";
    let whole = pool.clone() + &balancer("shop", "", 80) + slice;
    assert!(unserved(&whole).is_empty());
    let no_pool = balancer("shop", "", 80) + slice;
    assert!(unserved(&no_pool)[0].contains("there is no AddressPool here"));
    let no_slice = pool.clone() + &balancer("shop", "", 80);
    assert!(unserved(&no_slice)[0].contains("no selector and no EndpointSlice here"));
    let selector = "{type: NodePort, selector: {app: shop}, ports: [{port: 80}]}";
    assert!(unserved(&service("shop", "", selector))[0].contains("makes them by the selector"));
    let headless = "{type: LoadBalancer, clusterIP: None, ports: [{port: 80}]}";
    let headless = pool.clone() + &service("shop", "", headless) + slice;
    assert!(unserved(&headless)[0].contains("is None, which an API server refuses"));
    // Nobody asks from outside.
    let inside = service("shop", "", "{ports: [{port: 80}]}");
    assert!(unserved(&inside).is_empty());
    let nameless = slice.replace(", labels: {kubernetes.io/service-name: shop}", "");
    let found = unserved(&nameless);
    assert!(
        found[0].contains("has no label kubernetes.io/service-name"),
        "{found:?}"
    );
}

#[test]
fn a_pool_that_can_not_be_used_is_an_error_with_its_field() {
    let text = "{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {name: a}, spec: {addresses: [203.0.113.0/28], forwarding: Nodes}}";
    let found = problems(text);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("a.yaml, document 1, AddressPool a, spec.forwarding: is 'Nodes'"));
}

fn service(name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{{annotations}}}}}, spec: {spec}}}\n"
    )
}

fn balancer(name: &str, annotations: &str, port: u16) -> String {
    service(
        name,
        annotations,
        &format!("{{type: LoadBalancer, ports: [{{port: {port}}}]}}"),
    )
}

fn pool(name: &str, addresses: &str) -> String {
    format!(
        "---\n{{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}]}}}}\n"
    )
}

#[test]
fn the_first_of_two_counts_and_the_other_is_named() {
    let found = problems(&(balancer("shop", "", 80) + &balancer("shop", "fairway.dev/x: z", 81)));
    assert_eq!(
        found,
        [
            "a.yaml, document 2, Service default/shop: is declared in a.yaml, document 1 as well, and that one counts: remove one of them"
        ]
    );
}

#[test]
fn notices_are_shown() {
    let found = problems(&balancer("shop", "fairway.dev/adresses: 203.0.113.1", 80));
    assert_eq!(
        found,
        [
            "a.yaml, document 1, Service default/shop: warning: UnknownAnnotation: fairway.dev/adresses is no annotation that Fairway knows; is fairway.dev/addresses meant?"
        ]
    );
}

#[test]
fn endpoints_without_their_service_are_found() {
    let slice = "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: shpo}}, addressType: IPv4}\n";
    assert_eq!(
        problems(&(balancer("shop", "", 80) + slice)),
        [
            "a.yaml, document 2, EndpointSlice default/a, metadata.labels[kubernetes.io/service-name]: warning: stands for the Service default/shpo, which is not there"
        ]
    );
    let endpoints = "---\n{apiVersion: v1, kind: Endpoints, metadata: {name: shpo}}\n";
    assert_eq!(problems(endpoints).len(), 1);
}

#[test]
fn a_port_that_no_slice_has_is_found() {
    let slice = |port: &str, endpoints: &str| {
        format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a, labels: {{kubernetes.io/service-name: shop}}}}, addressType: IPv4, ports: [{{name: {port}, port: 8080}}], endpoints: [{endpoints}]}}\n"
        )
    };
    let shop = service(
        "shop",
        "",
        "{type: NodePort, ports: [{name: http, port: 80, targetPort: web}]}",
    );
    let endpoint = "{addresses: [192.0.2.1]}";
    assert!(problems(&(shop.clone() + &slice("http", endpoint))).is_empty());
    // The target port's name is not the slice's.
    assert_eq!(
        problems(&(shop.clone() + &slice("web", endpoint))),
        [
            "a.yaml, document 1, Service default/shop, spec.ports: has the port 80/TCP (targetPort 'web') that no EndpointSlice has a TCP port named 'http' for: its traffic finds no endpoint"
        ]
    );
    // Nothing can be told from a slice that nobody is in.
    assert!(problems(&(shop + &slice("web", ""))).is_empty());
}

#[test]
fn pools_that_overlap_are_found() {
    let text =
        pool("a", "203.0.113.0/28, '2001:db8::/64'") + &pool("b", "203.0.113.15-203.0.113.20");
    assert_eq!(
        problems(&text),
        [
            "a.yaml, document 2, AddressPool b, spec.addresses: warning: overlaps the pool a in 203.0.113.15: an address belongs to one pool, here to a"
        ]
    );
    assert!(problems(&(pool("a", "203.0.113.0/28") + &pool("b", "203.0.113.16/28"))).is_empty());
}

#[test]
fn a_peer_that_a_pool_names_has_to_be_there() {
    let pool = "---\n{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {name: a}, spec: {addresses: [203.0.113.0/28], announce: {bgp: {peers: [tor-a, tor-c]}}}}\n";
    let peer = |name: &str, address: &str| {
        format!(
            "---\n{{apiVersion: fairway.dev/v1alpha1, kind: BGPPeer, metadata: {{name: {name}}}, spec: {{myASN: 64512, peerASN: 64513, peerAddress: {address}}}}}\n"
        )
    };
    let problems = |text: &str| -> Vec<String> {
        let all = problems(text).into_iter();
        all.filter(|it| !it.contains("NotYetInForce")).collect()
    };
    let both = peer("tor-a", "192.0.2.1") + &peer("tor-b", "192.0.2.2");
    assert_eq!(
        problems(&(pool.to_owned() + &both)),
        [
            "a.yaml, document 1, AddressPool a, spec.announce.bgp.peers: warning: names the BGPPeer tor-c, which is not there; known are tor-a, tor-b"
        ]
    );
    let all = both.clone() + &peer("tor-c", "192.0.2.3");
    assert!(problems(&(pool.to_owned() + &all)).is_empty());
    // Peers may be kept elsewhere.
    let said = unserved(pool);
    assert!(
        said.iter()
            .any(|it| it.contains("there is no BGPPeer here")),
        "{said:?}"
    );
    assert_eq!(
        problems(&(both + &peer("tor-c", "192.0.2.1"))),
        [
            "a.yaml, document 3, BGPPeer tor-c, spec.peerAddress: warning: is 192.0.2.1, as in the BGPPeer tor-a: where both are for one gateway, a router takes one session of the two"
        ]
    );
    assert_eq!(
        problems(&peer("tor", "224.0.0.1")),
        [
            "a.yaml, document 1, BGPPeer tor, spec.peerAddress: has '224.0.0.1', which is no unicast address"
        ]
    );
}

#[test]
fn a_node_port_belongs_to_one_service() {
    let service = |name: &str, ports: &str| {
        self::service(name, "", &format!("{{type: NodePort, ports: [{ports}]}}"))
    };
    let both =
        "{name: a, port: 53, nodePort: 30053}, {name: b, port: 53, protocol: UDP, nodePort: 30053}";
    assert!(problems(&service("dns", both)).is_empty());
    assert_eq!(
        problems(
            &(service("a", "{port: 80, nodePort: 30080}")
                + &service("b", "{port: 80, protocol: UDP, nodePort: 30080}"))
        ),
        [
            "a.yaml, document 2, Service default/b, spec.ports: asks for the node port 30080, for which default/a asks as well: a number belongs to one Service"
        ]
    );
    assert_eq!(
        problems(&service("a", "{port: 80, nodePort: 8080}")),
        [
            "a.yaml, document 1, Service default/a, spec.ports: asks for the node port 8080, which is not in 30000-32767"
        ]
    );
    assert_eq!(
        problems(&service(
            "a",
            "{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}"
        )),
        [
            "a.yaml, document 1, Service default/a, spec.ports: asks for the node port 30080 twice for one protocol"
        ]
    );
    // A Service that has no node ports holds none.
    let plain = self::service("b", "", "{ports: [{port: 80, nodePort: 30080}]}");
    assert!(problems(&(service("a", "{port: 80, nodePort: 30080}") + &plain)).is_empty());
}

#[test]
fn a_request_that_no_pool_can_grant_is_found() {
    let asks = |what: &str| balancer("shop", what, 80);
    // Without a pool nothing can be told.
    assert!(
        problems(&asks(
            "fairway.dev/addresses: 192.0.2.1, fairway.dev/pool: edge"
        ))
        .is_empty()
    );
    let edge = pool("edge", "203.0.113.0/28");
    assert!(problems(&(edge.clone() + &asks("fairway.dev/addresses: 203.0.113.1"))).is_empty());
    assert_eq!(
        problems(&(edge.clone() + &asks("fairway.dev/addresses: 192.0.2.1"))),
        [
            "a.yaml, document 2, Service default/shop, metadata.annotations: asks for 192.0.2.1, which is in no pool; there are edge"
        ]
    );
    assert_eq!(
        problems(&(edge.clone() + &asks("fairway.dev/pool: egde"))),
        [
            "a.yaml, document 2, Service default/shop, metadata.annotations: asks for the pool egde, which is not there; known are edge"
        ]
    );
    let text = edge
        + &pool("other", "192.0.2.1")
        + &asks("fairway.dev/pool: edge, fairway.dev/addresses: 192.0.2.1");
    assert_eq!(
        problems(&text),
        [
            "a.yaml, document 3, Service default/shop, metadata.annotations: asks for 192.0.2.1, which is not in the pool edge that it asks for"
        ]
    );
}

#[test]
fn an_address_is_shared_by_consent_on_ports_of_ones_own() {
    let asks = "fairway.dev/addresses: 203.0.113.1";
    let keyed = format!("{asks}, fairway.dev/sharing-key: k");
    let clash = |a: String, b: String| {
        let found = problems(&(a + &b));
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next().unwrap_or_default()
    };
    assert!(clash(balancer("a", asks, 80), balancer("b", asks, 81)).contains("sharing-key"));
    assert!(clash(balancer("a", &keyed, 80), balancer("b", asks, 81)).contains("sharing-key"));
    assert!(
        clash(balancer("a", &keyed, 80), balancer("b", &keyed, 80)).contains("use port 80/TCP")
    );
    assert_eq!(
        clash(balancer("a", &keyed, 80), balancer("b", &keyed, 81)),
        ""
    );

    let elsewhere = |annotations: &str| {
        balancer("b", annotations, 81).replace("{name: b,", "{name: b, namespace: web,")
    };
    let consent = format!("{keyed}, fairway.dev/sharing-namespaces: web");
    let back = format!("{keyed}, fairway.dev/sharing-namespaces: default");
    assert!(clash(balancer("a", &consent, 80), elsewhere(&keyed)).contains("sharing-namespaces"));
    assert_eq!(clash(balancer("a", &consent, 80), elsewhere(&back)), "");
}

#[test]
fn places_in_lists_are_named() {
    let text = "kind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, ports: [{port: 80, nodePort: 80}]}}\n";
    assert_eq!(
        problems(text),
        [
            "a.yaml, document 1, Service default/a, items[0].spec.ports: asks for the node port 80, which is not in 30000-32767"
        ]
    );
}
