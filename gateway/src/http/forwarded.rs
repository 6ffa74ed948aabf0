//! The headers that tell an endpoint the client's address, host and scheme.
//!
//! From everybody but the Service's trusted proxies they are replaced: a backend would trust an address that a client has
//! written itself. (ingress-nginx does the same by default.) Those of a trusted proxy are kept, and its own address is
//! added.
//!
//! A name that is nearly one of these never passes, whoever sent it. Servers that hand headers on as variables (CGI, WSGI,
//! PHP) make one name of `X_Forwarded_For` and `X-Forwarded-For`.

use std::net::IpAddr;

use http::header::{FORWARDED, HOST, HeaderName, HeaderValue};
use pingora_error::Error;
use pingora_http::RequestHeader;

const FOR: &str = "x-forwarded-for";
const HOST_ASKED: &str = "x-forwarded-host";
const PROTO: &str = "x-forwarded-proto";
/// Backends trust these, too, so those of a client are removed.
const FOREIGN: [&str; 2] = ["x-forwarded-port", "x-real-ip"];

/// Sets X-Forwarded-For, -Host and -Proto for a request of `peer`, and removes other headers of the kind. Where the peer
/// is a trusted proxy, what it says stays.
///
/// # Errors
/// A value is no valid header value.
pub(super) fn set(
    request: &mut RequestHeader,
    peer: IpAddr,
    is_trusted: bool,
) -> Result<(), Box<Error>> {
    remove_doubles(request);
    if is_trusted {
        return add(request, peer);
    }
    request.remove_header(&FORWARDED);
    for name in FOREIGN {
        request.remove_header(name);
    }
    match host(request) {
        Some(host) => request.insert_header(HOST_ASKED, host)?,
        None => {
            request.remove_header(HOST_ASKED);
        }
    }
    request.insert_header(FOR, peer.to_string())?;
    request.insert_header(PROTO, "http")
}

/// Adds what a trusted proxy has not said, and its own address.
fn add(request: &mut RequestHeader, proxy: IpAddr) -> Result<(), Box<Error>> {
    if !request.headers.contains_key(HOST_ASKED)
        && let Some(host) = host(request)
    {
        request.insert_header(HOST_ASKED, host)?;
    }
    if !request.headers.contains_key(PROTO) {
        request.insert_header(PROTO, "http")?;
    }
    // Who reads this one takes the last hop for its peer, so it is complete, or not there.
    if request.headers.contains_key(FORWARDED) {
        let hop = match proxy {
            IpAddr::V4(v4) => format!("for={v4};proto=http"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\";proto=http"),
        };
        let hops = appended(request, FORWARDED.as_str(), &hop);
        request.insert_header(FORWARDED, hops)?;
    }
    let hops = appended(request, FOR, &proxy.to_string());
    request.insert_header(FOR, hops)
}

/// The values of a list header in one, and one more.
fn appended(request: &RequestHeader, name: &str, last: &str) -> Vec<u8> {
    let values = request.headers.get_all(name).iter();
    let mut list: Vec<&[u8]> = values
        .map(HeaderValue::as_bytes)
        .filter(|value| !value.is_empty())
        .collect();
    list.push(last.as_bytes());
    list.join(b", ".as_slice())
}

fn host(request: &RequestHeader) -> Option<Vec<u8>> {
    match request.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes().to_vec()),
        None => request
            .headers
            .get(HOST)
            .map(|host| host.as_bytes().to_vec()),
    }
}

/// Removes the headers whose names a server may take for one of those that are set or removed here.
fn remove_doubles(request: &mut RequestHeader) {
    let doubles: Vec<HeaderName> = request
        .headers
        .keys()
        .filter(|name| is_double(name.as_str()))
        .cloned()
        .collect();
    for name in doubles {
        request.remove_header(&name);
    }
}

/// Whether a name differs from one that counts by what is no letter and no digit alone, as `_` in place of `-`. `name` is
/// in lower case, as all names of headers here.
fn is_double(name: &str) -> bool {
    let is_odd = |byte: u8| !byte.is_ascii_alphanumeric() && byte != b'-';
    if !name.bytes().any(is_odd) {
        return false;
    }
    let folded = name
        .bytes()
        .map(|byte| if is_odd(byte) { b'-' } else { byte });
    let mut counts = [FOR, HOST_ASKED, PROTO].into_iter().chain(FOREIGN);
    counts.any(|it| folded.clone().eq(it.bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What a request's headers become.
    fn passed(headers: &[(&'static str, &str)], is_trusted: bool, peer: &str) -> Vec<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        set(&mut request, peer.parse().unwrap(), is_trusted).unwrap();
        let passed = request.headers.iter();
        let mut passed: Vec<String> = passed
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        passed.sort();
        passed
    }

    const SAID: [(&str, &str); 7] = [
        ("Host", "shop.example"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "www.example"),
        ("X-Forwarded-Port", "443"),
        ("X-Real-IP", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1"),
    ];

    #[test]
    fn what_a_client_says_is_replaced() {
        assert_eq!(
            passed(&SAID, false, "198.51.100.7"),
            [
                "host: shop.example",
                "x-forwarded-for: 198.51.100.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_its_address_is_added() {
        assert_eq!(
            passed(&SAID, true, "198.51.100.7"),
            [
                "forwarded: for=192.0.2.1, for=198.51.100.7;proto=http",
                "host: shop.example",
                "x-forwarded-for: 192.0.2.1, 198.51.100.7",
                "x-forwarded-host: www.example",
                "x-forwarded-port: 443",
                "x-forwarded-proto: https",
                "x-real-ip: 192.0.2.1",
            ]
        );
        let lines = [
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-For", "192.0.2.2, 192.0.2.3"),
            ("Forwarded", "for=a"),
            ("Forwarded", "for=b"),
        ];
        assert_eq!(
            passed(&lines, true, "2001:db8::7"),
            [
                "forwarded: for=a, for=b, for=\"[2001:db8::7]\";proto=http",
                "x-forwarded-for: 192.0.2.1, 192.0.2.2, 192.0.2.3, 2001:db8::7",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn a_trusted_proxy_that_says_nothing_is_the_client() {
        assert_eq!(
            passed(&[("Host", "shop.example")], true, "198.51.100.7"),
            passed(&[("Host", "shop.example")], false, "198.51.100.7"),
        );
    }

    #[test]
    fn names_that_fold_into_a_trusted_one_never_pass() {
        let doubles = [
            ("X_Forwarded_For", "192.0.2.1"),
            ("X-Forwarded_For", "192.0.2.1"),
            ("X.Forwarded.For", "192.0.2.1"),
            ("x_forwarded_proto", "https"),
            ("X_Forwarded_Host", "www.example"),
            ("X_Forwarded-Port", "443"),
            ("X_REAL_IP", "192.0.2.1"),
        ];
        for is_trusted in [false, true] {
            assert_eq!(
                passed(&doubles, is_trusted, "198.51.100.7"),
                ["x-forwarded-for: 198.51.100.7", "x-forwarded-proto: http"]
            );
        }
        // Names that mean something else stay.
        let others = [("X_Other", "1"), ("X-Forwarded-Form_", "2"), ("X_For", "3")];
        let passed = passed(&others, false, "198.51.100.7");
        assert_eq!(passed.len(), 5, "{passed:?}");
    }
}
