//! Answers of the gateway itself, where no answer of an endpoint can be passed on.

use super::facts::{AfterAnswer, HttpVersion, RequestFacts, RequestMethod};

/// The header that names the reason.
pub const HEADER: &str = "x-fairway-error";

/// Why a request has no answer of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnAnswer {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// CONNECT: this is no forward proxy.
    MethodNotAllowed,
    /// The request's head or body did not arrive in time.
    RequestTimeout,
    /// The body is larger than it may be.
    BodyTooLarge,
    /// The request line is larger than a head may be.
    TargetTooLong,
    /// The client has asked too often.
    TooManyRequests,
    /// The request's head is too large, or has too many fields.
    HeadTooLarge,
    /// The request's body has a transfer coding that is not `chunked`.
    UnknownCoding,
    /// The request is of another major version.
    UnknownVersion,
    /// There is no endpoint.
    NoEndpoint,
    /// The endpoints that were tried refuse connections.
    ConnectRefused,
    /// The endpoints that were tried did not answer in time.
    ConnectTimeout,
    /// The endpoints that were tried could not be reached.
    ConnectFailed,
    /// The endpoint closed or reset the connection before its answer was there.
    UpstreamReset,
    /// The endpoint took the request and did not answer in time.
    UpstreamTimeout,
    /// The endpoint's answer is not HTTP as it should be.
    UpstreamProtocol,
    /// The gateway has as many connections as it may have.
    Overloaded,
    /// An error in Fairway itself.
    Internal,
}

impl OwnAnswer {
    /// The word in the header: one for each reason, never changed.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::TargetTooLong => "target_too_long",
            Self::TooManyRequests => "too_many_requests",
            Self::HeadTooLarge => "head_too_large",
            Self::UnknownCoding => "unknown_coding",
            Self::UnknownVersion => "unknown_version",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }

    /// The status of the answer.
    pub fn status(self) -> u16 {
        self.status_line().0
    }

    fn status_line(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "400 Bad Request"),
            Self::MethodNotAllowed => (405, "405 Method Not Allowed"),
            Self::RequestTimeout => (408, "408 Request Timeout"),
            Self::BodyTooLarge => (413, "413 Content Too Large"),
            Self::TargetTooLong => (414, "414 URI Too Long"),
            Self::TooManyRequests => (429, "429 Too Many Requests"),
            Self::HeadTooLarge => (431, "431 Request Header Fields Too Large"),
            Self::Internal => (500, "500 Internal Server Error"),
            Self::UnknownCoding => (501, "501 Not Implemented"),
            Self::ConnectRefused
            | Self::ConnectFailed
            | Self::UpstreamReset
            | Self::UpstreamProtocol => (502, "502 Bad Gateway"),
            Self::NoEndpoint | Self::Overloaded => (503, "503 Service Unavailable"),
            Self::ConnectTimeout | Self::UpstreamTimeout => (504, "504 Gateway Timeout"),
            Self::UnknownVersion => (505, "505 HTTP Version Not Supported"),
        }
    }

    /// A sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is not well-formed HTTP.",
            Self::MethodNotAllowed => "The gateway makes no tunnels.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::BodyTooLarge => "The body of the request is too large.",
            Self::TargetTooLong => "The first line of the request is too long.",
            Self::TooManyRequests => "There were too many requests.",
            Self::HeadTooLarge => "The head of the request is larger than 64 KiB.",
            Self::UnknownCoding => "The request has a transfer coding other than chunked.",
            Self::UnknownVersion => "The request is of a version of HTTP that is not known here.",
            Self::NoEndpoint => "The Service has no endpoint that could answer.",
            Self::ConnectRefused => "The Service's endpoint refused the connection.",
            Self::ConnectTimeout => "The Service's endpoint did not accept the connection in time.",
            Self::ConnectFailed => "The Service's endpoint could not be reached.",
            Self::UpstreamReset => {
                "The Service's endpoint closed the connection before it answered."
            }
            Self::UpstreamTimeout => "The Service's endpoint did not answer in time.",
            Self::UpstreamProtocol => {
                "The Service's endpoint sent something that is not the HTTP expected of it."
            }
            Self::Overloaded => "The gateway has as many connections as it may have.",
            Self::Internal => "The gateway failed.",
        }
    }

    /// Appends the whole answer. `request` is what is known of the request, if its head could be read: the answer to
    /// HEAD has no body.
    pub fn write(self, request: Option<&RequestFacts>, after: AfterAnswer, out: &mut Vec<u8>) {
        let (code, sentence) = (self.code(), self.sentence());
        let length = code.len() + sentence.len() + ": \n".len();
        let connection = match (after, request.map(|it| it.version)) {
            (AfterAnswer::Close, _) => "connection: close\r\n",
            (AfterAnswer::Keep, Some(HttpVersion::Http10)) => "connection: keep-alive\r\n",
            (AfterAnswer::Keep, _) => "",
        };
        let allow = match self {
            // RFC 9110, section 15.5.6, asks for it. Which methods an endpoint takes is not known here.
            Self::MethodNotAllowed => "allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
            _ => "",
        };
        let length = length.to_string();
        let parts = [
            "HTTP/1.1 ",
            self.status_line().1,
            "\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: ",
            &length,
            "\r\ncache-control: no-store\r\n",
            HEADER,
            ": ",
            code,
            "\r\n",
            allow,
            connection,
            "\r\n",
        ];
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
        if request.is_some_and(|it| it.method == RequestMethod::Head) {
            return;
        }
        for part in [code, ": ", sentence, "\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}
