//! pingora's callbacks: which endpoint gets a request, when another is tried, what is counted.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use fairway_config::net::EndpointAddr;
use fairway_config::service::AppProtocol;
use fairway_gateway_core::attempts::{Attempts, Patience};
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::route::Endpoint;
use http::StatusCode;
use http::header::UPGRADE;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::connection::{ClientConnection, Phase};
use super::dialler::{EndpointDialler, Sources};
use super::failure::ErrorResponse;
use super::forwarded;
use super::limits::{
    CLIENT, CONNECTION_WINDOW, ENDPOINT, POOLED, STREAM_IDLE, STREAM_WINDOW, STREAMS, UNSHARED,
};
use super::reuse;
use super::unshared_connection::{self, FromClient, UnsharedConnection};
use super::unwritten::UnwrittenGuard;
use super::upload_watch::{self, UploadWatch};
use crate::connection_use::ConnectionUse;
use crate::counters::Rejection;
use crate::descriptors::{Descriptors, Permit};
use crate::endpoint_state::{Active, EndpointState};
use crate::hops::Hops;
use crate::port::Port;
use crate::transparent::Transparency;

/// The proxy for the requests of every port of a worker.
pub(super) struct App {
    /// How long the last endpoint that is left to try may take to accept a connection.
    connect_timeout: Duration,
    descriptors: Arc<Descriptors>,
    sources: Arc<Sources>,
    /// Dials without hops of its own.
    dialler: Arc<EndpointDialler>,
    transparency: Arc<Transparency>,
}

impl App {
    pub(super) fn new(
        connect_timeout: Duration,
        descriptors: Arc<Descriptors>,
        sources: Arc<Sources>,
        transparency: Arc<Transparency>,
    ) -> Self {
        let dialler = EndpointDialler {
            sources: sources.clone(),
            hops: None,
        };
        Self {
            connect_timeout,
            descriptors,
            sources,
            dialler: Arc::new(dialler),
            transparency,
        }
    }

    fn dialler(&self, hops: Option<Hops>) -> Arc<EndpointDialler> {
        if hops.is_none() {
            return self.dialler.clone();
        }
        Arc::new(EndpointDialler {
            sources: self.sources.clone(),
            hops,
        })
    }
}

/// The state of one request (pingora's `CTX`).
#[derive(Default)]
pub(super) struct RequestContext {
    connection: Option<Arc<ClientConnection>>,
    /// Endpoints that could not be reached.
    attempts: Attempts,
    /// When dialling began.
    dialled: Option<Instant>,
    /// The endpoint that is dialled, or has the request.
    endpoint: Option<Active>,
    /// The endpoint was removed while it was dialled. Nothing was passed on to it.
    is_removed: bool,
    failure: Option<ErrorResponse>,
    /// A permit for the connection to an endpoint, where that of the client's connection does not cover it.
    permit: Option<Permit>,
    /// The client is a proxy whose headers about its own client are kept.
    is_trusted: bool,
    /// The connection to the endpoint is this client's alone, and is closed after the answer.
    closes: bool,
    /// It has a body that may not fit into an endpoint's receive buffer.
    is_upload: bool,
    /// Watches the connection to the endpoint of an upload.
    watch: Option<UploadWatch>,
    /// While an endpoint is dialled for an h2 stream, what came of its upload is not even read.
    unread: Option<UnwrittenGuard>,
}

impl RequestContext {
    fn connection(&self) -> Result<&Arc<ClientConnection>> {
        self.connection
            .as_ref()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a session without connection"))
    }

    /// An error where the endpoint is cut: it was removed, and its time to drain is over.
    fn check_cut(&self) -> Result<()> {
        match &self.endpoint {
            Some(endpoint) if endpoint.state().cut.is_cancelled() => {
                Err(Error::new_up(ErrorType::ConnectionClosed))
            }
            _ => Ok(()),
        }
    }

    /// The port and the state of the endpoint.
    fn endpoint(&self) -> Option<(&Port, &Arc<EndpointState>)> {
        let port: &Port = &self.connection.as_ref()?.port;
        Some((port, self.endpoint.as_ref()?.state()))
    }

