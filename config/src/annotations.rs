//! Every annotation and label name that Fairway understands, in one place.
//!
//! [`FAIRWAY`] lists those of Fairway's own with where they belong and whether this version acts on
//! them; [`dialects`] are those of MetalLB, Cilium and kube-vip. [`asks`] turns the annotations of
//! a Service into what it asks for.
//!
//! Which dialect wins, from the first to the last: `fairway.dev/`, `metallb.io/`,
//! `metallb.universe.tf/`, `lbipam.cilium.io/`, `io.cilium/`, `kube-vip.io/`,
//! `spec.loadBalancerIP`. Where two of them ask for different things it is said so in a notice.

pub mod asks;
pub mod options;
pub mod parse;
pub mod scoped;
#[cfg(test)]
mod tests;

/// What Fairway's own annotations begin with.
pub const PREFIX: &str = "fairway.dev/";

/// The `spec.loadBalancerClass` of Services that are for Fairway, unless it is told another.
pub const DEFAULT_CLASS: &str = "fairway.dev/gateway";

/// On a Service: the controller that has taken it, `NAMESPACE/CLASS`. Fairway writes it together with the
/// finalizer, and takes it away with it. Every other controller leaves the Service alone.
pub const CONTROLLER: &str = "fairway.dev/controller";

/// Requested addresses, a comma list, one of a family.
pub const ADDRESSES: &str = "fairway.dev/addresses";
/// Requested pool.
pub const POOL: &str = "fairway.dev/pool";
/// Services with the same key may share an address.
pub const SHARING_KEY: &str = "fairway.dev/sharing-key";
/// Other namespaces that may share the address, a comma list or `*`.
pub const SHARING_NAMESPACES: &str = "fairway.dev/sharing-namespaces";
/// `endpoints` or `node-ports`.
pub const FORWARD_TO: &str = "fairway.dev/forward-to";
/// How an endpoint is chosen, with port scopes: `443=least-connections;slow-start=30s,*=maglev`.
pub const BALANCE: &str = "fairway.dev/balance";
/// On an EndpointSlice: the weight of its endpoints, 0 takes them out.
pub const WEIGHT: &str = "fairway.dev/weight";
/// PROXY protocol towards the endpoints: `v1` or `v2`, with port scopes.
pub const PROXY_PROTOCOL: &str = "fairway.dev/proxy-protocol";
/// CIDRs from which a PROXY protocol header is read, and required: `192.0.2.0/24, 2001:db8::/64`, or by port
/// `443=192.0.2.0/24;2001:db8::/64,*=…`.
pub const ACCEPT_PROXY_PROTOCOL: &str = "fairway.dev/accept-proxy-protocol";
/// CIDRs of HTTP proxies whose headers about the client are kept; written like [`ACCEPT_PROXY_PROTOCOL`].
pub const TRUSTED_PROXIES: &str = "fairway.dev/trusted-proxies";
/// `transparent`, with port scopes: endpoints are dialled from the client's own address.
pub const CLIENT_ADDRESS: &str = "fairway.dev/client-address";
/// How endpoints are checked: [`crate::health_check`].
pub const HEALTH_CHECK: &str = "fairway.dev/health-check";
/// The Secret with the certificate that the gateway shows.
pub const TLS_SECRET: &str = "fairway.dev/tls-secret";
/// The Secret with the authorities that client certificates must come from.
pub const CLIENT_CA_SECRET: &str = "fairway.dev/client-ca-secret";
/// A DNS name that stands in for endpoints.
pub const EXTERNAL_NAME: &str = "fairway.dev/external-name";
/// CIDRs whose traffic is refused: `192.0.2.0/24, 2001:db8::/64`, or by port `443=192.0.2.0/24;2001:db8::/64,*=…`.
pub const DENY_SOURCE_RANGES: &str = "fairway.dev/deny-source-ranges";
/// Most connections of one client at a time.
pub const CONNECTIONS_PER_CLIENT: &str = "fairway.dev/connections-per-client";
/// Most new connections of one client in a second: `10`, or `10;burst=50` of one that was quiet.
pub const NEW_CONNECTIONS_PER_SECOND: &str = "fairway.dev/new-connections-per-second";
/// Most UDP flows of one client at a time.
pub const UDP_FLOWS_PER_CLIENT: &str = "fairway.dev/udp-flows-per-client";
/// Most UDP flows of a port, on each gateway.
pub const UDP_FLOWS: &str = "fairway.dev/udp-flows";
/// Affinity by a cookie.
pub const COOKIE_AFFINITY: &str = "fairway.dev/cookie-affinity";
/// Plain HTTP is answered with a redirect.
pub const REDIRECT_TO_HTTPS: &str = "fairway.dev/redirect-to-https";
/// How long a request's header may take.
pub const TIMEOUT_HEADER: &str = "fairway.dev/timeout-header";
/// How long a request's body may take.
pub const TIMEOUT_BODY: &str = "fairway.dev/timeout-body";
/// How long a connection or a UDP flow may be without a byte either way.
pub const TIMEOUT_IDLE: &str = "fairway.dev/timeout-idle";
/// How long an endpoint may take to answer.
pub const TIMEOUT_UPSTREAM: &str = "fairway.dev/timeout-upstream";

