//! The fields that mean something to a gateway.

/// What a field is to the gateway, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldKind {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    /// Keep-Alive, Proxy-Connection: of one connection alone, and of no use on the next one.
    OneHop,
    Te,
    Trailer,
    Upgrade,
    Expect,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    Forwarded,
    /// Another one by which a proxy tells whose request it is, or what it was before the proxy changed it. Servers trust
    /// them, so that those of a client do not pass.
    Hearsay,
    /// A name that a server may take for one of the above.
    Double,
    /// Any other one.
    Other,
}

/// The names of [`FieldKind::Hearsay`], and of whom they are.
const HEARSAY: &[&[u8]] = &[
    b"client-cert",
    b"client-cert-chain",
    b"client-ip",
    b"cf-connecting-ip",
    b"front-end-https",
    b"true-client-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"x-forwarded",
    b"x-forwarded-port",
    b"x-forwarded-prefix",
    b"x-forwarded-protocol",
    b"x-forwarded-scheme",
    b"x-forwarded-server",
    b"x-forwarded-ssl",
    b"x-original-host",
    b"x-original-url",
    b"x-real-ip",
    b"x-rewrite-url",
];

/// The other names that no [`FieldKind::Double`] may stand for. (A server that folds names would take `Content_Length`
/// for the length of the body.)
const FOLDED: &[&[u8]] = &[
    b"content-length",
    b"transfer-encoding",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
];

impl FieldKind {
    /// The kind of a name. `is_odd`: it has an octet that is no letter, digit or hyphen.
    pub(super) fn of(name: &[u8], is_odd: bool) -> Self {
        if is_odd {
            return match is_double(name) {
                true => Self::Double,
                false => Self::Other,
            };
        }
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        let kind = match name.len() {
            2 if is(b"te") => Self::Te,
            4 if is(b"host") => Self::Host,
            6 if is(b"expect") => Self::Expect,
            7 if is(b"trailer") => Self::Trailer,
            7 if is(b"upgrade") => Self::Upgrade,
            9 if is(b"forwarded") => Self::Forwarded,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"keep-alive") => Self::OneHop,
            14 if is(b"content-length") => Self::ContentLength,
            15 if is(b"x-forwarded-for") => Self::XForwardedFor,
            16 if is(b"x-forwarded-host") => Self::XForwardedHost,
            16 if is(b"proxy-connection") => Self::OneHop,
            17 if is(b"x-forwarded-proto") => Self::XForwardedProto,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            _ => Self::Other,
        };
        match kind {
            Self::Other if is_hearsay(name) => Self::Hearsay,
            kind => kind,
        }
    }
}

fn is_hearsay(name: &[u8]) -> bool {
    // Most names begin with another letter.
    let (Some(first), 9..=20) = (name.first(), name.len()) else {
        return false;
    };
    matches!(first | 0x20, b'c' | b'f' | b't' | b'x')
        && HEARSAY.iter().any(|it| name.eq_ignore_ascii_case(it))
}

/// Whether a name differs from one that counts by what is no letter and no digit alone, as `_` in place of `-`. CGI, WSGI
/// and PHP make one variable of both.
fn is_double(name: &[u8]) -> bool {
    let folds_into = |other: &[u8]| {
        name.len() == other.len()
            && name.iter().zip(other).all(|(octet, other)| {
                let is_letter = octet.is_ascii_alphanumeric();
                octet.to_ascii_lowercase() == *other || (!is_letter && *other == b'-')
            })
    };
    let mut counts = FOLDED.iter().chain(HEARSAY);
    counts.any(|it| folds_into(it))
}

/// Fields that go from one end to the other whatever Connection says, for a server or a cache behind would decide
/// otherwise without them: the names that RFC 9110, section 7.6.1, says must not be named there, and the like.
pub(super) fn is_end_to_end(name: &[u8]) -> bool {
    const NAMES: &[&[u8]] = &[
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-length",
        b"content-location",
        b"content-range",
        b"content-type",
        b"cookie",
        b"date",
        b"etag",
        b"expect",
        b"host",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"location",
        b"origin",
        b"range",
        b"referer",
        b"set-cookie",
        b"transfer-encoding",
        b"vary",
        b"www-authenticate",
    ];
    NAMES.iter().any(|it| name.eq_ignore_ascii_case(it))
}

/// Whether a field may come after a body. Those that say how a message is framed, where it goes, who sent it, or how its
/// body is to be read may not (RFC 9110, section 6.5.1): who has read the head has decided already.
pub(super) fn may_trail(name: &[u8], kind: FieldKind) -> bool {
    const NAMES: &[&[u8]] = &[
        b"accept-encoding",
        b"age",
        b"authentication-info",
        b"expires",
        b"max-forwards",
        b"pragma",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"retry-after",
        b"warning",
        b"x-fairway-error",
    ];
    // An `etag` is one of the few that a sender learns only at the end.
    let is_of_head = is_end_to_end(name) && !name.eq_ignore_ascii_case(b"etag");
    kind == FieldKind::Other && !is_of_head && !NAMES.iter().any(|it| name.eq_ignore_ascii_case(it))
}
