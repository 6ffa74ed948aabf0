//! The headers that tell an endpoint the client's address, host and scheme.
//!
//! They are replaced, not appended to. There is no setting yet for proxies whose headers are trusted, and a backend
//! would trust an address that a client has written itself. (ingress-nginx does the same by default.)

use std::net::IpAddr;

use http::header::{FORWARDED, HOST};
use pingora_error::Error;
use pingora_http::RequestHeader;

const FOR: &str = "x-forwarded-for";
const HOST_ASKED: &str = "x-forwarded-host";
const PROTO: &str = "x-forwarded-proto";
/// Backends trust these, too, so those of a client are removed.
const FOREIGN: [&str; 2] = ["x-forwarded-port", "x-real-ip"];

/// Sets X-Forwarded-For, -Host and -Proto for a request of `client`, and removes other headers of the kind.
///
/// # Errors
/// A value is no valid header value.
pub(super) fn set(request: &mut RequestHeader, client: IpAddr) -> Result<(), Box<Error>> {
    request.remove_header(&FORWARDED);
    for name in FOREIGN {
        request.remove_header(name);
    }
    let host = match request.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes().to_vec()),
        None => request
            .headers
            .get(HOST)
            .map(|host| host.as_bytes().to_vec()),
    };
    match host {
        Some(host) => request.insert_header(HOST_ASKED, host)?,
        None => {
            request.remove_header(HOST_ASKED);
        }
    }
    request.insert_header(FOR, client.to_string())?;
    request.insert_header(PROTO, "http")
}
