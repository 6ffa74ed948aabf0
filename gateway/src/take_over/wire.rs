//! The messages between two processes of which one takes over from the other, as bytes.
//!
//! A message is a header of 12 bytes (how long its text is, how many bytes follow the text, how many descriptors come
//! with it, each as 32 bits in network byte order), its text (JSON: a kind, whether it asks for an answer, a body) and
//! its bytes. A kind that is not known is no error: whoever asks is answered that nothing of it was taken. So a process
//! may say more than the other one knows, and an upgrade can be taken back.

use std::collections::BTreeMap;

use fairway_config::view::Readiness;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bgp::handed::{BfdPlace, HandedRouter, HandedRoutes};
use crate::handed::{
    HandedConnection, HandedFlow, HandedHealth, HandedPort, HandedSegment, OfferedSocket,
};

/// The version of all of this. Another one is not understood at all; what can be added is not counted here.
pub(crate) const PROTOCOL: u32 = 1;

/// Bytes of a header.
pub(crate) const HEADER: usize = 12;

/// The most descriptors of one message: fewer than the kernel lets pass at once (`SCM_MAX_FD`, 253).
pub(crate) const DESCRIPTORS: usize = 240;

/// The most bytes of the text, and of what follows it.
const TEXT: usize = 4 << 20;
const BYTES: usize = 8 << 20;

/// What one process tells the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "camelCase")]
pub(crate) enum HandoverMessage {
    /// The successor asks to take over.
    Hello(Introduction),
    /// The predecessor does not hand over, and says why.
    Refused {
        why: String,
        /// It would later, should it be told to stop: to be asked again. How it is now.
        #[serde(default)]
        stands_by: Option<Readiness>,
    },
    /// A process that does not take over now asks how the one is that serves. The UID of its Pod.
    Look { pod: Option<String> },
    /// The answer.
    Serves {
        /// How it is.
        readiness: Readiness,
        /// It is to stop, and waits for the one that asks.
        gives_way: bool,
    },
    /// The predecessor begins to hand over.
    Welcome(Introduction),
    /// Descriptors of the predecessor that have names.
    Named { names: Vec<String> },
    /// Listening sockets of the predecessor.
    Sockets { sockets: Vec<OfferedSocket> },
    /// There are no more of both.
    Offered,
    /// The successor reads what it is to serve.
    Preparing,
    /// The successor can serve.
    Prepared,
    /// The successor accepts TCP connections from now on.
    Accept,
    /// It takes datagrams from now on.
    Receive,
    /// Connections: their descriptors and bytes come with it. To be left alone until [`Self::Yours`].
    Connections { connections: Vec<HandedConnection> },
    /// UDP flows, likewise.
    Flows { flows: Vec<HandedFlow> },
    /// An answer: which of them the successor takes.
    Taken { taken: Vec<bool> },
    /// Those that the successor takes are its own now.
    Yours,
    /// Which endpoints clients of a port were given. The bytes that come with it say so (`memory`).
    Affinity(HandedPort),
    /// How fast clients of a port have been. The bytes that come with it say so.
    Buckets(HandedPort),
    /// What is known of endpoints of a port.
    Health {
        port: HandedPort,
        endpoints: Vec<HandedHealth>,
    },
    /// The interfaces that the predecessor announces on, for the successor to open them.
    Announces { interfaces: Vec<String> },
    /// What a router has been told, or a part of it. Its session follows.
    RouterRoutes {
        router: String,
        routes: Vec<HandedRoutes>,
    },
    /// A session with a router; see there. Like what follows it is the successor's own with the lock, and not before:
    /// two must not write on one connection.
    Router(Box<HandedRouter>),
    /// Where packets of BFD come in, with a socket for each.
    BfdPlaces { places: Vec<BfdPlace> },
    /// The routes of the kernel: the socket by which their keeper hears its process.
    KernelRoutes {},
    /// What the gateway owns on each of them. The predecessor answers for it no more.
    Terms { segments: Vec<HandedSegment> },
    /// All is handed over. The lock of the state directory comes with it.
    Done,
    /// The successor announces. So far the predecessor has kept BFD going.
    Announcing,
}

/// Who one of the processes is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    /// See [`PROTOCOL`].
    pub(crate) protocol: u32,
    /// The version of the program.
    pub(crate) version: String,
    /// Its number, for the log.
    pub(crate) pid: u32,
    /// How long ago the clock has begun by which clients and endpoints are remembered, in nanoseconds.
    #[serde(default)]
    pub(crate) clock: Option<u64>,
    /// What both have to agree about, by name.
    #[serde(default)]
    pub(crate) agreed: BTreeMap<String, String>,
    /// The UID of the Pod that it runs in.
    #[serde(default)]
    pub(crate) pod: Option<String>,
}