/// Where an annotation of Fairway's own belongs, and whether it does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationSupport {
    /// On a Service; it is acted on.
    OnService,
    /// On an EndpointSlice (or a v1 Endpoints); it is acted on.
    OnEndpointSlice,
    /// On a Service; this version does not act on it yet.
    NotYetInForce,
}

/// Fairway's own annotations.
pub const FAIRWAY: &[(&str, AnnotationSupport)] = &[
    (CONTROLLER, AnnotationSupport::OnService),
    (ADDRESSES, AnnotationSupport::OnService),
    (POOL, AnnotationSupport::OnService),
    (SHARING_KEY, AnnotationSupport::OnService),
    (SHARING_NAMESPACES, AnnotationSupport::OnService),
    (FORWARD_TO, AnnotationSupport::OnService),
    (BALANCE, AnnotationSupport::OnService),
    (WEIGHT, AnnotationSupport::OnEndpointSlice),
    (PROXY_PROTOCOL, AnnotationSupport::OnService),
    (ACCEPT_PROXY_PROTOCOL, AnnotationSupport::OnService),
    (TRUSTED_PROXIES, AnnotationSupport::OnService),
    (CLIENT_ADDRESS, AnnotationSupport::OnService),
    (HEALTH_CHECK, AnnotationSupport::OnService),
    (TLS_SECRET, AnnotationSupport::NotYetInForce),
    (CLIENT_CA_SECRET, AnnotationSupport::NotYetInForce),
    (EXTERNAL_NAME, AnnotationSupport::OnService),
    (DENY_SOURCE_RANGES, AnnotationSupport::OnService),
    (CONNECTIONS_PER_CLIENT, AnnotationSupport::OnService),
    (NEW_CONNECTIONS_PER_SECOND, AnnotationSupport::OnService),
    (UDP_FLOWS_PER_CLIENT, AnnotationSupport::OnService),
    (UDP_FLOWS, AnnotationSupport::OnService),
    (COOKIE_AFFINITY, AnnotationSupport::NotYetInForce),
    (REDIRECT_TO_HTTPS, AnnotationSupport::NotYetInForce),
    (TIMEOUT_HEADER, AnnotationSupport::NotYetInForce),
    (TIMEOUT_BODY, AnnotationSupport::NotYetInForce),
    (TIMEOUT_IDLE, AnnotationSupport::OnService),
    (TIMEOUT_UPSTREAM, AnnotationSupport::NotYetInForce),
];

