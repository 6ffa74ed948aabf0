//! Error responses of the gateway itself, where no answer of an endpoint can be passed on.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_http::ResponseHeader;

use super::reuse;

/// The header that names the reason.
pub(super) const HEADER: &str = "x-fairway-error";

/// Why a request has no answer of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorResponse {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The request's head or body did not arrive in time.
    RequestTimeout,
    /// The request's head is too large.
    HeadTooLarge,
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

impl ErrorResponse {
    /// What an error of pingora means.
    pub(super) fn of(error: &Error) -> Option<Self> {
        use ErrorType::*;
        let failure = match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, ReadTimedout) => Self::RequestTimeout,
            // The client is gone.
            (
                ErrorSource::Downstream,
                ReadError | WriteError | WriteTimedout | ConnectionClosed,
            ) => {
                return None;
            }
            (ErrorSource::Downstream, _) => Self::BadRequest,
            (_, ConnectRefused) => Self::ConnectRefused,
            (_, ConnectTimedout) => Self::ConnectTimeout,
            (_, ConnectNoRoute | ConnectError | BindError | SocketError) => Self::ConnectFailed,
            (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Self::UpstreamTimeout,
            (ErrorSource::Upstream, _) if reuse::is_silence(error) => Self::UpstreamTimeout,
            (ErrorSource::Upstream, ReadError | WriteError | ConnectionClosed) => {
                Self::UpstreamReset
            }
            (ErrorSource::Upstream, _) => Self::UpstreamProtocol,
            _ => Self::Internal,
        };
        Some(failure)
    }

    /// The word in the header: one for each reason, never changed.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::RequestTimeout => "request_timeout",
            Self::HeadTooLarge => "head_too_large",
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

    /// The status of the response.
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoEndpoint | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ConnectRefused
            | Self::ConnectFailed
            | Self::UpstreamReset
            | Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A sentence for people.
    fn sentence(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is not well-formed HTTP.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::HeadTooLarge => "The head of the request is larger than 64 KiB.",
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

    /// The body of the response: code and sentence.
    pub(super) fn body(self) -> Bytes {
        Bytes::from(format!("{}: {}\n", self.code(), self.sentence()))
    }

    /// The head of the response.
    pub(super) fn response(self) -> Result<ResponseHeader, Box<Error>> {
        let mut response = ResponseHeader::build(self.status(), Some(4))?;
        response.insert_header(CONTENT_TYPE, "text/plain; charset=utf-8")?;
        response.insert_header(CONTENT_LENGTH, self.body().len())?;
        response.insert_header(CACHE_CONTROL, "no-store")?;
        response.insert_header(HEADER, self.code())?;
        Ok(response)
    }

    /// The whole response as bytes, for where pingora has no session to write to.
    pub(super) fn raw_response(self) -> Vec<u8> {
        let status = self.status();
        let body = self.body();
        let mut raw = format!(
            "HTTP/1.1 {} {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
             cache-control: no-store\r\n{HEADER}: {}\r\nconnection: close\r\n\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default(),
            body.len(),
            self.code(),
        )
        .into_bytes();
        raw.extend_from_slice(&body);
        raw
    }
}
