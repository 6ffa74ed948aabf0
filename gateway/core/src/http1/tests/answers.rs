//! Which answers are taken, and what a client gets of them.

use super::BodyFraming::{Chunked, Length, None, UntilClose};
use super::HeadDefect::*;
use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
const OLD_KEPT: &str = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn malformed_answers_are_refused() {
    for (text, defect) in [
        ("HTTP/1.1 200 OK\r\nA: b\r\r\n\r\n", LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", LineEnd),
        ("HTTP/1.1 200 O\0K\r\n\r\n", LineEnd),
        ("HTTP/1.1  200 OK\r\n\r\n", Status),
        ("HTTP/1.1 20 OK\r\n\r\n", Status),
        ("HTTP/1.1 2000 OK\r\n\r\n", Status),
        ("HTTP/1.1 099 OK\r\n\r\n", Status),
        ("HTTP/1.1 +20 OK\r\n\r\n", Status),
        ("HTTP/1.1 2x0 OK\r\n\r\n", Status),
        ("HTTP/1.1\r\n\r\n", Status),
        ("HTTP/1.1 \r\n\r\n", Status),
        ("HTTP/1.x 200 OK\r\n\r\n", Version),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", FieldName),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Folded),
        ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", FieldValue),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
            ContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 05, 5,\r\n\r\n",
            ContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            ContentLength,
        ),
        (
            "HTTP/1.1 204 No\r\nContent-Length: x\r\n\r\n",
            ContentLength,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            UnknownCoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            TransferEncoding,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            TransferEncoding,
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            OldTransferEncoding,
        ),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", Upgrade),
    ] {
        assert_eq!(answer(GET, text), Err(defect), "{text:?}");
    }
}

