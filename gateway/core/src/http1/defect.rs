//! What is wrong with a head or a body, one name for each rule that it breaks.

use super::own_answer::OwnAnswer;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadDefect {
    /// It is larger than it may be.
    #[error("the head is too large")]
    TooLarge,
    /// Its first line alone is larger than a head may be.
    #[error("the first line is too long")]
    LineTooLong,
    /// It has more fields than it may have.
    #[error("the head has too many fields")]
    TooManyFields,
    /// More empty lines before a request than are skipped.
    #[error("too many empty lines come before the request")]
    EmptyLines,
    /// A line ends without CR, or a CR stands without LF.
    #[error("a line does not end with CR and LF")]
    LineEnd,
    /// The first line is none of HTTP/1.
    #[error("the first line is not one of HTTP/1")]
    FirstLine,
    /// The method is no token.
    #[error("the method is malformed")]
    Method,
    /// CONNECT.
    #[error("CONNECT is not served")]
    Connect,
    /// The target is none, or has an octet that none may have.
    #[error("the target is malformed")]
    Target,
    /// The version is none.
    #[error("the version is malformed")]
    Version,
    /// The version is none of HTTP/1.
    #[error("the major version is not 1")]
    MajorVersion,
    /// The status is none.
    #[error("the status is malformed")]
    Status,
    /// A field's name is no token: empty, with a space before the colon, or without colon.
    #[error("a field's name is malformed")]
    FieldName,
    /// A field's value has a control character.
    #[error("a field's value has a control character")]
    FieldValue,
    /// A line begins with a space: obs-fold of RFC 9112, section 5.2.
    #[error("a field goes over several lines")]
    Folded,
    /// A Content-Length is no number, too large, or there is more than one.
    #[error("the Content-Length is not one number")]
    ContentLength,
    /// A Content-Length beside a Transfer-Encoding, which a server may refuse (RFC 9112, section 6.1): somebody behind us
    /// could go by the other one.
    #[error("there are both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// A Transfer-Encoding that does not end with `chunked`, has it twice, or is malformed.
    #[error("the Transfer-Encoding is malformed")]
    TransferEncoding,
    /// A transfer coding before `chunked`.
    #[error("the Transfer-Encoding has a coding other than chunked")]
    UnknownCoding,
    /// A Transfer-Encoding in a message of HTTP/1.0.
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    OldTransferEncoding,
    /// There is no Host in HTTP/1.1.
    #[error("there is no Host")]
    NoHost,
    /// There are two Hosts.
    #[error("there is more than one Host")]
    ManyHosts,
    /// The Host is none.
    #[error("the Host is malformed")]
    Host,
    /// The target names another host than Host does.
    #[error("the target and Host name two hosts")]
    TwoHosts,
    /// Connection is malformed, or names too many fields.
    #[error("the Connection field is malformed")]
    Connection,
    /// The endpoint changes the protocol, and nobody has asked for that.
    #[error("an upgrade that was not asked for")]
    Upgrade,
}

impl HeadDefect {
    /// What the client is told where a request has this defect. (Where an answer has one it is
    /// [`OwnAnswer::UpstreamProtocol`].)
    pub fn answer(self) -> OwnAnswer {
        match self {
            Self::TooLarge | Self::TooManyFields => OwnAnswer::HeadTooLarge,
            Self::LineTooLong => OwnAnswer::TargetTooLong,
            Self::Connect => OwnAnswer::MethodNotAllowed,
            Self::MajorVersion => OwnAnswer::UnknownVersion,
            Self::UnknownCoding => OwnAnswer::UnknownCoding,
            Self::EmptyLines
            | Self::LineEnd
            | Self::FirstLine
            | Self::Method
            | Self::Target
            | Self::Version
            | Self::Status
            | Self::FieldName
            | Self::FieldValue
            | Self::Folded
            | Self::ContentLength
            | Self::TwoLengths
            | Self::TransferEncoding
            | Self::OldTransferEncoding
            | Self::NoHost
            | Self::ManyHosts
            | Self::Host
            | Self::TwoHosts
            | Self::Connection
            | Self::Upgrade => OwnAnswer::BadRequest,
        }
    }
}

/// Why a body in chunks is refused. (In a request that is [`OwnAnswer::BadRequest`], in an answer
/// [`OwnAnswer::UpstreamProtocol`] or, where its head has gone out, the end of the client's connection.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkDefect {
    /// A chunk's size is empty, no number, or too large.
    #[error("a chunk's size is malformed")]
    Size,
    /// A chunk extension is malformed.
    #[error("a chunk extension is malformed")]
    Extension,
    /// There are more bytes of extensions than a body may have.
    #[error("chunk extensions are too long")]
    ExtensionsTooLong,
    /// A line ends without CR and LF.
    #[error("a line of a chunked body does not end with CR and LF")]
    LineEnd,
    /// A chunk is longer than its size.
    #[error("a chunk is longer than its size")]
    NoChunkEnd,
    /// A trailer field is malformed.
    #[error("the trailers are malformed")]
    Trailers(HeadDefect),
}
