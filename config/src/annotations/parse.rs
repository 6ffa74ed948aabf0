//! The values of annotations: lists, addresses, CIDRs, names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::field::Shown;

/// The entries of a comma list, trimmed; empty ones are passed over.
pub fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// A unicast address, or why it is none.
///
/// # Errors
/// With a message that reads on after the field's name: «has 'x', which is no IP address».
pub fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| format!("has '{}', which is no IP address", Shown(text)))?;
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!(
            "has '{address}', an IPv4 address in the form of IPv6: write {v4}"
        ));
    }
    if address.is_unspecified() {
        return Err(format!(
            "has '{address}', which stands for no address; an address from a DHCP server is not among what Fairway does"
        ));
    }
    if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(format!("has '{address}', which is no unicast address"));
    }
    Ok(address)
}

/// A CIDR; host bits are cut off as in Kubernetes, a bare address stands for itself alone. IPv4
/// ranges in the form of IPv6 (`::ffff:10.0.0.0/104`) are IPv4 ranges: clients are compared in
/// that form.
///
/// # Errors
/// With a message that reads on after the field's name.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            format!(
                "has '{}', which is no CIDR like 203.0.113.0/24",
                Shown(text)
            )
        })?;
    let IpNet::V6(v6) = net else {
        return Ok(net.trunc());
    };
    let Some(v4) = v6.addr().to_ipv4_mapped() else {
        return Ok(net.trunc());
    };
    v6.prefix_len()
        .checked_sub(96)
        .and_then(|length| Ipv4Net::new(v4, length).ok())
        .map(|net| IpNet::V4(net.trunc()))
        .ok_or_else(|| {
            format!(
                "has '{}', an IPv4 address in the form of IPv6 with a length that is none of IPv4: write {v4} with the length of an IPv4 range",
                Shown(text)
            )
        })
}

/// Ranges that no client is in: the unspecified addresses, which are never the source of a
/// connection. They stand for "nobody" where an empty list would let everybody in.
pub fn nobody() -> Vec<IpNet> {
    vec![
        IpNet::V4(Ipv4Net::from(Ipv4Addr::UNSPECIFIED)),
        IpNet::V6(Ipv6Net::from(Ipv6Addr::UNSPECIFIED)),
    ]
}

/// A time: a whole number and its unit, `ms`, `s`, `m` or `h`. Without a unit it is none: HAProxy would take milliseconds,
/// others seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|it: char| !it.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let number = u64::from(number.parse::<u32>().ok()?);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

/// Whether it is a DNS-1123 label: at most 63 lower-case letters, digits and dashes, none of them
/// a dash at the ends.
pub fn is_dns_label(text: &str) -> bool {
    let inside = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=63).contains(&text.len())
        && text.as_bytes().iter().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether it is a DNS-1123 subdomain: labels between dots, at most 253 letters. Never `..`, never
/// with a slash: it can be a part of a path.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Whether it is a name that can be looked up: as a subdomain, but for upper case, underscores and
/// a full stop at the end, which DNS itself allows.
pub fn is_hostname(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let inside = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=253).contains(&text.len())
        && text.parse::<IpAddr>().is_err()
        && text
            .split('.')
            .all(|label| (1..=63).contains(&label.len()) && label.as_bytes().iter().all(inside))
}