/// The names of those whom users come from.
pub mod dialects {
    /// MetalLB: requested addresses.
    pub const METALLB_ADDRESSES: &str = "metallb.io/loadBalancerIPs";
    /// MetalLB: requested addresses, the older name.
    pub const METALLB_OLD_ADDRESSES: &str = "metallb.universe.tf/loadBalancerIPs";
    /// MetalLB: requested pool.
    pub const METALLB_POOL: &str = "metallb.io/address-pool";
    /// MetalLB: requested pool, the older name.
    pub const METALLB_OLD_POOL: &str = "metallb.universe.tf/address-pool";
    /// MetalLB: sharing key.
    pub const METALLB_SHARING_KEY: &str = "metallb.io/allow-shared-ip";
    /// MetalLB: sharing key, the older name.
    pub const METALLB_OLD_SHARING_KEY: &str = "metallb.universe.tf/allow-shared-ip";
    /// Cilium: requested addresses.
    pub const CILIUM_ADDRESSES: &str = "lbipam.cilium.io/ips";
    /// Cilium: requested addresses, the older name.
    pub const CILIUM_OLD_ADDRESSES: &str = "io.cilium/lb-ipam-ips";
    /// Cilium: sharing key.
    pub const CILIUM_SHARING_KEY: &str = "lbipam.cilium.io/sharing-key";
    /// Cilium: sharing key, the older name.
    pub const CILIUM_OLD_SHARING_KEY: &str = "io.cilium/lb-ipam-sharing-key";
    /// Cilium: other namespaces that may share.
    pub const CILIUM_SHARING_NAMESPACES: &str = "lbipam.cilium.io/sharing-cross-namespace";
    /// Cilium: other namespaces that may share, the older name.
    pub const CILIUM_OLD_SHARING_NAMESPACES: &str = "io.cilium/lb-ipam-sharing-cross-namespace";
    /// Cilium: Services with different pods may share. In Fairway they always may: endpoints are
    /// looked up by port, not by address.
    pub const CILIUM_SHARING_PODS: &str = "lbipam.cilium.io/sharing-permit-different-pods";
    /// Cilium: what `loadBalancerSourceRanges` do, `allow` or `deny`.
    pub const CILIUM_SOURCE_RANGES_POLICY: &str = "service.cilium.io/src-ranges-policy";
    /// kube-vip: requested addresses.
    pub const KUBE_VIP_ADDRESSES: &str = "kube-vip.io/loadbalancerIPs";
    /// kube-vip: this Service is not to be touched.
    pub const KUBE_VIP_IGNORE: &str = "kube-vip.io/ignore";
    /// kube-vip: a hostname for the status.
    pub const KUBE_VIP_HOSTNAME: &str = "kube-vip.io/loadbalancerHostname";
    /// Kubernetes, before the field was there: source ranges. The field wins where it is not empty.
    pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

    /// All of them.
    pub const ALL: &[&str] = &[
        METALLB_ADDRESSES,
        METALLB_OLD_ADDRESSES,
        METALLB_POOL,
        METALLB_OLD_POOL,
        METALLB_SHARING_KEY,
        METALLB_OLD_SHARING_KEY,
        CILIUM_ADDRESSES,
        CILIUM_OLD_ADDRESSES,
        CILIUM_SHARING_KEY,
        CILIUM_OLD_SHARING_KEY,
        CILIUM_SHARING_NAMESPACES,
        CILIUM_OLD_SHARING_NAMESPACES,
        CILIUM_SHARING_PODS,
        CILIUM_SOURCE_RANGES_POLICY,
        KUBE_VIP_ADDRESSES,
        KUBE_VIP_IGNORE,
        KUBE_VIP_HOSTNAME,
        SOURCE_RANGES,
    ];
}

/// Names of labels, taints and annotations of Nodes and EndpointSlices, all but one Kubernetes'.
pub mod labels {
    /// On an EndpointSlice: its Service.
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    /// On a Node: its zone.
    pub const ZONE: &str = "topology.kubernetes.io/zone";
    /// On a Node: leave it out of load balancing.
    pub const EXCLUDE_NODE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
    /// On a Node, an annotation of Fairway's own: the gateway there hands its addresses over. `fairway drain` sets it.
    pub const DRAIN_NODE: &str = "fairway.dev/drain";
    /// A taint of a Node that is about to go.
    pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
}
