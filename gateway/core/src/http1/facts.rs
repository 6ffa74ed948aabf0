//! What is known of a request and of its answer once their heads have been read, as small values that outlive the bytes.

/// A version of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, and every later 1.x, which is taken as 1.1 (RFC 9110, section 2.5).
    Http11,
}

/// A request's method, as far as it changes what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestMethod {
    /// GET.
    Get,
    /// HEAD: its answer has no body.
    Head,
    /// OPTIONS.
    Options,
    /// TRACE.
    Trace,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// POST.
    Post,
    /// Every other one; its name is in the bytes of the head. CONNECT is never among them: it is refused.
    Other,
}

impl RequestMethod {
    /// The method of a name. Names are case-sensitive (RFC 9110, section 9.1).
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"POST" => Self::Post,
            _ => Self::Other,
        }
    }

    /// Whether a request may be sent a second time when nobody knows what became of the first (RFC 9110, section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Options | Self::Trace | Self::Put | Self::Delete => true,
            Self::Post | Self::Other => false,
        }
    }
}

/// How the end of a message's body is found (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is no body, or one of no bytes.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Everything until the connection ends: answers alone.
    UntilClose,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method.
    pub method: RequestMethod,
    /// The client's version.
    pub version: HttpVersion,
    /// How its body ends.
    pub body: BodyFraming,
    /// The client would keep its connection after the answer.
    pub keeps: bool,
    /// It asks for an upgrade to WebSocket, the only one that is passed on. It has no body then.
    pub is_upgrade: bool,
    /// The client waits for a 100 before it sends the body. The field goes on to the endpoint.
    pub expects_continue: bool,
    /// The client has said `TE: trailers`.
    pub takes_trailers: bool,
    /// It has a Host field, or its target names a host. Without (HTTP/1.0), the endpoint gets it as HTTP/1.0, since
    /// an HTTP/1.1 server has to refuse it (RFC 9112, section 3.2).
    pub has_host: bool,
}

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerFacts {
    /// The status, 100 to 999.
    pub status: u16,
    /// The endpoint's version.
    pub version: HttpVersion,
    /// How its body ends. The request's method counts: the answer to HEAD has none.
    pub body: BodyFraming,
    /// The connection to the endpoint may be used again once the answer has ended.
    pub keeps: bool,
}

impl AnswerFacts {
    /// Whether another answer follows: 100, 103 and the like, not 101.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Whether the connection is no longer one of HTTP.
    pub fn is_upgrade(&self) -> bool {
        self.status == 101
    }

    /// How the answer goes to the client. `keeps`: we would keep the client's connection, for the request's body has
    /// come wholly, and nothing is being stopped.
    pub fn plan(&self, request: &RequestFacts, keeps: bool) -> AnswerPlan {
        let decodes = self.body == BodyFraming::Chunked && request.version == HttpVersion::Http10;
        let ends_with_close = decodes || self.body == BodyFraming::UntilClose;
        let after = match keeps && request.keeps && !ends_with_close {
            true => AfterAnswer::Keep,
            false => AfterAnswer::Close,
        };
        AnswerPlan {
            version: request.version,
            decodes,
            passes: !self.is_interim() || request.version == HttpVersion::Http11,
            after,
        }
    }
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAnswer {
    /// The next request may come.
    Keep,
    /// It is closed, and the client is told so.
    Close,
}

/// How an answer goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerPlan {
    /// The client's version.
    pub version: HttpVersion,
    /// The body comes in chunks and goes out without, until the connection ends: the client speaks HTTP/1.0. Else it
    /// goes out byte for byte as it comes.
    pub decodes: bool,
    /// It goes to the client at all. An interim answer does not go to one of HTTP/1.0 (RFC 9110, section 15.2).
    pub passes: bool,
    /// What becomes of the client's connection.
    pub after: AfterAnswer,
}