    /// Chooses the next endpoint to try, and how long it may take. Counted from here on, so that choices by load see
    /// it, and so that it is cut with its endpoint.
    fn pick(&mut self) -> Result<Option<(Endpoint, Patience)>> {
        self.endpoint = None;
        let connection = self.connection()?.clone();
        let port = &connection.port;
        let now = connection.now();
        if !self.attempts.may_try(now) {
            return Ok(None);
        }
        let route = port.route();
        let tried = self.attempts.tried();
        let Some(picked) = port.pick(&route, connection.client_ip(), now, tried) else {
            return Ok(None);
        };
        let endpoint = picked.at.endpoint.clone();
        let patience = self.attempts.patience(&picked);
        self.endpoint = Some(Active::new(picked.at.state.clone()));
        Ok(Some((endpoint, patience)))
    }
}

#[async_trait]
impl ProxyHttp for App {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::default()
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestContext,
    ) -> Result<()> {
        request.connection = ClientConnection::of(session).cloned();
        let connection = request.connection()?;
        if !session.is_http2() {
            connection.set_phase(if asks_websocket(session) {
                Phase::Upgrading
            } else {
                Phase::Busy
            });
            // RFC 9112, section 9.3.2. Without pipelining, early bytes of the next request would end this one.
            session.set_pipelining_enabled(true);
        }
        session.set_read_timeout(Some(CLIENT));
        session.set_write_timeout(Some(CLIENT));
        session.set_total_drain_timeout(Some(CLIENT));
        Ok(())
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        request: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        request.is_removed = false;
        let connection = request.connection()?.clone();
        let port = &connection.port;
        let h2 = port.route().app == AppProtocol::H2c;
        // The permit of a client's connection covers one connection to an endpoint. Each h2 stream may need one,
        // unless the endpoint speaks h2, too.
        if session.is_http2() && !h2 && request.permit.is_none() {
            request.permit = self.descriptors.take(Some(&port.share), 1);
            if request.permit.is_none() {
                port.counters.reject(Rejection::Limit);
                request.failure = Some(ErrorResponse::Overloaded);
                return Err(Error::new_up(ErrorType::ConnectError));
            }
        }
        let Some((endpoint, patience)) = request.pick()? else {
            if request.failure.is_none() {
                port.counters.reject(Rejection::NoEndpoint);
                request.failure = Some(ErrorResponse::NoEndpoint);
            }
            return Err(Error::new_up(ErrorType::ConnectNoRoute));
        };
        let may_take = patience.duration(self.connect_timeout);
        let mut peer = HttpPeer::new(endpoint.addr.0, false, String::new());
        let is_upgrade = asks_websocket(session);
        let kind = reuse::kind_of(session, port.route().app, is_upgrade);
        request.is_upload = kind == ConnectionUse::Long && !is_upgrade;
        let trusted_since = request
            .endpoint()
            .map(|(_, state)| state.health.trusted_since());
        peer.group_key = reuse::pool_key(kind, connection.hops, trusted_since.unwrap_or_default());
        let options = &mut peer.options;
        options.custom_l4 = Some(self.dialler(connection.hops));
        options.total_connection_timeout = Some(may_take);
        options.write_timeout = Some(ENDPOINT);
        options.idle_timeout = Some(POOLED);
        options.tcp_keepalive = Some(reuse::keepalive(kind));
        options.read_timeout = Some(if h2 || is_upgrade {
            STREAM_IDLE
        } else {
            ENDPOINT
        });
        if h2 {
            options.set_http_version(2, 2);
            options.max_h2_streams = STREAMS;
            options.h2_stream_window_size = Some(STREAM_WINDOW);
            options.h2_connection_window_size = Some(CONNECTION_WINDOW);
            // A stream may be silent for long, so pings find out whether the connection is dead.
            options.h2_ping_interval = Some(Duration::from_secs(30));
        }
        let route = port.route();
        request.is_trusted = route.options.trusts(connection.client_ip());
        request.closes = false;
        let version = route.options.proxy_protocol;
        let transparent = route.options.transparent.then(|| FromClient {
            endpoint,
            transparency: self.transparency.clone(),
            patience,
            connect_timeout: self.connect_timeout,
            _in_use: self.transparency.hold(),
        });
        if version.is_some() || transparent.is_some() {
            let own = UnsharedConnection {
                connection: connection.clone(),
                dialler: self.dialler(connection.hops),
                version,
                transparent,
            };
            own.make(&mut peer);
            request.closes = !h2 && !is_upgrade;
        } else if is_upgrade {
            // A new connection shows at once whether the endpoint is there, and is not used again in any case.
            peer.group_key = connection.own_pool();
            peer.options.idle_timeout = Some(UNSHARED);
        }
        drop(route);
        request.dialled = Some(Instant::now());
        request.unread = session.is_http2().then(|| connection.unwritten.hold());
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        fd: RawFd,
        _digest: Option<&Digest>,
        request: &mut RequestContext,
    ) -> Result<()> {
        let connection = request.connection()?.clone();
        let port = &connection.port;
        if let Some((_, state)) = request.endpoint() {
            let state = state.clone();
            if let (false, Some(dialled)) = (reused, request.dialled) {
                port.dial_worked(&state, dialled.elapsed(), connection.now());
            }
            // It may have been removed meanwhile: then nobody would cut its connections.
            if endpoint_of(peer).is_some_and(|addr| !port.route().endpoints.lists(addr)) {
                request.is_removed = true;
                return Err(Error::new_up(ErrorType::ConnectionClosed));
            }
            if !session.is_http2() {
                connection.set_endpoint(Some(state));
            }
        }
        request.failure = None;
        request.unread = None;
        // Where no descriptor can be spared, pingora's time-outs have to do.
        request.watch = match request.is_upload {
            true => self
                .descriptors
                .take_spare(1)
                .and_then(|permit| UploadWatch::begin(fd, permit, connection.clock()).ok()),
            false => None,
        };
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        peer: &HttpPeer,
        request: &mut RequestContext,
        mut error: Box<Error>,
    ) -> Box<Error> {
        request.failure = ErrorResponse::of(&error);
        if let (Some((port, state)), Some(addr)) = (request.endpoint(), endpoint_of(peer)) {
            let took = request.dialled.map(|dialled| dialled.elapsed());
            let now = request.connection.as_ref().map(|it| it.now());
            let (took, now) = (took.unwrap_or_default(), now.unwrap_or_default());
            port.dial_failed(state, dial_failure(&error), took, now);
            request.attempts.failed(addr);
            // Where none is left, the next pick says so.
            error.set_retry(true);
            tracing::debug!(endpoint = %addr, %error, "an endpoint can't be reached");
        }
        error
    }

    /// As pingora's own, and notes an endpoint that has reset a new connection before it answered, or whose machine has
    /// vanished.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        request: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        use ErrorType::{ConnectionClosed, ReadError, WriteError};
        let is_of_endpoint = error.esource() == &ErrorSource::Upstream;
        let is_reset = matches!(error.etype(), ReadError | WriteError | ConnectionClosed);
        let is_cut = request.check_cut().is_err();
        let watch = request.watch.take();
        let error = match watch.is_some_and(|watch| is_of_endpoint && watch.has_vanished()) {
            true => upload_watch::silence(),
            false => error,
        };
        let mut error = error.more_context(format!("Peer: {peer}"));
        let is_truncated = session.as_ref().retry_buffer_truncated();
        if request.is_removed {
            // Nothing was passed on, so any request may go elsewhere.
            error.set_retry(!is_truncated);
            return error;
        }
        let is_silence = is_of_endpoint && !is_cut && reuse::is_silence(&error);
        if is_silence
            && let (Some((port, state)), Some(addr)) = (request.endpoint(), endpoint_of(peer))
        {
            let took = request.dialled.map(|dialled| dialled.elapsed());
            let now = request.connection.as_ref().map(|it| it.now());
            port.went_silent(state, took.unwrap_or_default(), now.unwrap_or_default());
            request.attempts.failed(addr);
        } else if is_of_endpoint
            && is_reset
            && !reused
            && !is_cut
            && session.response_written().is_none()
            && let (Some((port, state)), Some(addr)) = (request.endpoint(), endpoint_of(peer))
            && let Some(connection) = &request.connection
        {
            port.was_reset(state, connection.now());
            request.attempts.failed(addr);
        }
        if !session.req_header().method.is_idempotent() || is_truncated {
            error.set_retry(false);
        } else if is_silence || (is_of_endpoint && is_reset && !is_cut) {
            // The connection may be a new one: a server that ends resets those that it has not accepted yet.
            error.set_retry(session.response_written().is_none());
            // Where none is left, this is what the client is told.
            request.failure = ErrorResponse::of(&error);
        } else {
            error.retry.decide_reuse(reused);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut RequestContext,
    ) -> Result<()> {
        if request.closes {
            unshared_connection::close_after(upstream)?;
        }
        forwarded::set(
            upstream,
            request.connection()?.client_ip(),
            request.is_trusted,
        )
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        request: &mut RequestContext,
    ) -> Result<()> {
        // pingora would write an empty last part as a last chunk, and the end of the body as a second one (pingora
        // issue 935). The endpoint would read the second one as the beginning of the next request on its connection,
        // which may be another client's.
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        if let Some(bytes) = body.take() {
            *body = Some(request.connection()?.unwritten.track(bytes));
        }
        request.check_cut()
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end_of_stream: bool,
        request: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        request.check_cut().map(|()| None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut RequestContext,
    ) -> Result<()> {
        let connection = request.connection()?;
        if let Some(endpoint) = &request.endpoint {
            // An answer on a pooled connection counts, too: its dials may have failed since.
            connection.port.answered(endpoint.state(), connection.now());
        }
        if session.is_http2() {
            return Ok(());
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            session.set_read_timeout(Some(STREAM_IDLE));
            connection.set_phase(Phase::Upgraded);
        } else if !response.status.is_informational() {
            connection.set_phase(Phase::Busy);
            if session.is_process_shutting_down() {
                session.set_keepalive(None);
            }
        }
        Ok(())
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        request: &mut RequestContext,
    ) -> FailToProxy {
        let failure = match error.esource() {
            ErrorSource::Downstream => ErrorResponse::of(error),
            _ => request.failure.or_else(|| ErrorResponse::of(error)),
        };
        request.failure = failure;
        request.unread = None;
        if session.is_http2() && session.response_written().is_some() {
            // A reset discards bytes that the stream has not sent yet. The connection's task was woken when they were
            // written, so it runs before this one goes on.
            tokio::task::yield_now().await;
        }
        let mut error_code = 0;
        if let (Some(failure), None) = (failure, session.response_written()) {
            error_code = failure.status().as_u16();
            if let Ok(response) = failure.response() {
                // This fails where the client is gone.
                let _ = session.write_error_response(response, failure.body()).await;
            }
        }
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&Error>,
        request: &mut RequestContext,
    ) {
        let status = session
            .response_written()
            .map(|response| response.status.as_u16());
        request.endpoint = None;
        let Some(connection) = &request.connection else {
            return;
        };
        if !session.is_http2() {
            connection.set_phase(Phase::Idle);
            connection.set_endpoint(None);
        }
        match error {
            Some(_) => connection.set_failed(),
            None => connection.set_completed(),
        }
        connection.port.counters.response(status);
        tracing::debug!(
            client = %connection.origin.client,
            listen = %connection.listen,
            method = %session.req_header().method,
            status,
            failure = request.failure.map(ErrorResponse::code),
            error = error.map(tracing::field::display),
            "request",
        );
    }

    // A failing endpoint or client is no error of this process. The response, the counters and the log line above
    // show it.
    fn suppress_error_log(&self, _: &Session, _: &RequestContext, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &RequestContext,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// Whether a request asks for an upgrade to WebSocket, the only one that is passed on.
fn asks_websocket(session: &Session) -> bool {
    session.is_upgrade_req()
        && session
            .get_header_bytes(UPGRADE)
            .eq_ignore_ascii_case(b"websocket")
}

fn endpoint_of(peer: &HttpPeer) -> Option<EndpointAddr> {
    peer._address.as_inet().copied().map(EndpointAddr)
}

fn dial_failure(error: &Error) -> DialFailure {
    match error.root_cause().downcast_ref::<std::io::Error>() {
        Some(io) => DialFailure::of(io),
        None => match error.etype() {
            ErrorType::ConnectRefused => DialFailure::Refused,
            ErrorType::ConnectTimedout => DialFailure::Timeout,
            ErrorType::ConnectNoRoute => DialFailure::Unreachable,
            _ => DialFailure::Other,
        },
    }
}
