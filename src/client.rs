//! Asks a running Fairway through its admin address.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// How long an answer may take altogether.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the 404 answer of a Fairway begins.
const NOT_SERVED: &str = "there is nothing here";

/// How large an answer may be, in bytes: enough for 100,000 Services.
const LARGEST: usize = 256 * 1024 * 1024;

/// The body of the answer to `GET path`.
pub(crate) fn get(admin: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    in_time(admin, Request::get(path), Bytes::new())
}

/// Sends JSON with `POST path`.
pub(crate) fn post(admin: SocketAddr, path: &str, body: &Value) -> anyhow::Result<()> {
    let request = Request::post(path).header(hyper::header::CONTENT_TYPE, "application/json");
    in_time(admin, request, body.to_string().into()).map(|_| ())
}

fn in_time(admin: SocketAddr, request: Builder, body: Bytes) -> anyhow::Result<Bytes> {
    let request = request.header(hyper::header::HOST, admin.to_string());
    let request = request.body(Full::new(body))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, ask(admin, request))
            .await
            .with_context(|| {
                format!(
                    "Fairway at {admin} did not answer within {} s",
                    PATIENCE.as_secs()
                )
            })?
    })
}

async fn ask(admin: SocketAddr, request: Request<Full<Bytes>>) -> anyhow::Result<Bytes> {
    let path = request.uri().to_string();
    let stream = tokio::net::TcpStream::connect(admin)
        .await
        .with_context(|| {
            format!(
                "no Fairway answers at {admin}; start one, or name its admin address with \
             --admin ADDR:PORT"
            )
        })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender
        .send_request(request)
        .await
        .with_context(|| format!("what answers at {admin} does not speak HTTP"))?;
    let status = response.status();
    let is_fairway = response.headers().get(hyper::header::SERVER);
    let is_fairway = is_fairway.is_some_and(|server| server.as_bytes() == b"fairway");
    let body = Limited::new(response.into_body(), LARGEST)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer of {admin} broke off: {error}"))?
        .to_bytes();
    connection.abort();
    if !is_fairway {
        bail!(
            "what answers at {admin} is no Fairway (it says {status} to {path}): name a Fairway's admin \
             address with --admin ADDR:PORT"
        );
    }
    let said = String::from_utf8_lossy(&body);
    match (status, said.trim()) {
        (StatusCode::OK, _) => Ok(body),
        (StatusCode::NOT_FOUND, said) if said.starts_with(NOT_SERVED) => bail!(
            "{admin} is a Fairway and does not serve {path}: is it its --metrics address, or another \
             version? Name the admin address with --admin ADDR:PORT"
        ),
        (_, "") => bail!("{admin} answers {status} to {path}"),
        (_, said) => bail!("{said}"),
    }
}

/// Percent-encodes (RFC 3986) all characters that a name can't have (RFC 1123).
pub(crate) fn encode(name: &str) -> String {
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment_of_a_path() {
        assert_eq!(encode("shop-1.x"), "shop-1.x");
        assert_eq!(encode("a/../b?c=d\r\n"), "a%2F..%2Fb%3Fc%3Dd%0D%0A");
    }
}
