//! What the tests of limits are made on, and who asks there.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use fairway_integration::clients;
use fairway_integration::dual_stack::client6;
use fairway_integration::fairway::Fairway;
use fairway_integration::site::Site;

/// An IPv6 address of the client in a /64 of its own.
pub(crate) const ELSEWHERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xcc, 0, 0, 0, 0, 7));

pub(crate) fn site() -> Result<Site> {
    let site = Site::new()?;
    site.client.addresses("up", &[(ELSEWHERE, 64)])?;
    site.edge
        .ip(&format!("route add 2001:db8:cc::/64 via {}", client6(0)))?;
    Ok(site)
}

/// A connection that has had an answer, and is kept.
pub(crate) fn hold(from: IpAddr, to: SocketAddr, is_http: bool) -> Result<TcpStream> {
    let mut stream = clients::connect_tcp_from(from, to)?;
    if is_http {
        let answer = clients::http_get_on(&mut stream, "web", "/")?;
        ensure!(answer.status == 200, "{answer:?}");
    } else {
        clients::ask(&mut stream, "who")?;
    }
    Ok(stream)
}

pub(crate) fn rejected(fairway: &Fairway, service: &str, reason: &str) -> f64 {
    let service = format!("service=\"{service}\"");
    let reason = format!("reason=\"{reason}\"");
    let found = fairway.metric("fairway_rejected_total", &[&service, &reason]);
    found.unwrap_or(0.0)
}
