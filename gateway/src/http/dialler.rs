//! Dials endpoints for pingora, in the same way as for connections of opaque bytes: where the ports of one source address
//! are used up, from another one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use fairway_config::net::EndpointAddr;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::source_pool::SourcePool;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_error::{Error, ErrorType, Result};
use tokio::net::TcpStream;

use crate::connecting::{self, ConnectOptions};
use crate::hops::Hops;
use crate::source_address::SourceFallback;

/// Where a worker's requests dial from.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pool: Arc<ArcSwap<SourcePool>>,
    /// Locked only while a new connection begins, and by one thread.
    fallback: Mutex<SourceFallback>,
}

impl Sources {
    /// The addresses of this pool.
    pub(super) fn new(pool: Arc<ArcSwap<SourcePool>>) -> Self {
        Self {
            pool,
            fallback: Mutex::default(),
        }
    }
}

/// Dials endpoints. Connections start with `hops`, where that is given.
#[derive(Debug)]
pub(super) struct EndpointDialler {
    pub(super) sources: Arc<Sources>,
    pub(super) hops: Option<Hops>,
}

impl EndpointDialler {
    fn begin(&self, endpoint: EndpointAddr) -> io::Result<OwnedFd> {
        let pool = self.sources.pool.load();
        let fallback = self.sources.fallback.lock();
        let mut fallback = fallback.unwrap_or_else(PoisonError::into_inner);
        let options = ConnectOptions {
            hops: self.hops,
            speaks_first: false,
            transparent: false,
        };
        fallback.dial(endpoint, &pool, |source| {
            connecting::begin(endpoint, source, options)
        })
    }

    /// Connects to an endpoint.
    ///
    /// # Errors
    /// As socket(2), bind(2) and connect(2).
    pub(super) async fn dial(&self, endpoint: EndpointAddr) -> io::Result<TcpStream> {
        connected(self.begin(endpoint)?).await
    }
}

/// Waits until a socket is connected.
///
/// # Errors
/// As connect(2).
pub(super) async fn connected(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// The address of an endpoint, as pingora has it.
///
/// # Errors
/// It is none of IP.
pub(super) fn endpoint_of(addr: &SocketAddr) -> Result<EndpointAddr> {
    let inet = addr.as_inet().copied().map(EndpointAddr);
    inet.ok_or_else(|| Error::explain(ErrorType::InternalError, "not an IP address"))
}

#[async_trait]
impl L4Connect for EndpointDialler {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let stream = self.dial(endpoint_of(addr)?).await.map_err(failed)?;
        Ok(stream.into())
    }
}

/// pingora's error for one of a dial.
pub(super) fn failed(error: io::Error) -> Box<Error> {
    let class = class(DialFailure::of(&error));
    Error::because(class, "an endpoint can't be reached", error)
}

/// pingora's word for a failure. The cause is the error itself.
fn class(failure: DialFailure) -> ErrorType {
    match failure {
        DialFailure::Refused => ErrorType::ConnectRefused,
        DialFailure::Timeout => ErrorType::ConnectTimedout,
        DialFailure::Unreachable => ErrorType::ConnectNoRoute,
        DialFailure::Silent | DialFailure::Reset | DialFailure::Exhausted | DialFailure::Other => {
            ErrorType::ConnectError
        }
    }
}
