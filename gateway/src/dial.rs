//! From a client to a connected endpoint: choice, connect, and retry over the remaining endpoints.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::EndpointAddr;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::counters::{ConnectError, Rejection};
use crate::hops::Hops;
use crate::port::{EndpointState, Port};
use crate::shared::Shared;
use crate::socket;

/// How many endpoints are tried for one connection.
const TRIES: usize = 4;

/// How long all tries take at most.
const BOUND: Duration = Duration::from_secs(10);

/// How long an endpoint has for its answer while there are others to try: more than the one second
/// after which TCP repeats a SYN that was lost (RFC 6298).
const IMPATIENT: Duration = Duration::from_millis(1500);

/// A connection to an endpoint, counted as one of its connections.
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    pub(crate) state: Active,
}

/// Counts as a connection of an endpoint for as long as it lives.
pub(crate) struct Active(Arc<EndpointState>);

impl Active {
    pub(crate) fn new(state: Arc<EndpointState>) -> Self {
        state.active.increment();
        Self(state)
    }

    /// The endpoint's state.
    pub(crate) fn state(&self) -> &EndpointState {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.decrement();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No endpoint may be tried.
    #[error("there is no endpoint")]
    NoEndpoint,
    /// None that was tried could be reached; this is what the last one said.
    #[error("no endpoint could be reached: {0}")]
    Unreachable(#[source] io::Error),
}

/// Connects to an endpoint for a client, with so many hops.
///
/// # Errors
/// There is no endpoint, or none was reached within [`TRIES`] and [`BOUND`].
pub(crate) async fn dial(
    shared: &Shared,
    port: &Port,
    client: IpAddr,
    hops: Option<Hops>,
) -> Result<Dialled, DialError> {
    let deadline = Instant::now() + BOUND;
    let mut tried: Vec<EndpointAddr> = Vec::new();
    let mut last = None;
    while tried.len() < TRIES {
        let (addr, others) = {
            let route = port.route();
            let Some(endpoint) = port.pick(&route, client, shared.clock.now(), &tried) else {
                break;
            };
            (
                endpoint.addr,
                route.endpoints.eligible.len() > tried.len() + 1,
            )
        };
        let last_try = !others || tried.len() + 1 == TRIES;
        let patience = if last_try {
            shared.connect_timeout
        } else {
            IMPATIENT.min(shared.connect_timeout)
        };
        let until = deadline.min(Instant::now() + patience);
        // Counted from here on, so that choices by load see connections that are being made.
        let state = Active::new(port.endpoint(addr));
        let began = Instant::now();
        match connect(shared, addr, hops, until).await {
            Ok(stream) => {
                port.counters.connect.observe(began.elapsed());
                return Ok(Dialled { stream, state });
            }
            Err(error) => {
                let why = ConnectError::of(&error);
                port.counters.connect_error(why);
                tracing::debug!(endpoint = %addr, reason = why.as_str(), %error, "endpoint not reached");
                tried.push(addr);
                last = Some(error);
            }
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    match last {
        Some(error) => Err(DialError::Unreachable(error)),
        None => {
            port.counters.reject(Rejection::NoEndpoint);
            Err(DialError::NoEndpoint)
        }
    }
}

/// Connects to one endpoint; the connection's leave to open a socket holds for it. Waits while the
/// host is short of files or of memory for sockets.
async fn connect(
    shared: &Shared,
    addr: EndpointAddr,
    hops: Option<Hops>,
    until: Instant,
) -> io::Result<TcpStream> {
    let stream = loop {
        let connect = async {
            let socket = if addr.0.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            };
            match socket {
                Ok(socket) => {
                    if let Some(hops) = hops {
                        hops.set(&socket, addr.0.is_ipv4())?;
                    }
                    Ok(socket.connect(addr.0).await)
                }
                Err(error) => Err(error),
            }
        };
        let connected = tokio::time::timeout_at(until, connect).await;
        match connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
            Ok(connected) => break connected?,
            Err(error) if socket::is_exhausted(&error) && Instant::now() < until => {
                shared.descriptors.exhausted(&error).await;
            }
            Err(error) => return Err(error),
        }
    };
    socket::tune(&stream);
    Ok(stream)
}
