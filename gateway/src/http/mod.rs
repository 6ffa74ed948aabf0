//! Ports that are balanced by request, as far as h2 is spoken on one side: on pingora's HTTP proxy. What is HTTP/1 on both
//! sides is carried by the engine (`engine/http`).
//!
//! Listeners come and go at run time, so the worker has them, and not pingora. The worker accepts a connection, and
//! hands it to `HttpServer::serve` where the port's [`AppProtocol`](fairway_config::service::AppProtocol) is h2c, or
//! the client has begun with the preface of h2. Each worker has one [`HttpServer`], so that a connection and the pool of connections to endpoints stay on
//! one thread.
//!
//! Reading order:
//! 1. [`HttpServer`]: from an accepted stream to pingora, and when a connection ends;
//! 2. `connection`: what belongs to one connection of a client, and how pingora carries it;
//! 3. `stream`: the client's side, which enforces what pingora has no deadline for, and
//!    `send_buffer`, when what goes to the client is sent, and `unwritten`, what of its uploads is not written to
//!    an endpoint yet;
//! 4. `app`: pingora's callbacks: choice of the endpoint, retries, counting; `dialler`: how endpoints are dialled;
//! 5. `forwarded`: the headers that tell an endpoint the client's address; `unshared_connection`: connections to
//!    endpoints that are one client's; `reuse`: which kept connections a request may use again, and when the kernel ends them;
//! 6. `failure`: the error responses where no answer of an endpoint can be passed on;
//! 7. `limits`: time-outs and sizes.
//!
//! Requests that are not passed on as they are:
//! - An upgrade other than to WebSocket: the endpoint gets a plain request. (With an `Upgrade: h2c` that is passed
//!   on, a client could send requests that the gateway does not see.)
//! - CONNECT is answered 405.
//! - A request with both Content-Length and Transfer-Encoding loses the former, and its connection is closed after
//!   the answer (RFC 9112, section 6.1). Other ambiguous requests are answered 400.

mod app;
mod connection;
mod dialler;
mod failure;
mod forwarded;
pub(crate) mod limits;
mod reuse;
mod send_buffer;
mod stream;
mod unshared_connection;
mod unwritten;
mod upload_watch;

use std::future::{Future as _, poll_fn};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_config::net::ListenAddr;
use fairway_gateway_core::source_pool::SourcePool;
use pingora_core::apps::{HttpServerOptions, ServerApp};
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::app::App;
use self::connection::{ClientConnection, Phase};
use self::dialler::Sources;
use self::limits::{CLIENT, KEEP_ALIVE, STREAM_WINDOW, TRIES};
use self::send_buffer::SendBuffer;
use self::stream::Downstream;
use crate::client_origin::ClientOrigin;
use crate::clock::Clock;
use crate::counters::ConnectionTimeout;
use crate::delivery;
use crate::descriptors::Descriptors;
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::socket;
use crate::socket::silence::silence;
use crate::transparent::Transparency;

