//! HTTP/1 as an intermediary speaks it (RFC 9110, RFC 9112): reading heads and bodies strictly, and writing what goes on.
//!
//! Pure: bytes in, decisions and bytes out. A message of which two readers could think differently is refused: that is how
//! one request becomes two (request smuggling). What passes, passes byte for byte.
//!
//! The scanner is our own. httparse takes a bare LF for the end of a line, keeps no place to go on from when a head comes
//! byte by byte, and does not look at what fields mean; checking all that afterwards would read each head twice.
//!
//! Reading order:
//! 1. [`HeadScan`]: where a head ends, in bytes that come piece by piece;
//! 2. `sender`: who is forgiven what; `grammar`: which octets may stand where; [`HeadDefect`] and [`ChunkDefect`]: what can be wrong;
//! 3. `field_kind`: the fields that mean something here; `fields`: where each is, and what they say together;
//! 4. `target`, `version`, then [`RequestHead`] and what is known of it afterwards, [`RequestFacts`];
//! 5. `request_write`: the head for the endpoint; `forwarded`: what tells it who the client is; `copied`;
//! 6. [`AnswerHead`]: an endpoint's answer, read and written; [`AnswerPlan`]: what becomes of connections and of its body;
//! 7. [`BodyScan`]: where a body ends; `chunked`, `trailers`;
//! 8. [`OwnAnswer`]: where no endpoint answers; [`may_retry`]: whether another one is asked.

mod answer;
mod body;
mod chunked;
mod copied;
mod defect;
mod facts;
mod field_kind;
mod fields;
mod forwarded;
mod grammar;
mod head_scan;
mod own_answer;
mod request;
mod request_write;
mod retry;
mod sender;
mod target;
mod trailers;
mod version;

#[cfg(test)]
mod tests;

pub use self::answer::AnswerHead;
pub use self::body::{BodyNext, BodyScan, DecodedBody, PassedBody};
pub use self::defect::{ChunkDefect, HeadDefect};
pub use self::facts::{
    AfterAnswer, AnswerFacts, AnswerPlan, BodyFraming, HttpVersion, RequestFacts, RequestMethod,
};
pub use self::fields::FieldTable;
pub use self::forwarded::{ClientScheme, RequestOrigin};
pub use self::head_scan::{HeadLimits, HeadProgress, HeadScan};
pub use self::own_answer::{HEADER as ERROR_HEADER, OwnAnswer};
pub use self::request::RequestHead;
pub use self::request_write::EndpointHop;
pub use self::retry::{VainAttempt, may_retry};
