//! Manifests that would be tedious to write out. Each ends with a line of its own, so that they can
//! be put one after another with [`all`].

use std::net::IpAddr;

/// Several documents as one file.
pub fn all(documents: &[&str]) -> String {
    documents.join("---\n")
}

/// A pool over `addresses` (CIDRs or ranges).
pub fn pool(name: &str, addresses: &[&str]) -> String {
    format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: {name}}}\n\
         spec: {{addresses: {addresses:?}}}\n"
    )
}

/// The pool that most tests use: 203.0.113.0–203.0.113.15.
pub fn edge_pool() -> String {
    pool("edge", &["203.0.113.0/28"])
}

/// A Service in the namespace `default` with a selector. `spec` is the rest of its spec in flow
/// style: `type: LoadBalancer, ports: [{port: 80}]`.
pub fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{selector: {{app: {name}}}, {spec}}}\n"
    )
}

/// A LoadBalancer Service with one TCP port that asks for `address`.
pub fn load_balancer(name: &str, address: IpAddr, port: u16, target: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, annotations: {{fairway.dev/addresses: \"{address}\"}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: {name}}}, \
         ports: [{{port: {port}, targetPort: {target}}}]}}\n"
    )
}

/// The EndpointSlice of a Service in `default` with one unnamed TCP port.
pub fn slice(service: &str, port: u16, endpoints: &[IpAddr]) -> String {
    slice_of(service, &[("", "TCP", port)], endpoints)
}

/// The EndpointSlice of a Service in `default`: ports as (name, protocol, number), endpoints all
/// ready and of one family.
pub fn slice_of(service: &str, ports: &[(&str, &str, u16)], endpoints: &[IpAddr]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|ip| format!("{{addresses: [\"{ip}\"]}}"))
        .collect();
    slice_with(service, ports, &endpoints)
}

/// The EndpointSlice of a Service in `default` whose endpoints are given in flow style:
/// `{addresses: ["192.0.2.11"], conditions: {ready: false}}`.
pub fn slice_with(
    service: &str,
    ports: &[(&str, &str, u16)],
    endpoints: &[impl AsRef<str>],
) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|(name, protocol, port)| {
            format!("{{name: \"{name}\", protocol: {protocol}, port: {port}}}")
        })
        .collect();
    let endpoints: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
    let first = endpoints.first().copied().unwrap_or_default();
    let address = first.split('"').nth(1).unwrap_or("0.0.0.0");
    let family = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => "IPv4",
        Ok(IpAddr::V6(_)) => "IPv6",
        Err(_) => "FQDN",
    };
    let suffix = family.to_lowercase();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-{suffix}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: {family}\nports: [{}]\nendpoints: [{}]\n",
        ports.join(", "),
        endpoints.join(", ")
    )
}
