//! Who has sent a message, and so how strictly it is read.

/// Whose message it is, and so what is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A client: nothing is. What endpoints could read in another way is refused.
    Client,
    /// An endpoint: what has one meaning, and nginx and HAProxy take, too, is written as it should be. A lone LF ends a
    /// line (RFC 9112, section 2.2), and equal lengths are one (section 6.3).
    Endpoint,
}

/// How many bytes end a line here; none where nothing does.
pub(super) fn line_end(text: &[u8], sender: Sender) -> Option<usize> {
    match (text, sender) {
        ([b'\r', b'\n', ..], _) => Some(2),
        ([b'\n', ..], Sender::Endpoint) => Some(1),
        _ => None,
    }
}
