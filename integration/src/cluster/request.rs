//! Requests to the API server, from this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::addresses::DOOR_PORT;
use crate::lab::Host;

/// How long an answer is waited for. The API server gives up on etcd before that.
const PATIENCE: Duration = Duration::from_secs(70);

/// One request, as the administrator.
pub(super) struct Request<'a> {
    /// `GET`, …
    pub(super) method: &'a str,
    /// From `/api` on, with the query.
    pub(super) path: &'a str,
    /// What is wanted, where it is more than JSON.
    pub(super) accept: &'a str,
    /// What is sent: its media type and itself.
    pub(super) body: Option<(&'a str, &'a Value)>,
}

/// Sends it from the control plane's host. The answer's status, and its body, `Null` where it isn't
/// JSON.
pub(super) fn send(host: &Host, request: &Request<'_>) -> Result<(u16, Value)> {
    send_all(host, std::slice::from_ref(request))?
        .pop()
        .context("no answer came")
}

/// Like [`send`] for many, one after the other over one connection. The first that gets no answer
/// ends it; an answer that is a refusal does not.
pub(super) fn send_all(host: &Host, requests: &[Request<'_>]) -> Result<Vec<(u16, Value)>> {
    let Some(first) = requests.first() else {
        return Ok(Vec::new());
    };
    host.run(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(converse(requests))
    })
    .with_context(|| format!("{} {}", first.method, first.path))
}

/// Like [`send`] for `GET`, for what must be there.
pub(super) fn get(host: &Host, path: &str, accept: &str) -> Result<Value> {
    let request = Request {
        method: "GET",
        path,
        accept,
        body: None,
    };
    match send(host, &request)? {
        (200, body) => Ok(body),
        (status, body) => bail!("GET {path}: {status} {}", message(&body)),
    }
}

/// What the API server says of a failure.
pub(super) fn message(body: &Value) -> &str {
    body["message"].as_str().unwrap_or("without a message")
}

async fn converse(requests: &[Request<'_>]) -> Result<Vec<(u16, Value)>> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, DOOR_PORT))).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for request in requests {
        answers.push(
            tokio::time::timeout(PATIENCE, exchange(&mut sender, request))
                .await
                .with_context(|| format!("no answer to {} {}", request.method, request.path))??,
        );
    }
    connection.abort();
    Ok(answers)
}

async fn exchange(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: &Request<'_>,
) -> Result<(u16, Value)> {
    let mut head = hyper::Request::builder()
        .method(request.method)
        .uri(request.path)
        .header("host", "localhost")
        .header("accept", request.accept);
    let mut bytes = Bytes::new();
    if let Some((media_type, body)) = request.body {
        head = head.header("content-type", media_type);
        bytes = serde_json::to_vec(body)?.into();
    }
    sender.ready().await?;
    let answer = sender.send_request(head.body(Full::new(bytes))?).await?;
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok((
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    ))
}
