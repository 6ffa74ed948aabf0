//! Connections to endpoints that are one client's alone: they begin with a PROXY protocol header, or are made from the
//! client's address.
//!
//! Such a connection serves that client's connection alone. It is closed after a request of HTTP/1.1: kept for a client
//! that may never ask again, it would take the place of connections that others use again. Over h2 the streams of a
//! client's connection share one.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairway_config::net::EndpointAddr;
use fairway_config::port_options::ProxyVersion;
use fairway_gateway_core::attempts::Patience;
use fairway_gateway_core::route::Endpoint;
use http::header::CONNECTION;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_http::RequestHeader;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

use super::connection::ClientConnection;
use super::dialler::{EndpointDialler, connected, endpoint_of, failed};
use super::limits::UNSHARED;
use crate::connecting::ConnectOptions;
use crate::transparent::handshake::{RelayHandshake, TransparentFailure};
use crate::transparent::{AfterFailure, Doubt, Transparency, TransparentDial, TransparentUse};

/// What makes a connection one client's.
pub(super) struct UnsharedConnection {
    pub(super) connection: Arc<ClientConnection>,
    pub(super) dialler: Arc<EndpointDialler>,
    /// It begins with a header of this version.
    pub(super) version: Option<ProxyVersion>,
    /// It is made from the client's address.
    pub(super) transparent: Option<FromClient>,
}

/// How an endpoint is dialled from the client's address.
pub(super) struct FromClient {
    pub(super) endpoint: Endpoint,
    pub(super) transparency: Arc<Transparency>,
    /// How long the endpoint may take.
    pub(super) patience: Patience,
    pub(super) connect_timeout: Duration,
    /// Held while the request is carried.
    pub(super) _in_use: TransparentUse,
}

impl UnsharedConnection {
    /// Has the connection to this endpoint be the client's, unless that one has a connection to it already.
    pub(super) fn make(self, peer: &mut HttpPeer) {
        let options = &mut peer.options;
        peer.group_key = self.connection.own_pool();
        options.idle_timeout = Some(UNSHARED);
        if let (Some(_), Some(time)) = (&self.transparent, options.total_connection_timeout) {
            // The dial from the gateway's address comes after that.
            options.total_connection_timeout = Some(time + Patience::WithOthers.duration(time));
        }
        options.custom_l4 = Some(Arc::new(self));
    }
}

/// Has the endpoint close the connection after its answer.
///
/// # Errors
/// None in fact: the header's value is a valid one.
pub(super) fn close_after(request: &mut RequestHeader) -> Result<()> {
    request.insert_header(CONNECTION, "close")
}

impl fmt::Debug for UnsharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnsharedConnection").finish_non_exhaustive()
    }
}

#[async_trait]
impl L4Connect for UnsharedConnection {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        // pingora ends this when its time to connect is over.
        let stream = match &self.transparent {
            Some(from) => self.dial_from(from).await,
            None => self.dialler.dial(endpoint_of(addr)?).await,
        };
        let mut stream = stream.map_err(failed)?;
        if let Some(version) = self.version {
            let (origin, listen) = (&self.connection.origin, self.connection.listen);
            // A new connection takes a hundred bytes at once.
            let written = stream.write_all(&origin.header(version, listen)).await;
            written.map_err(failed)?;
        }
        Ok(stream.into())
    }
}

impl UnsharedConnection {
    /// Dials from the client's address, and where that fails from the gateway's.
    async fn dial_from(&self, from: &FromClient) -> io::Result<TcpStream> {
        let (transparency, endpoint) = (&from.transparency, &from.endpoint);
        let client = self.connection.client_ip();
        let (loss, doubt): (_, Option<(TransparentDial, Doubt)>) =
            match transparency.plan(endpoint, client, self.connection.now()) {
                Err(loss) => (loss, None),
                Ok(dial) => {
                    let time = from.patience.from_client(dial.is_proven);
                    let time = time.duration(from.connect_timeout);
                    let mut handshake = dial.relay.map(|_| RelayHandshake::default());
                    let trying = self.try_from_client(from, &dial, &mut handshake);
                    let tried = tokio::time::timeout(time, trying).await;
                    let error = match tried {
                        Ok(Ok(stream)) => {
                            transparency.worked(&dial, self.connection.now());
                            return Ok(stream);
                        }
                        Ok(Err(error)) => error,
                        Err(_) => io::ErrorKind::TimedOut.into(),
                    };
                    let failure = match &handshake {
                        Some(handshake) => handshake.failure(&error),
                        None => TransparentFailure::Endpoint(&error),
                    };
                    match transparency.failed(&dial, &failure, self.connection.now()) {
                        AfterFailure::OfEndpoint => return Err(error),
                        AfterFailure::Plain { loss, doubt } => {
                            (loss, doubt.map(|doubt| (dial, doubt)))
                        }
                    }
                }
            };
        let stream = self.dialler.dial(endpoint.addr).await?;
        self.connection.port.counters.lose_address(loss);
        if let Some((dial, doubt)) = doubt {
            transparency.plain_worked(&dial, doubt, self.connection.now());
        }
        Ok(stream)
    }

    async fn try_from_client(
        &self,
        from: &FromClient,
        dial: &TransparentDial,
        handshake: &mut Option<RelayHandshake>,
    ) -> io::Result<TcpStream> {
        let endpoint = from.endpoint.addr;
        let options = ConnectOptions {
            hops: self.dialler.hops,
            ..ConnectOptions::default()
        };
        let (Some(relay), Some(handshake)) = (dial.relay, handshake) else {
            return connected(dial.begin(endpoint, options)?).await;
        };
        let stream = self.dialler.dial(EndpointAddr(relay)).await?;
        let client = self.connection.origin.client.0;
        let mut step = || {
            let said = handshake.go_on(&stream, |greeting| {
                from.transparency
                    .request(dial, greeting, client, endpoint.0)
            });
            // What has come of it is looked at again with more.
            said.and_then(|said| said.ok_or_else(|| io::ErrorKind::WouldBlock.into()))
        };
        stream.async_io(Interest::READABLE, &mut step).await?;
        Ok(stream)
    }
}
