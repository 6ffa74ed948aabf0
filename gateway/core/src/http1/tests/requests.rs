//! Which requests are taken, and what is known of them.

use super::HeadDefect::*;
use super::*;

/// A request line and fields, as a request of HTTP/1.1 with a Host.
fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn malformed_request_lines_and_fields_are_refused() {
    let rows: &[(&str, HeadDefect)] = &[
        // Ends of lines.
        ("GET / HTTP/1.1\nHost: a\n\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\r\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", LineEnd),
        ("GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n", LineEnd),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", LineEnd),
        ("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", LineEnd),
        ("\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", LineEnd),
        // Spaces.
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Target),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Version),
        ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", Version),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", FirstLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        // What is no request line.
        ("\u{16}\u{3}\u{1} is TLS\r\n\r\n", Method),
        ("\0\r\n\r\n", Method),
        ("GET\r\n\r\n", FirstLine),
        ("GET /\r\n\r\n", FirstLine),
        ("GET / \r\n\r\n", Version),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        ("GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        (": / HTTP/1.1\r\nHost: a\r\n\r\n", Method),
        // Versions.
        ("GET / HTTP/1\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/1.\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/1.11\r\nHost: a\r\n\r\n", Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/1,1\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/x.1\r\nHost: a\r\n\r\n", Version),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", MajorVersion),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", MajorVersion),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", MajorVersion),
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", MajorVersion),
        // Fields.
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nA\t: b\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nA(b): c\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\nA\0: c\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\nHost: a\r\n\u{e4}: c\r\n\r\n", FieldName),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\tc\r\n\r\n", Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n \r\n\r\n", Folded),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n", FieldValue),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: \u{1}\r\n\r\n", FieldValue),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\u{7f}\r\n\r\n",
            FieldValue,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nA: b\u{b}c\r\n\r\n",
            FieldValue,
        ),
        ("GET / HTTP/1.1\r\nHost: a\u{0}\r\n\r\n", FieldValue),
        // Methods that are not served.
        ("CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n", Connect),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Connect),
    ];
    for (text, defect) in rows {
        assert_eq!(request(text), Err(*defect), "{}", show(text.as_bytes()));
    }
}

#[test]
fn a_target_is_taken_or_refused_by_its_form_and_octets() {
    let line = |method: &str, target: &str| {
        let host = if target.contains("://") {
            "a.example"
        } else {
            "a"
        };
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    };
    for target in [
        "/",
        "//",
        "/a/../b",
        "/%00",
        "/%",
        "/?",
        "/a?b=c&d[]=e",
        "/;x",
        "/:a@b",
        "/\u{e4}",
        "/*",
        // Not of RFC 3986, and taken by nginx and HAProxy.
        "/\"",
        "/<",
        "/>",
        "/|",
        "/{",
        "/}",
        "/[",
        "/]",
        "/^",
        "/`",
        "/\\",
        "/?\"<>|{}[]^`\\",
        "http://a.example",
        "http://a.example/",
        "http://a.example?b",
        "HTTP://a.example/",
        "https://a.example:443/",
        "http://a.example:80/x",
        "http://A.Example/",
    ] {
        assert!(request(line("GET", target)).is_ok(), "{target:?}");
    }
    for target in [
        "a",
        "?a",
        "*",
        "*/",
        "a/b",
        "#",
        "/#",
        "/a#b",
        "/\u{1}",
        "/\u{7f}",
        "/a\u{0}",
        "/\u{1f}",
        "http:/a.example/",
        "http://",
        "http:///",
        "http://:80/",
        "ftp://a.example/",
        "a.example:80",
        "http://a.example:x/",
        "http://u@a.example/",
        "http://a.example\\b/",
        "http://[::1/",
        "http://a,b/",
        "http://a.example:123456/",
        "mailto:a@b",
    ] {
        assert_eq!(request(line("GET", target)), Err(Target), "{target:?}");
    }
    assert!(request(line("OPTIONS", "*")).is_ok());
    assert!(request(line("OPTIONS", "http://a.example")).is_ok());
    assert_eq!(request(line("POST", "*")), Err(Target));
}

