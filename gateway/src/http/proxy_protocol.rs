//! Connections to endpoints that begin with a PROXY protocol header.
//!
//! The header is one client's, so such a connection serves that client's connection alone. It is closed after a request
//! of HTTP/1.1: kept for a client that may never ask again, it would take the place of connections that others use
//! again. Over h2 the streams of a client's connection share one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fairway_config::port_options::ProxyVersion;
use http::header::CONNECTION;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::Result;
use pingora_http::RequestHeader;
use tokio::io::AsyncWriteExt as _;

use super::connection::ClientConnection;
use super::dialler::{EndpointDialler, failed};

/// How long an h2 connection without a stream is kept.
const POOLED: Duration = Duration::from_secs(5);

/// Has the connection to this endpoint begin with the header of the client's connection, unless that one has a
/// connection to it already.
pub(super) fn tell(
    peer: &mut HttpPeer,
    version: ProxyVersion,
    connection: &ClientConnection,
    dialler: Arc<EndpointDialler>,
) {
    peer.group_key = connection.own_pool();
    peer.options.idle_timeout = Some(POOLED);
    peer.options.custom_l4 = Some(Arc::new(TellingConnect {
        header: connection.origin.header(version, connection.listen),
        dialler,
    }));
}

/// Has the endpoint close the connection after its answer.
///
/// # Errors
/// None in fact: the header's value is a valid one.
pub(super) fn close_after(request: &mut RequestHeader) -> Result<()> {
    request.insert_header(CONNECTION, "close")
}

/// Connects, and writes the header.
#[derive(Debug)]
struct TellingConnect {
    header: Vec<u8>,
    dialler: Arc<EndpointDialler>,
}

#[async_trait]
impl L4Connect for TellingConnect {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        // pingora ends this when its time to connect is over.
        let mut stream = self.dialler.connect_to(addr).await?;
        // A new connection takes a hundred bytes at once.
        match stream.write_all(&self.header).await {
            Ok(()) => Ok(stream.into()),
            Err(error) => Err(failed(error)),
        }
    }
}
