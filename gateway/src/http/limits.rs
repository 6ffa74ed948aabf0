//! The limits of HTTP connections: time-outs, tries and sizes.

use std::time::Duration;

/// The longest time from the accept to the first byte, and from the first byte of a request's head to its last one.
pub(crate) const HEAD: Duration = Duration::from_secs(30);
/// How long an h2 connection without a stream stays open; pingora's own for HTTP/1.1 is the same.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// The longest time between two reads of a request's body, and for a write to a client to make progress.
pub(crate) const CLIENT: Duration = Duration::from_secs(60);
/// The longest time between two reads from an endpoint, and for a write to it to make progress.
pub(crate) const ENDPOINT: Duration = Duration::from_secs(60);
/// The same for upgraded connections and h2 streams, which may be silent for long.
pub(super) const STREAM_IDLE: Duration = Duration::from_secs(3600);
/// How long an unused connection to an endpoint is kept.
pub(crate) const POOLED: Duration = Duration::from_secs(30);
/// The same where it is one client's alone.
pub(super) const UNSHARED: Duration = Duration::from_secs(5);
/// The most tries of a request: those of [`fairway_gateway_core::attempts`], one more that finds no endpoint left, and
/// some for pooled connections that turn out to be dead.
pub(crate) const TRIES: usize = fairway_gateway_core::attempts::TRIES + 3;
/// The most streams that share an h2 connection to an endpoint.
pub(super) const STREAMS: usize = 100;
/// The flow-control window of an h2 stream, in bytes: the most that the gateway holds for a client that does not read.
/// (pingora's default for an endpoint's stream is 8 MiB.)
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// The window of a whole connection to an endpoint, in bytes. It is larger, so that one stream that is not read does
/// not hold up the others.
pub(super) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The most bytes of a request's head over HTTP/1.1. For h2 pingora has the same limit, 64 KiB.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;
/// The most bytes of a request, head and body, that are kept for another try.
pub(crate) const KEPT: usize = 64 * 1024;
/// How long a client that was answered before all of its request had come may go on with it, unheard.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// The time-outs of HTTP/1 connections. Tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpTimes {
    /// [`HEAD`].
    pub(crate) head: Duration,
    /// How long a client's connection stays open between two requests.
    pub(crate) keep_alive: Duration,
    /// [`CLIENT`].
    pub(crate) client: Duration,
    /// [`ENDPOINT`].
    pub(crate) endpoint: Duration,
    /// [`POOLED`].
    pub(crate) pooled: Duration,
    /// [`LINGER`].
    pub(crate) linger: Duration,
    /// How often it is looked whether one of the others is over.
    pub(crate) look: Duration,
}

impl Default for HttpTimes {
    fn default() -> Self {
        Self {
            head: HEAD,
            keep_alive: KEEP_ALIVE,
            client: CLIENT,
            endpoint: ENDPOINT,
            pooled: POOLED,
            linger: LINGER,
            look: Duration::from_secs(1),
        }
    }
}