/// The text of a message.
#[derive(Serialize, Deserialize)]
struct Text {
    /// It wants an answer.
    #[serde(default)]
    asks: bool,
    #[serde(flatten)]
    message: Value,
}

/// A message that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadMessage {
    /// None: a kind that this version does not know.
    pub(crate) message: Option<HandoverMessage>,
    /// It wants an answer.
    pub(crate) asks: bool,
}

/// What a header says of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageSize {
    pub(crate) text: usize,
    pub(crate) bytes: usize,
    pub(crate) descriptors: usize,
}

/// Why a message can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// It is too large.
    #[error("a message of {text} bytes of text, {bytes} bytes and {descriptors} descriptors is too large", text = .0.text, bytes = .0.bytes, descriptors = .0.descriptors)]
    TooLarge(MessageSize),
    /// Its text is not what it has to be.
    #[error("a message can't be read: {0}")]
    Text(#[from] serde_json::Error),
}

impl MessageSize {
    fn check(self) -> Result<Self, WireError> {
        let fits = self.text <= TEXT && self.bytes <= BYTES && self.descriptors <= DESCRIPTORS;
        fits.then_some(self).ok_or(WireError::TooLarge(self))
    }
}

/// The header and the text of a message that comes with that many bytes and descriptors.
///
/// # Errors
/// It would be too large.
pub(crate) fn write(
    message: &HandoverMessage,
    asks: bool,
    bytes: usize,
    descriptors: usize,
) -> Result<Vec<u8>, WireError> {
    let message = serde_json::to_value(message)?;
    let text = serde_json::to_vec(&Text { asks, message })?;
    let size = MessageSize {
        text: text.len(),
        bytes,
        descriptors,
    };
    size.check()?;
    let mut whole = Vec::with_capacity(HEADER + text.len());
    for part in [size.text, size.bytes, size.descriptors] {
        whole.extend(u32::try_from(part).unwrap_or(u32::MAX).to_be_bytes());
    }
    whole.extend(text);
    Ok(whole)
}

/// Reads a header.
///
/// # Errors
/// The message is too large.
pub(crate) fn read_header(header: [u8; HEADER]) -> Result<MessageSize, WireError> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = header;
    let number = |bytes| usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX);
    let size = MessageSize {
        text: number([a, b, c, d]),
        bytes: number([e, f, g, h]),
        descriptors: number([i, j, k, l]),
    };
    size.check()
}

/// Reads a text.
///
/// # Errors
/// It is none, or of a kind that this version knows with a body that it does not.
pub(crate) fn read_text(text: &[u8]) -> Result<ReadMessage, WireError> {
    let Text { asks, message } = serde_json::from_slice(text)?;
    let kind = message.get("kind").cloned().unwrap_or_default();
    // A body that is wrong is an error; a kind that is not known is none.
    let is_known = serde_json::from_value::<KnownKind>(kind).is_ok();
    let message = is_known.then(|| serde_json::from_value(message));
    Ok(ReadMessage {
        message: message.transpose()?,
        asks,
    })
}

/// The kinds of [`HandoverMessage`].
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum KnownKind {
    Hello,
    Refused,
    Look,
    Serves,
    Welcome,
    Named,
    Sockets,
    Offered,
    Preparing,
    Prepared,
    Accept,
    Receive,
    Connections,
    Flows,
    Taken,
    Yours,
    Affinity,
    Buckets,
    Health,
    Announces,
    RouterRoutes,
    Router,
    BfdPlaces,
    KernelRoutes,
    Terms,
    Done,
    Announcing,
}

/// What differs between two processes that have to agree; none: nothing of what both know.
pub(crate) fn difference(here: &Introduction, there: &Introduction) -> Option<String> {
    if here.protocol != there.protocol {
        return Some(format!(
            "handing over is of version {} there and of version {} here",
            there.protocol, here.protocol
        ));
    }
    let both = here.agreed.iter().filter_map(|(name, here)| {
        let there = there.agreed.get(name)?;
        (here != there).then(|| format!("{name} is {there} there and {here} here"))
    });
    let both: Vec<String> = both.collect();
    (!both.is_empty()).then(|| both.join(", "))
}

#[cfg(test)]
mod tests;