#[test]
fn a_body_is_framed_by_method_status_and_fields() {
    for (asked, text, body, keeps) in [
        (
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            Length(5),
            true,
        ),
        (
            GET,
            "HTTP/1.1 200\r\nContent-Length: 5\r\n",
            Length(5),
            true,
        ),
        (
            GET,
            "HTTP/1.1 200 \r\nContent-Length: 5\r\n",
            Length(5),
            true,
        ),
        (GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", None, true),
        (
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            Chunked,
            true,
        ),
        (GET, "HTTP/1.1 200 OK\r\n", UntilClose, false),
        (
            GET,
            "HTTP/1.1 999 OK\r\nContent-Length: 1\r\n",
            Length(1),
            true,
        ),
        (GET, "HTTP/1.1 204 No\r\n", None, true),
        (GET, "HTTP/1.1 204 No\r\nContent-Length: 5\r\n", None, true),
        (
            GET,
            "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n",
            None,
            true,
        ),
        (GET, "HTTP/1.1 304 No\r\nContent-Length: 5\r\n", None, true),
        (GET, "HTTP/1.1 100 Continue\r\n", None, true),
        (GET, "HTTP/1.1 103 Early\r\nLink: a\r\n", None, true),
        (HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", None, true),
        (
            HEAD,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            None,
            true,
        ),
        (HEAD, "HTTP/1.1 200 OK\r\n", None, true),
        (
            UPGRADE,
            "HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            None,
            false,
        ),
        (
            UPGRADE,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            Length(5),
            true,
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n",
            Length(5),
            false,
        ),
        (
            GET,
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n",
            Length(5),
            false,
        ),
        (
            GET,
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n",
            Length(5),
            true,
        ),
        // RFC 9112, section 6.3: whoever sends both is not understood any longer.
        (
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            Chunked,
            false,
        ),
    ] {
        let facts = answer(asked, format!("{text}\r\n")).unwrap();
        assert_eq!(
            (facts.body, facts.keeps),
            (body, keeps),
            "{asked:?} {text:?}"
        );
    }
}

#[test]
fn a_client_gets_what_its_version_has() {
    let rows: &[(&str, &str, bool, &str)] = &[
        // asked, answered, whether we keep the connection, what the client gets
        (
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n",
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            false,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: close\r\n",
        ),
        (
            GET,
            "HTTP/1.0 200\r\nContent-Length: 5\r\nConnection: close\r\n",
            true,
            "HTTP/1.1 200 \r\nContent-Length: 5\r\n",
        ),
        (
            OLD,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: close\r\n",
        ),
        (
            OLD_KEPT,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nconnection: keep-alive\r\n",
        ),
        // HTTP/1.0 has no chunks, and no trailers.
        (
            OLD_KEPT,
            "HTTP/1.1 200 OK\r\nTrailer: a\r\nTransfer-Encoding: chunked\r\n",
            true,
            "HTTP/1.1 200 OK\r\nconnection: close\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nTrailer: a\r\nTransfer-Encoding: chunked\r\n",
            true,
            "HTTP/1.1 200 OK\r\nTrailer: a\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nTrailer: a\r\nContent-Length: 5\r\n",
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            true,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\n",
            true,
            "HTTP/1.1 200 OK\r\nconnection: close\r\n",
        ),
        // What is of the endpoint's connection stays behind.
        (
            GET,
            "HTTP/1.1 200 OK\r\nConnection: x, date\r\nX: 1\r\nDate: d\r\nKeep-Alive: timeout=5\r\n\
               Proxy-Connection: close\r\nUpgrade: h2c\r\nContent-Length: 0\r\n",
            true,
            "HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\n",
        ),
        // No length where there is no body to come.
        (
            GET,
            "HTTP/1.1 204 No\r\nContent-Length: 0\r\n",
            true,
            "HTTP/1.1 204 No\r\n",
        ),
        (
            GET,
            "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n",
            true,
            "HTTP/1.1 204 No\r\n",
        ),
        (
            GET,
            "HTTP/1.1 304 No\r\nContent-Length: 5\r\n",
            true,
            "HTTP/1.1 304 No\r\nContent-Length: 5\r\n",
        ),
        (
            HEAD,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            true,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        ),
        (
            HEAD,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
            true,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
        ),
        // Interim ones say nothing of the connection.
        (
            GET,
            "HTTP/1.1 103 Early\r\nLink: a\r\n",
            false,
            "HTTP/1.1 103 Early\r\nLink: a\r\n",
        ),
        (
            UPGRADE,
            "HTTP/1.1 101 Up\r\nConnection: upgrade\r\nUpgrade: websocket\r\nA: b\r\n",
            true,
            "HTTP/1.1 101 Up\r\nUpgrade: websocket\r\nA: b\r\nconnection: Upgrade\r\n",
        ),
        (
            GET,
            "HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n",
            true,
            "HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n",
        ),
    ];
    for (asked, text, keeps, wanted) in rows {
        let (_, written) = told(asked, format!("{text}\r\n"), *keeps).unwrap();
        assert_eq!(written, format!("{wanted}\r\n"), "{asked:?} {text:?}");
    }
}

#[test]
fn an_answer_is_planned_by_both_sides() {
    let plan = |asked: &str, text: &str, keeps| {
        let facts = answer(asked, format!("{text}\r\n\r\n")).unwrap();
        facts.plan(&request(asked).unwrap(), keeps)
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked";
    assert!(plan(OLD_KEPT, chunked, true).decodes);
    assert_eq!(plan(OLD_KEPT, chunked, true).after, AfterAnswer::Close);
    assert!(!plan(GET, chunked, true).decodes);
    assert_eq!(plan(GET, chunked, true).after, AfterAnswer::Keep);
    assert_eq!(plan(GET, chunked, false).after, AfterAnswer::Close);
    assert_eq!(plan(GET, "HTTP/1.1 200 OK", true).after, AfterAnswer::Close);
    // The endpoint's connection ends, and the client's need not.
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1";
    assert_eq!(plan(GET, closing, true).after, AfterAnswer::Keep);
    assert!(plan(GET, "HTTP/1.1 100 Continue", true).passes);
    assert!(!plan(OLD, "HTTP/1.1 103 Early", true).passes);
    assert!(plan(OLD, "HTTP/1.1 200 OK", true).passes);
}

#[test]
fn what_servers_do_and_has_one_meaning_is_put_right() {
    for (text, wanted) in [
        (
            "HTTP/1.1 200 OK\nContent-Length: 5\nA:b\n\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nA:  b \nContent-Length: 0\r\n\n",
            "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\nContent-Length: 05\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 5\r\n\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        ),
        (
            "HTTP/1.1 204 No\r\nContent-Length: 0, 0\r\n\r\n",
            "HTTP/1.1 204 No\r\n\r\n",
        ),
    ] {
        assert_eq!(told(GET, text, true).unwrap().1, wanted, "{text:?}");
    }
}
