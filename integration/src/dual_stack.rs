//! Services with an address of each family, on the usual three hosts.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Result, anyhow};

use crate::fairway::Fairway;
use crate::manifest::pool;

/// Ports of [`service`]: one that is balanced by connection, and one by request.
pub const PLAIN: &str = "{port: 80, targetPort: 8080}";
/// See [`PLAIN`].
pub const HTTP: &str = "{port: 80, targetPort: 8080, appProtocol: http}";

/// The client's IPv6 address number `n` (0…29), all of them in one /64.
pub fn client6(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x11 + n).into()
}

/// A pool of both families.
pub fn pools() -> String {
    pool("edge", &["203.0.113.0/28", "2001:db8:f::/124"])
}

/// A Service with both families. Annotations are written without `fairway.dev/`, ports as a list.
pub fn service(name: &str, annotations: &[(&str, &str)], ports: &str) -> String {
    let annotations = annotations
        .iter()
        .map(|(name, value)| format!("fairway.dev/{name}: \"{value}\""));
    let annotations: Vec<String> = annotations.collect();
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, annotations: {{{}}}}}\n\
         spec: {{selector: {{app: {name}}}, type: LoadBalancer, ipFamilyPolicy: PreferDualStack, ports: [{ports}]}}\n",
        annotations.join(", ")
    )
}

/// The addresses of a Service, IPv4 first.
pub fn addresses(fairway: &Fairway, name: &str) -> Result<[IpAddr; 2]> {
    let found = fairway.external_ips(&format!("default/{name}"))?;
    let mut found = found
        .iter()
        .map(|ip| ip.parse::<IpAddr>())
        .collect::<Result<Vec<_>, _>>()?;
    found.sort();
    let found: Result<[IpAddr; 2], _> = found.try_into();
    found.map_err(|found| anyhow!("{name}: {found:?}"))
}
