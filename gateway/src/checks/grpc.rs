//! A check by gRPC, in clear text: `grpc.health.v1.Health/Check`, one call on a connection of its own.

use std::fmt::Display;

use bytes::Bytes;
use fairway_config::net::EndpointAddr;
use fairway_gateway_core::checks::grpc::{LONGEST_ANSWER, PATH, check_answer, request};
use h2::client::{Builder, SendRequest};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Version};
use tokio::net::TcpStream;

use super::failure::Failure;
use super::http::AGENT;

/// The longest list of headers.
const MOST_HEADERS: u32 = 16 * 1024;

pub(super) async fn ask(
    stream: TcpStream,
    addr: EndpointAddr,
    service: &str,
) -> Result<(), Failure> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .max_header_list_size(MOST_HEADERS);
    let (sender, connection) = builder
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(failed)?;
    let call = call(sender, addr, service);
    tokio::pin!(call, connection);
    tokio::select! {
        biased;
        outcome = &mut call => outcome,
        // It has ended; what it got of an answer is there.
        _ = &mut connection => call.await,
    }
}

async fn call(
    sender: SendRequest<Bytes>,
    addr: EndpointAddr,
    service: &str,
) -> Result<(), Failure> {
    let mut sender = sender.ready().await.map_err(failed)?;
    let head = Request::post(format!("http://{addr}{PATH}"))
        .version(Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(())
        .map_err(failed)?;
    let (response, mut body) = sender.send_request(head, false).map_err(failed)?;
    let message = Bytes::from(request(service));
    body.send_data(message, true).map_err(failed)?;
    let response = response.await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(format!("HTTP {}", response.status().as_u16()).into());
    }
    // An answer that is an error has its status here, and no trailers.
    status(response.headers())?;
    let mut body = response.into_body();
    let mut answer = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(failed)?;
        // This fails only where the stream has ended.
        let _ = body.flow_control().release_capacity(part.len());
        if answer.len() + part.len() > LONGEST_ANSWER {
            return Err("an answer that is not of grpc.health.v1".into());
        }
        answer.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.map_err(failed)?;
    status(&trailers.unwrap_or_default())?;
    check_answer(&answer).map_err(Failure::from)
}

/// An error where the call has failed.
fn status(headers: &HeaderMap) -> Result<(), Failure> {
    let status = headers.get("grpc-status");
    let code = status.and_then(|it| it.to_str().ok()?.parse::<u16>().ok());
    match (status, code) {
        (None, _) | (_, Some(0)) => Ok(()),
        // The two of this call: the server knows no such service, or no health checks.
        (_, Some(5)) => Err("gRPC status 5: the service is not known there".into()),
        (_, Some(12)) => Err("gRPC status 12: grpc.health.v1 is not served".into()),
        (_, Some(code)) => Err(format!("gRPC status {code}").into()),
        (Some(_), None) => Err("a gRPC status that is no number".into()),
    }
}

fn failed(error: impl Display) -> Failure {
    format!("no answer by gRPC: {error}").into()
}
