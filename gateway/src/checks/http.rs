//! A check by HTTP/1.1: the status code of an answer counts, and nothing else of it is read.

use std::fmt::Display;

use bytes::Bytes;
use fairway_config::health_check::StatusCodes;
use http::Request;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::failure::Failure;

/// The name by which servers know a check.
pub(super) const AGENT: &str = concat!("fairway-health-check/", env!("CARGO_PKG_VERSION"));

/// The longest head of an answer.
const MOST: usize = 16 * 1024;

pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
    status: StatusCodes,
) -> Result<(), Failure> {
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(failed)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MOST);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let response = sender.send_request(request);
    tokio::pin!(response, connection);
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        // It has ended; what it got of an answer is there.
        _ = &mut connection => response.await,
    };
    let got = response.map_err(failed)?.status().as_u16();
    if status.contains(got) {
        Ok(())
    } else {
        Err(format!("HTTP {got}").into())
    }
}

fn failed(error: impl Display) -> Failure {
    format!("no answer by HTTP: {error}").into()
}