#[test]
fn a_request_has_one_host() {
    let rows: &[(&str, Option<HeadDefect>)] = &[
        ("GET / HTTP/1.1\r\n\r\n", Some(NoHost)),
        ("GET http://a/ HTTP/1.1\r\n\r\n", Some(NoHost)),
        ("GET / HTTP/1.0\r\n\r\n", None),
        ("GET http://a/ HTTP/1.0\r\n\r\n", None),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Some(ManyHosts),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n",
            Some(ManyHosts),
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            Some(ManyHosts),
        ),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: \u{e4}\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: []\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", Some(Host)),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: \t a \t\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a_b.example.:8080\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: 192.0.2.1:1\r\n\r\n", None),
        // The target's host and Host.
        ("GET http://a/ HTTP/1.1\r\nHost: A\r\n\r\n", None),
        ("GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET http://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n", None),
        ("GET http://a:/ HTTP/1.1\r\nHost: a:80\r\n\r\n", None),
        ("GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", None),
        ("GET http://a:8080/ HTTP/1.1\r\nHost: A:8080\r\n\r\n", None),
        ("GET http://[::1]/ HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", None),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Some(TwoHosts)),
        ("GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n", Some(TwoHosts)),
        (
            "GET http://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n",
            Some(TwoHosts),
        ),
        (
            "GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n",
            Some(TwoHosts),
        ),
        (
            "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
            Some(TwoHosts),
        ),
        (
            "GET http://[::1]/ HTTP/1.1\r\nHost: [::2]\r\n\r\n",
            Some(TwoHosts),
        ),
    ];
    for (text, defect) in rows {
        assert_eq!(request(text).err(), *defect, "{}", show(text.as_bytes()));
    }
}

#[test]
fn a_body_has_one_length() {
    use BodyFraming::{Chunked, Length, None};
    let rows: &[(&str, Result<BodyFraming, HeadDefect>)] = &[
        ("", Ok(None)),
        ("Content-Length: 0\r\n", Ok(None)),
        ("Content-Length: 5\r\n", Ok(Length(5))),
        ("Content-Length:5\r\n", Ok(Length(5))),
        ("Content-Length: \t5 \t\r\n", Ok(Length(5))),
        ("Content-Length: 0005\r\n", Ok(Length(5))),
        (
            "Content-Length: 9223372036854775807\r\n",
            Ok(Length(i64::MAX.unsigned_abs())),
        ),
        (
            "Content-Length: 9223372036854775808\r\n",
            Err(ContentLength),
        ),
        (
            "Content-Length: 99999999999999999999999\r\n",
            Err(ContentLength),
        ),
        ("Content-Length:\r\n", Err(ContentLength)),
        ("Content-Length: +5\r\n", Err(ContentLength)),
        ("Content-Length: -5\r\n", Err(ContentLength)),
        ("Content-Length: 5 5\r\n", Err(ContentLength)),
        ("Content-Length: 5, 5\r\n", Err(ContentLength)),
        ("Content-Length: 5,\r\n", Err(ContentLength)),
        ("Content-Length: 0x5\r\n", Err(ContentLength)),
        ("Content-Length: 5e1\r\n", Err(ContentLength)),
        ("Content-Length: 5.0\r\n", Err(ContentLength)),
        ("Content-Length: \u{660}\r\n", Err(ContentLength)),
        (
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            Err(ContentLength),
        ),
        (
            "Content-Length: 3\r\ncontent-length: 5\r\n",
            Err(ContentLength),
        ),
        (
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            Err(ContentLength),
        ),
        ("Transfer-Encoding: chunked\r\n", Ok(Chunked)),
        ("Transfer-Encoding: CHUNKED\r\n", Ok(Chunked)),
        ("transfer-encoding:\tchunked\t\r\n", Ok(Chunked)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(UnknownCoding)),
        (
            "Transfer-Encoding: gzip;q=1, chunked\r\n",
            Err(UnknownCoding),
        ),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            Err(UnknownCoding),
        ),
        (
            "Transfer-Encoding: chunked, chunked\r\n",
            Err(TransferEncoding),
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            Err(TransferEncoding),
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            Err(TransferEncoding),
        ),
        (
            "Transfer-Encoding: chunked, identity\r\n",
            Err(TransferEncoding),
        ),
        (
            "Transfer-Encoding: chunked, gzip\r\n",
            Err(TransferEncoding),
        ),
        ("Transfer-Encoding: gzip\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: identity\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: xchunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked;a=b\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: \"chunked\"\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: chunked,\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding: , chunked\r\n", Err(TransferEncoding)),
        ("Transfer-Encoding:\r\n", Err(TransferEncoding)),
        (
            "Transfer-Encoding: \u{e4}chunked\r\n",
            Err(TransferEncoding),
        ),
        ("Transfer-Encoding: chunked\u{b}\r\n", Err(FieldValue)),
        (
            "Content-Length: 5, 5\r\nTransfer-Encoding: chunked\r\n",
            Err(ContentLength),
        ),
    ];
    for (fields, wanted) in rows {
        let body = request(with(fields)).map(|facts| facts.body);
        assert_eq!(body, *wanted, "{fields:?}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(request(old), Err(OldTransferEncoding));
}

#[test]
fn a_request_with_both_lengths_is_refused() {
    for fields in [
        "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 60\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n",
    ] {
        assert_eq!(request(with(fields)), Err(TwoLengths), "{fields:?}");
    }
}

#[test]
fn a_connection_is_kept_as_its_version_and_fields_say() {
    for (line, connection, keeps) in [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
        ("HTTP/1.1", "Connection: Keep-Alive\r\n", true),
        ("HTTP/1.1", "Connection: keep-alive, close\r\n", false),
        ("HTTP/1.1", "Connection: x\r\nConnection: CLOSE\r\n", false),
        ("HTTP/1.2", "", true),
        ("HTTP/1.9", "Connection: close\r\n", false),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection: keep-alive\r\n", true),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n", false),
        // RFC 9112, appendix C.2.2: it says nothing of this connection.
        ("HTTP/1.0", "Proxy-Connection: keep-alive\r\n", false),
    ] {
        let text = format!("GET / {line}\r\nHost: a\r\n{connection}\r\n");
        let facts = request(&text).unwrap();
        assert_eq!(facts.keeps, keeps, "{text}");
        let version = match line {
            "HTTP/1.0" => HttpVersion::Http10,
            _ => HttpVersion::Http11,
        };
        assert_eq!(facts.version, version, "{text}");
    }
}

