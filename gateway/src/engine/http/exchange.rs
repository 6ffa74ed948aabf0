//! One request and its answer: what is known of both, and what waits to be written either way.

use std::io;
use std::time::Instant;

use fairway_gateway_core::acknowledgement::AcknowledgementWatch;
use fairway_gateway_core::http1::{
    AnswerFacts, AnswerPlan, BodyFraming, BodyScan, HeadScan, OwnAnswer, RequestFacts,
};

use super::pool::{EndpointConnection, EndpointPool, PoolKey};
use crate::connection_use::ConnectionUse;
use crate::endpoint_state::Active;
use crate::engine::dial::Dial;
use crate::engine::side::Side;
use crate::http::limits::KEPT;
use crate::transparent::TransparentUse;

/// One request and its answer.
pub(super) struct Exchange {
    pub(super) facts: RequestFacts,
    pub(super) kind: ConnectionUse,
    /// The connection to the endpoint is this client's alone, and is closed after the answer.
    pub(super) closes: bool,
    pub(super) dial: Dial,
    /// How often an endpoint was asked, or looked for.
    pub(super) tries: usize,
    pub(super) link: EndpointLink,
    /// Counts as a request of the endpoint.
    pub(super) active: Option<Active>,
    /// Held where the endpoint sees the client's address.
    pub(super) transparent: Option<TransparentUse>,
    /// What the client is told if no other endpoint is left.
    pub(super) failure: Option<OwnAnswer>,
    /// What goes to the endpoint.
    pub(super) up: RequestBytes,
    /// The request's body, as far as it has come.
    pub(super) body: BodyScan,
    /// Trailer fields follow, which have to be there as a whole.
    pub(super) in_trailers: bool,
    /// The client's side has ended before the request did.
    pub(super) is_abandoned: bool,
    /// Nothing more can be read of the client that is gone.
    pub(super) is_read: bool,
    /// The endpoint takes no more of the request. What it has said may still be read.
    pub(super) is_refused: bool,
    /// The answer's head, when it has come.
    pub(super) answer: Option<BegunAnswer>,
    pub(super) scan: HeadScan,
    /// The beginning of the answer's head, or of trailers.
    pub(super) partial: Vec<u8>,
    /// The status of the last head that has gone to the client.
    pub(super) status: Option<u16>,
    /// What waits for the client.
    pub(super) down: Vec<u8>,
    pub(super) times: ExchangeTimes,
    pub(super) watch: AcknowledgementWatch,
}

/// The answer to a request, its head apart.
pub(super) struct BegunAnswer {
    pub(super) facts: AnswerFacts,
    pub(super) plan: AnswerPlan,
    pub(super) body: BodyScan,
    pub(super) in_trailers: bool,
    /// Its body has ended with the connection.
    pub(super) has_ended: bool,
    /// The endpoint has said more than the answer.
    pub(super) has_excess: bool,
}

/// When each side did something last.
pub(super) struct ExchangeTimes {
    /// When it was begun.
    pub(super) began: Instant,
    pub(super) client_heard: Instant,
    pub(super) client_took: Instant,
    pub(super) endpoint_heard: Instant,
    pub(super) endpoint_took: Instant,
}

impl ExchangeTimes {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            client_heard: now,
            client_took: now,
            endpoint_heard: now,
            endpoint_took: now,
        }
    }
}

/// The connection to an endpoint.
pub(super) enum EndpointLink {
    /// There is none.
    None,
    /// It is being made.
    Dialling {
        side: Side,
        number: u32,
        key: PoolKey,
    },
    Connected(Box<EndpointConnection>),
}

impl Exchange {
    /// A request whose head was read.
    pub(super) fn new(facts: RequestFacts, dial: Dial, now: Instant) -> Self {
        let length = match facts.body {
            BodyFraming::None => Some(0),
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Chunked | BodyFraming::UntilClose => None,
        };
        let is_idempotent = facts.method.is_idempotent();
        Self {
            kind: ConnectionUse::of(length, is_idempotent, facts.is_upgrade),
            closes: false,
            dial,
            tries: 0,
            link: EndpointLink::None,
            active: None,
            transparent: None,
            failure: None,
            up: RequestBytes::default(),
            body: BodyScan::new(facts.body),
            in_trailers: false,
            is_abandoned: false,
            is_read: false,
            is_refused: false,
            answer: None,
            scan: HeadScan::default(),
            partial: Vec::new(),
            status: None,
            down: Vec::new(),
            times: ExchangeTimes::new(now),
            watch: AcknowledgementWatch::default(),
            facts,
        }
    }