/// Waits until a connection has been without a byte either way for as long as its port allows. A port that allows any
/// time now may allow less later: that is for connections that come then.
async fn is_silent(connection: &ClientConnection, sending: &SendBuffer) {
    loop {
        let idle = connection.port.route().limits.idle;
        let silent = sending.with_socket(silence);
        let Some(left) = idle
            .zip(silent)
            .map(|(idle, silent)| idle.saturating_sub(silent))
        else {
            return std::future::pending().await;
        };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// A client's connection, and what was read of it already.
pub(crate) struct BegunStream {
    pub(crate) socket: TcpStream,
    pub(crate) first: Vec<u8>,
}

/// The HTTP server of one worker. Must be used on one single-threaded runtime.
pub struct HttpServer {
    proxy: Arc<HttpProxy<App>>,
    stopping: watch::Sender<bool>,
    stop: CancellationToken,
}

impl HttpServer {
    /// A server that finishes gracefully once `stop` is cancelled: requests under way are
    /// finished, HTTP/1.1 connections are not kept alive any more, h2 clients get a GOAWAY.
    ///
    /// The last endpoint that is left to try has `connect_timeout` to accept a connection. Endpoints are dialled from
    /// the addresses of `source_pool` where the ports of the usual one are used up. The caller of [`HttpServer::serve`] has a permit for
    /// the client's connection and one to an endpoint. Further connections for h2 streams, and unused connections
    /// that are kept, come out of `descriptors`.
    pub(crate) fn new(
        stop: CancellationToken,
        connect_timeout: Duration,
        descriptors: Arc<Descriptors>,
        source_pool: Arc<ArcSwap<SourcePool>>,
        transparency: Arc<Transparency>,
    ) -> Self {
        let conf = Arc::new(ServerConf {
            threads: 1,
            max_retries: TRIES,
            upstream_keepalive_pool_size: descriptors.pooled(),
            // No connection to an endpoint uses TLS, so no certificate is needed. Without this line pingora reads the
            // host's trust store for each worker, and panics where it can't.
            ca_file: Some("/dev/null".to_owned()),
            ..ServerConf::default()
        });
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(KEEP_ALIVE);
        let sources = Arc::new(Sources::new(source_pool));
        let app = App::new(connect_timeout, descriptors, sources, transparency);
        let mut proxy = http_proxy(&conf, app);
        proxy.server_options = Some(options);
        let mut h2 = default_h2_options();
        h2.initial_window_size(STREAM_WINDOW);
        h2.initial_connection_window_size(4 * STREAM_WINDOW);
        proxy.h2_options = Some(h2);
        Self {
            proxy: Arc::new(proxy),
            stopping: watch::Sender::new(false),
            stop,
        }
    }

    /// Serves one connection until it ends: by the client, by a deadline, because the port or the endpoint is cut, or
    /// gracefully because the server stops. Connections to endpoints start with `hops`, where that is given. Counts
    /// the connection (completed or failed) and its bytes.
    pub(crate) async fn serve(
        &self,
        stream: BegunStream,
        listen: ListenAddr,
        origin: ClientOrigin,
        hops: Option<Hops>,
        port: OpenConnection,
        clock: Clock,
    ) {
        // Answers are written in whole pieces: waiting for more to fill a segment only delays them.
        let BegunStream { socket, first } = stream;
        let _ = socket.set_nodelay(true);
        let connection = Arc::new(ClientConnection::new(listen, origin, hops, port, clock));
        let (downstream, sending) = Downstream::new(socket, first, connection.clone());
        let stopping = self.stopping.subscribe();
        let mut serving = self.proxy.process_new(Box::new(downstream), &stopping);
        let mut told = false;
        let mut silent = std::pin::pin!(is_silent(&connection, &sending));
        let cut = loop {
            // While pingora waits for something, the bytes that it has written are sent.
            let carrying = poll_fn(|cx| {
                let poll = Pin::new(&mut serving).poll(cx);
                if poll.is_pending() {
                    // The next write reports an error.
                    let _ = sending.poll_send(cx);
                }
                poll
            });
            tokio::select! {
                biased;
                () = connection.cut() => break true,
                _ = carrying => break false,
                () = &mut silent => {
                    connection.port.counters.timed_out(ConnectionTimeout::Idle);
                    // Between two requests nothing is lost.
                    break connection.phase() != Phase::Idle;
                }
                () = self.stop.cancelled(), if !told => {
                    told = true;
                    self.finish().await;
                    // pingora closes idle connections itself, but not those that wait for their first request.
                    if connection.phase() == Phase::New {
                        break false;
                    }
                }
            }
        };
        drop(serving);
        if cut {
            connection.set_failed();
            sending.with_socket(|socket| {
                if delivery::unacknowledged(socket) > 0 {
                    socket::reset_on_close(socket);
                }
            });
        } else {
            self.deliver(&connection, &sending).await;
        }
    }

    /// Sends what is left and waits until the client has acknowledged all bytes, once pingora writes no more. Where
    /// an endpoint broke off, the beginning of its answer may not be sent yet.
    async fn deliver(&self, connection: &ClientConnection, sending: &SendBuffer) {
        let rest = poll_fn(|cx| sending.poll_send(cx));
        let rest = tokio::time::timeout(CLIENT, rest);
        let sent = tokio::select! {
            () = connection.port.cut() => false,
            sent = rest => matches!(sent, Ok(Ok(()))),
        };
        if sent && sending.with_socket(delivery::unacknowledged) == 0 {
            return;
        }
        // A second descriptor of the socket, so that the lock is not held while this waits.
        let Ok(socket) = sending.with_socket(|socket| socket.as_fd().try_clone_to_owned()) else {
            return;
        };
        let delivered = sent && {
            // Sends the end of the stream, as close(2) would. This fails where the connection is gone already.
            let _ = SockRef::from(&socket).shutdown(std::net::Shutdown::Write);
            delivery::delivered(&socket, connection.port.cut(), CLIENT).await
        };
        if !delivered {
            connection.set_failed();
            socket::reset_on_close(&socket);
        }
    }

    /// Tells every connection that the server stops. A second call changes nothing.
    async fn finish(&self) {
        let first = self
            .stopping
            .send_if_modified(|stopping| !std::mem::replace(stopping, true));
        if first {
            self.proxy.cleanup().await;
        }
    }
}

#[cfg(test)]
mod tests;