#[test]
fn an_upgrade_is_one_to_websocket_with_all_that_belongs_to_it() {
    let ask = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (line, fields, is_upgrade) in [
        ("GET / HTTP/1.1", ask, true),
        ("GET / HTTP/1.2", ask, true),
        (
            "GET / HTTP/1.1",
            "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n",
            true,
        ),
        ("GET / HTTP/1.1", "Upgrade: websocket\r\n", false),
        ("GET / HTTP/1.1", "Connection: upgrade\r\n", false),
        (
            "GET / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: h2c\r\n",
            false,
        ),
        (
            "GET / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
            false,
        ),
        (
            "GET / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
            false,
        ),
        ("GET / HTTP/1.0", ask, false),
        (
            "POST / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
            false,
        ),
        (
            "POST / HTTP/1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
            false,
        ),
    ] {
        let text = format!("{line}\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(request(&text).unwrap().is_upgrade, is_upgrade, "{text}");
        let passed = passed_on(&text, &CLIENT).to_lowercase();
        assert_eq!(passed.contains("upgrade: "), is_upgrade, "{passed}");
        assert_eq!(
            passed.contains("connection: upgrade"),
            is_upgrade,
            "{passed}"
        );
    }
}

#[test]
fn expectations_and_trailers_are_of_http_1_1() {
    let fields = "Expect: 100-Continue\r\nTE: gzip, trailers\r\nContent-Length: 1\r\n";
    let facts = request(with(fields)).unwrap();
    assert!(facts.expects_continue && facts.takes_trailers);
    let old = format!("POST / HTTP/1.0\r\nHost: a\r\n{fields}\r\n");
    let facts = request(&old).unwrap();
    assert!(!facts.expects_continue && !facts.takes_trailers);
    let passed = passed_on(&old, &CLIENT);
    assert!(
        !passed.contains("Expect") && !passed.contains("te:"),
        "{passed}"
    );
}

#[test]
fn methods_are_told_apart_by_case_and_unknown_ones_pass() {
    for (name, method, is_idempotent) in [
        ("GET", RequestMethod::Get, true),
        ("HEAD", RequestMethod::Head, true),
        ("OPTIONS", RequestMethod::Options, true),
        ("TRACE", RequestMethod::Trace, true),
        ("PUT", RequestMethod::Put, true),
        ("DELETE", RequestMethod::Delete, true),
        ("POST", RequestMethod::Post, false),
        ("PATCH", RequestMethod::Other, false),
        ("get", RequestMethod::Other, false),
        ("M-SEARCH", RequestMethod::Other, false),
        ("VERSION_CONTROL", RequestMethod::Other, false),
        ("connect", RequestMethod::Other, false),
    ] {
        let facts = request(format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
        assert_eq!(facts.method, method);
        assert_eq!(facts.method.is_idempotent(), is_idempotent, "{name}");
    }
}

#[test]
fn every_refusal_has_its_status() {
    for (defect, status) in [
        (TooLarge, 431),
        (TooManyFields, 431),
        (LineTooLong, 414),
        (Connect, 405),
        (MajorVersion, 505),
        (UnknownCoding, 501),
        (TransferEncoding, 400),
        (NoHost, 400),
        (LineEnd, 400),
    ] {
        assert_eq!(defect.answer().status(), status, "{defect:?}");
    }
}

#[test]
fn a_request_goes_again_only_where_nothing_can_have_been_acted_on() {
    let facts = |method: &str| request(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
    let (get, put, post) = (facts("GET"), facts("PUT"), facts("POST"));
    for (request, was_sent, was_answered, has_body, may) in [
        (&get, true, false, true, true),
        (&put, true, false, true, true),
        // Its body is gone.
        (&put, true, false, false, false),
        (&put, false, false, false, false),
        // The endpoint has begun to answer.
        (&get, true, true, true, false),
        // It may have been acted on.
        (&post, true, false, true, false),
        (&post, false, false, true, true),
    ] {
        let attempt = VainAttempt {
            was_sent,
            was_answered,
            has_body,
        };
        assert_eq!(may_retry(request, attempt), may, "{request:?} {attempt:?}");
    }
}
