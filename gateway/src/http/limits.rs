//! How long, how often and how much: what the HTTP side allows.

use std::time::Duration;

/// From a connection's accept to its first byte, and from the first byte of a request's head to
/// its last, however many reads it takes.
pub(crate) const HEAD: Duration = Duration::from_secs(30);
/// How long an h2 connection without a stream stays open; pingora's own for HTTP/1.1 is the same.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Between two reads of a request's body, and for a write to a client to get on.
pub(super) const CLIENT: Duration = Duration::from_secs(60);
/// Between two reads from an endpoint, and for a write to it to get on.
pub(super) const ENDPOINT: Duration = Duration::from_secs(60);
/// The same where silence is normal: upgraded connections and h2 streams.
pub(super) const STREAM_IDLE: Duration = Duration::from_secs(3600);
/// How long an unused connection to an endpoint is kept.
pub(super) const POOLED: Duration = Duration::from_secs(30);
/// At how many endpoints a request is tried when connecting fails.
pub(super) const ENDPOINTS_TRIED: usize = 3;
/// How often a request is tried in all: [`ENDPOINTS_TRIED`], and pooled connections that turn out
/// to be dead.
pub(super) const TRIES: usize = 5;
/// How many streams share an h2 connection to an endpoint.
pub(super) const STREAMS: usize = 100;
/// How much of an h2 stream may be on its way, in bytes: what a client that does not read can make
/// the gateway hold. (pingora's default for an endpoint's stream is 8 MiB.)
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all streams of a connection to an endpoint together: one that is not read must not
/// hold up the others.
pub(super) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// How many bytes a request's head may have over HTTP/1.1. Over h2 pingora sets 64 KiB too.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;