    /// Whether all of the request has come.
    pub(super) fn has_come(&self) -> bool {
        self.body.is_ended() && !self.in_trailers
    }

    /// Whether all of the request has come and gone to the endpoint.
    pub(super) fn has_gone(&self) -> bool {
        self.has_come() && self.up.is_sent()
    }

    /// Whether all of the answer has come.
    pub(super) fn is_answered(&self) -> bool {
        let answer = self.answer.as_ref();
        answer.is_some_and(|answer| {
            answer.has_ended || (answer.body.is_ended() && !answer.in_trailers)
        })
    }

    /// The endpoint's side, once it is connected.
    pub(super) fn endpoint(&mut self) -> Option<&mut Side> {
        match &mut self.link {
            EndpointLink::Connected(connection) => Some(&mut connection.side),
            EndpointLink::None | EndpointLink::Dialling { .. } => None,
        }
    }

    /// Closes the connection to the endpoint, if there is one.
    pub(super) fn unlink(&mut self, pool: &mut EndpointPool) {
        match std::mem::replace(&mut self.link, EndpointLink::None) {
            EndpointLink::None => {}
            EndpointLink::Dialling { number, side, .. } => {
                drop(side);
                pool.release(number);
            }
            EndpointLink::Connected(connection) => {
                let number = connection.number;
                drop(connection);
                pool.release(number);
            }
        }
    }

    /// The request begins anew, for another connection.
    pub(super) fn rewind(&mut self) {
        self.up.rewind();
        self.scan = HeadScan::default();
        self.partial = Vec::new();
        self.is_refused = false;
        self.watch = AcknowledgementWatch::default();
    }
}

/// What goes to an endpoint: bytes that wait, and those that were sent and are kept for another try.
#[derive(Default)]
pub(super) struct RequestBytes {
    bytes: Vec<u8>,
    sent: usize,
    /// Some of it was sent and is not kept.
    is_cut: bool,
}

impl RequestBytes {
    /// Where the head is appended to.
    pub(super) fn head(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Whether nothing waits.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Whether something was sent.
    pub(super) fn has_begun(&self) -> bool {
        self.sent > 0 || self.is_cut
    }

    /// How many bytes were sent; none where they are not kept.
    pub(super) fn sent_bytes(&self) -> usize {
        match self.is_cut {
            true => 0,
            false => self.sent,
        }
    }

    /// Whether all of it is still there.
    pub(super) fn is_kept(&self) -> bool {
        !self.is_cut
    }

    /// What waits.
    pub(super) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    /// So many of those that wait were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.is_cut && self.is_sent() {
            self.forget();
        }
    }

    /// Whether these would be kept for another try, if they were added.
    pub(super) fn keeps(&self, count: usize) -> bool {
        !self.is_cut && self.bytes.len() + count <= KEPT
    }

    /// Adds some that wait.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What was sent is kept no longer. To be called when all is sent.
    pub(super) fn forget(&mut self) {
        self.bytes = Vec::new();
        self.sent = 0;
        self.is_cut = true;
    }

    fn rewind(&mut self) {
        self.sent = 0;
    }
}

/// What the client is told where an endpoint could not be connected to.
pub(super) fn of_dial(error: &io::Error) -> OwnAnswer {
    use fairway_gateway_core::dial_failure::DialFailure;
    match DialFailure::of(error) {
        DialFailure::Refused => OwnAnswer::ConnectRefused,
        DialFailure::Timeout => OwnAnswer::ConnectTimeout,
        DialFailure::Unreachable
        | DialFailure::Silent
        | DialFailure::Reset
        | DialFailure::Exhausted
        | DialFailure::Other => OwnAnswer::ConnectFailed,
    }
}
