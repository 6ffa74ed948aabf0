use super::*;

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
