//! One probe, from the connection to the outcome.

use std::io;
use std::os::fd::OwnedFd;

use fairway_config::health_check::CheckKind;
use fairway_gateway_core::checks::rise_fall::CheckOutcome;
use fairway_gateway_core::checks::targets::CheckProbe;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::proxy_protocol::write_own;
use fairway_gateway_core::source_pool::SourcePool;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::failure::Failure;
use super::tls::AnyServer;
use super::{grpc, http, tcp};
use crate::connecting::{self, ConnectOptions};
use crate::hops::Hops;
use crate::source_address::SourceFallback;

/// Begins to connect, as for traffic: where the ports of one source address are used up, from another one.
///
/// # Errors
/// As socket(2), bind(2) and connect(2).
pub(super) fn begin(
    probe: &CheckProbe,
    fallback: &mut SourceFallback,
    pool: &SourcePool,
) -> io::Result<OwnedFd> {
    let options = ConnectOptions {
        hops: probe.is_forwarded.then(Hops::of_checks),
        speaks_first: false,
        transparent: false,
    };
    fallback.dial(probe.addr, pool, |source| {
        connecting::begin(probe.addr, source, options)
    })
}

/// Makes a probe by a connection that has begun.
pub(super) async fn make(
    probe: &CheckProbe,
    begun: io::Result<OwnedFd>,
    tls: &AnyServer,
) -> CheckOutcome {
    let timeout = probe.check.timeout;
    let deadline = Instant::now() + timeout;
    let stream = match timeout_at(deadline, connected(begun)).await {
        Err(_) => return CheckOutcome::Failed("connect timed out".into()),
        Ok(Err(error)) => {
            let why = DialFailure::of(&error);
            return if why.is_of_the_endpoint() {
                CheckOutcome::Failed(why.to_string().into())
            } else {
                CheckOutcome::NotMade(why.to_string().into())
            };
        }
        Ok(Ok(stream)) => stream,
    };
    match timeout_at(deadline, ask(probe, tls, stream)).await {
        Err(_) => CheckOutcome::Failed(format!("no answer within {timeout:?}").into()),
        Ok(Err(why)) => CheckOutcome::Failed(why),
        Ok(Ok(())) => CheckOutcome::Passed,
    }
}

async fn connected(begun: io::Result<OwnedFd>) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(begun?.into())?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn ask(probe: &CheckProbe, tls: &AnyServer, mut stream: TcpStream) -> Result<(), Failure> {
    if let Some(version) = probe.header {
        // A connection of this host's own, not of a client.
        let header = write_own(version);
        let sent = stream.write_all(&header).await;
        sent.map_err(|error| Failure::from(format!("the PROXY header is not taken: {error}")))?;
    }
    match &probe.check.kind {
        CheckKind::Tcp { send, expect } => tcp::ask(stream, send, expect).await,
        CheckKind::Http {
            is_tls,
            path,
            host,
            status,
        } => {
            let address = probe.addr.to_string();
            let name = host.as_deref().unwrap_or(&address);
            if *is_tls {
                let stream = tls.connect(name, probe.addr, stream).await?;
                http::ask(stream, name, path, *status).await
            } else {
                http::ask(stream, name, path, *status).await
            }
        }
        CheckKind::Grpc { service } => grpc::ask(stream, probe.addr, service).await,
    }
}
