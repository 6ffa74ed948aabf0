//! Whether a request that has got no answer may be sent again, on another connection or to another endpoint.

use super::facts::RequestFacts;

/// What became of a request on a connection that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VainAttempt {
    /// A byte of it was written to the connection, so that the endpoint may have acted on it.
    pub was_sent: bool,
    /// A byte of an answer has come, be it of an interim one.
    pub was_answered: bool,
    /// What of its body has come is still there from its beginning.
    pub has_body: bool,
}

/// Whether the request may be sent again.
///
/// Where it was sent, the endpoint may have acted on it, also on a kept connection that has ended without an answer: only
/// a request that may be acted on twice is sent twice (RFC 9110, section 9.2.2; RFC 9112, section 9.3.1). Whether there is
/// somebody left to send it to is the caller's to know.
pub fn may_retry(request: &RequestFacts, attempt: VainAttempt) -> bool {
    let is_harmless = !attempt.was_sent || request.method.is_idempotent();
    is_harmless && !attempt.was_answered && attempt.has_body
}
