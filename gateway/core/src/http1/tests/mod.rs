//! The rules, each with the inputs that it is about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod bodies;
mod properties;
mod requests;
mod scanning;
mod writing;

use super::*;

/// A client that is not trusted, over a connection in the clear.
pub(super) const CLIENT: EndpointHop = EndpointHop {
    origin: RequestOrigin {
        peer: std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7)),
        is_trusted: false,
        scheme: ClientScheme::Http,
    },
    closes: false,
};

/// Reads the request that the bytes begin with, and hands it to `look`.
pub(super) fn with_request<T>(
    bytes: &[u8],
    look: impl FnOnce(&RequestHead<'_>) -> T,
) -> Result<(T, usize), HeadDefect> {
    let limits = HeadLimits::default();
    let mut table = FieldTable::default();
    match HeadScan::default().request(bytes, &limits)? {
        HeadProgress::Complete(length) => {
            let head = RequestHead::parse(&bytes[..length], &limits, &mut table)?;
            Ok((look(&head), length))
        }
        other => panic!("{other:?}: {:?}", String::from_utf8_lossy(bytes)),
    }
}

/// What is known of a request.
pub(super) fn request(text: impl AsRef<[u8]>) -> Result<RequestFacts, HeadDefect> {
    with_request(text.as_ref(), |head| *head.facts()).map(|(facts, _)| facts)
}

/// The head that an endpoint gets.
pub(super) fn passed_on(text: impl AsRef<[u8]>, hop: &EndpointHop) -> String {
    let text = text.as_ref();
    let written = with_request(text, |head| {
        let mut out = Vec::new();
        head.write(hop, &mut out);
        out
    });
    let written = written.unwrap_or_else(|defect| panic!("{defect:?}: {:?}", show(text)));
    String::from_utf8(written.0).unwrap()
}

/// Reads an answer to a request of this text.
pub(super) fn answer(asked: &str, text: impl AsRef<[u8]>) -> Result<AnswerFacts, HeadDefect> {
    told(asked, text, true).map(|(facts, _)| facts)
}

/// Reads an answer, and writes it for the client, whose connection we keep if `keeps`.
pub(super) fn told(
    asked: &str,
    text: impl AsRef<[u8]>,
    keeps: bool,
) -> Result<(AnswerFacts, String), HeadDefect> {
    let (text, limits) = (text.as_ref(), HeadLimits::default());
    let asked = request(asked).unwrap();
    let mut table = FieldTable::default();
    let HeadProgress::Complete(length) = HeadScan::default().answer(text, &limits)? else {
        panic!("{:?} is no whole head", show(text));
    };
    let head = AnswerHead::parse(&text[..length], &limits, &asked, &mut table)?;
    let facts = *head.facts();
    let mut out = Vec::new();
    head.write(&facts.plan(&asked, keeps), &mut out);
    Ok((facts, String::from_utf8(out).unwrap()))
}

pub(super) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
