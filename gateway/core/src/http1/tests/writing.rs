//! What an endpoint gets of a request.

use std::net::IpAddr;

use super::*;

const SET: &str = "x-forwarded-for: 198.51.100.7\r\n\
                   x-forwarded-host: shop.example\r\nx-forwarded-proto: http\r\n\r\n";

fn hop(peer: &str, is_trusted: bool) -> EndpointHop {
    EndpointHop {
        origin: RequestOrigin {
            peer: peer.parse::<IpAddr>().unwrap(),
            is_trusted,
            scheme: ClientScheme::Http,
        },
        closes: false,
    }
}

/// The fields that an endpoint gets of these, sorted and in lower case.
fn fields(given: &str, hop: &EndpointHop) -> Vec<String> {
    let text = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{given}\r\n");
    let passed = passed_on(text, hop).to_lowercase();
    let lines = passed
        .strip_suffix("\r\n\r\n")
        .unwrap()
        .split("\r\n")
        .skip(1);
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_passes_passes_byte_for_byte() {
    let text = "GET /a?b HTTP/1.1\r\nuser-AGENT:x\r\nHost: shop.example\r\nA:  b\t c \r\nA: \u{e4}\r\n\
                Empty:\r\n";
    assert_eq!(
        passed_on(format!("{text}\r\n"), &CLIENT),
        format!("{text}{SET}")
    );
    let text =
        "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    assert_eq!(
        passed_on(format!("{text}\r\n"), &CLIENT),
        format!("{text}{SET}")
    );
    let text =
        "POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: Chunked\r\nTrailer: a\r\n";
    assert_eq!(
        passed_on(format!("{text}\r\n"), &CLIENT),
        format!("{text}{SET}")
    );
}

#[test]
fn the_target_goes_on_in_origin_form_and_every_version_as_1_1() {
    for (line, wanted) in [
        ("GET / HTTP/1.0", "GET / HTTP/1.1"),
        ("GET / HTTP/1.2", "GET / HTTP/1.1"),
        ("GET //a HTTP/1.1", "GET //a HTTP/1.1"),
        (
            "GET http://Shop.Example:80/a?b HTTP/1.1",
            "GET /a?b HTTP/1.1",
        ),
        ("GET http://shop.example HTTP/1.1", "GET / HTTP/1.1"),
        ("GET http://shop.example?a HTTP/1.1", "GET /?a HTTP/1.1"),
        ("OPTIONS http://shop.example HTTP/1.1", "OPTIONS * HTTP/1.1"),
        (
            "OPTIONS http://shop.example/ HTTP/1.1",
            "OPTIONS / HTTP/1.1",
        ),
        (
            "OPTIONS http://shop.example?a HTTP/1.1",
            "OPTIONS /?a HTTP/1.1",
        ),
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
        ("get /<>\"|{}[]^`\\ HTTP/1.1", "get /<>\"|{}[]^`\\ HTTP/1.1"),
    ] {
        let passed = passed_on(format!("{line}\r\nHost: shop.example\r\n\r\n"), &CLIENT);
        assert_eq!(
            passed,
            format!("{wanted}\r\nHost: shop.example\r\n{SET}"),
            "{line}"
        );
    }
}

#[test]
fn a_request_without_host_stays_one_of_http_1_0() {
    let tail = "x-forwarded-for: 198.51.100.7\r\nx-forwarded-proto: http\r\n\r\n";
    assert_eq!(
        passed_on("GET / HTTP/1.0\r\n\r\n", &CLIENT),
        format!("GET / HTTP/1.0\r\nconnection: keep-alive\r\n{tail}")
    );
    let closing = EndpointHop {
        closes: true,
        ..CLIENT
    };
    assert_eq!(
        passed_on("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &closing),
        format!("GET / HTTP/1.0\r\nconnection: close\r\n{tail}")
    );
    // The target names one.
    assert_eq!(
        passed_on("GET http://shop.example/a HTTP/1.0\r\n\r\n", &CLIENT),
        format!("GET /a HTTP/1.1\r\nhost: shop.example\r\n{SET}")
    );
}

#[test]
fn what_is_of_one_connection_stays_behind() {
    let own =
        "x-forwarded-for: 198.51.100.7\nx-forwarded-host: shop.example\nx-forwarded-proto: http";
    for (given, kept) in [
        (
            "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
            vec![],
        ),
        ("Proxy-Connection: keep-alive\r\n", vec![]),
        ("Connection: close\r\n", vec![]),
        ("Connection: x, Y\r\nX: 1\r\ny: 2\r\nz: 3\r\n", vec!["z: 3"]),
        ("X: 1\r\nConnection: a\r\nConnection: x\r\n", vec![]),
        ("TE: gzip\r\nConnection: te\r\n", vec![]),
        (
            "TE: gzip, trailers;q=1, Trailers\r\n",
            vec!["connection: te", "te: trailers"],
        ),
        (
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: a\r\n",
            vec![],
        ),
        // Nothing is announced that can't come.
        ("Trailer: a\r\n", vec![]),
        (
            "Trailer: a\r\nContent-Length: 3\r\n",
            vec!["content-length: 3"],
        ),
        // What has to reach the endpoint, whatever Connection says.
        (
            "Connection: host, content-length, cookie, authorization\r\nContent-Length: 3\r\nCookie: a\r\n\
          Authorization: b\r\n",
            vec!["authorization: b", "content-length: 3", "cookie: a"],
        ),
        (
            "Connection: transfer-encoding, expect\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
            vec!["expect: 100-continue", "transfer-encoding: chunked"],
        ),
        (
            "Connection: x-forwarded-for, x-forwarded-proto, x-real-ip\r\n",
            vec![],
        ),
    ] {
        let mut wanted = kept.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        wanted.push("host: shop.example".into());
        wanted.extend(own.lines().map(str::to_owned));
        wanted.sort();
        assert_eq!(fields(given, &CLIENT), wanted, "{given}");
    }
}

#[test]
fn an_endpoint_is_asked_to_close_where_its_connection_is_one_clients() {
    let closing = EndpointHop {
        closes: true,
        ..CLIENT
    };
    let passed = fields("Connection: keep-alive\r\n", &closing);
    assert!(
        passed.contains(&"connection: close".to_owned()),
        "{passed:?}"
    );
    let passed = fields("TE: trailers\r\n", &closing);
    assert!(
        passed.contains(&"connection: close, te".to_owned()),
        "{passed:?}"
    );
}

const SAID: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.example\r\n\
                    X-Forwarded-Port: 443\r\nX-Real-IP: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n\
                    True-Client-IP: 192.0.2.1\r\nX-Client-IP: 192.0.2.1\r\nX-Forwarded-Scheme: https\r\n\
                    X-Forwarded-Prefix: /a\r\nX-Original-URL: /b\r\nX-Rewrite-URL: /c\r\nClient-Cert: :d:\r\n";

#[test]
fn what_a_client_says_of_itself_is_replaced() {
    assert_eq!(
        fields(SAID, &hop("198.51.100.7", false)),
        [
            "host: shop.example",
            "x-forwarded-for: 198.51.100.7",
            "x-forwarded-host: shop.example",
            "x-forwarded-proto: http",
        ]
    );
    let https = EndpointHop {
        origin: RequestOrigin {
            scheme: ClientScheme::Https,
            ..hop("2001:db8::7", false).origin
        },
        closes: false,
    };
    let passed = fields("X-Forwarded-Proto: http\r\n", &https);
    assert!(
        passed.contains(&"x-forwarded-proto: https".to_owned()),
        "{passed:?}"
    );
    assert!(
        passed.contains(&"x-forwarded-for: 2001:db8::7".to_owned()),
        "{passed:?}"
    );
}

#[test]
fn what_a_trusted_proxy_says_is_kept_and_its_address_is_added() {
    assert_eq!(
        fields(SAID, &hop("198.51.100.7", true)),
        [
            "client-cert: :d:",
            "forwarded: for=192.0.2.1, for=198.51.100.7;proto=http",
            "host: shop.example",
            "true-client-ip: 192.0.2.1",
            "x-client-ip: 192.0.2.1",
            "x-forwarded-for: 192.0.2.1, 198.51.100.7",
            "x-forwarded-host: www.example",
            "x-forwarded-port: 443",
            "x-forwarded-prefix: /a",
            "x-forwarded-proto: https",
            "x-forwarded-scheme: https",
            "x-original-url: /b",
            "x-real-ip: 192.0.2.1",
            "x-rewrite-url: /c",
        ]
    );
    let lines = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2, 192.0.2.3\r\n\
                 X-Forwarded-For:\r\nForwarded: for=a\r\nForwarded: for=b\r\n";
    assert_eq!(
        fields(lines, &hop("2001:db8::7", true)),
        [
            "forwarded: for=a, for=b, for=\"[2001:db8::7]\";proto=http",
            "host: shop.example",
            "x-forwarded-for: 192.0.2.1, 192.0.2.2, 192.0.2.3, 2001:db8::7",
            "x-forwarded-host: shop.example",
            "x-forwarded-proto: http",
        ]
    );
}

#[test]
fn a_trusted_proxy_that_says_nothing_is_the_client() {
    let passed = |is_trusted| fields("", &hop("198.51.100.7", is_trusted));
    assert_eq!(passed(true), passed(false));
}

#[test]
fn names_that_fold_into_a_trusted_one_never_pass() {
    let doubles = "X_Forwarded_For: 192.0.2.1\r\nX-Forwarded_For: 192.0.2.1\r\nX.Forwarded.For: 192.0.2.1\r\n\
                   x_forwarded_proto: https\r\nX_Forwarded_Host: www.example\r\nX_Forwarded-Port: 443\r\n\
                   X_REAL_IP: 192.0.2.1\r\nTrue_Client_IP: a\r\nX_Original_URL: /a\r\nX+Rewrite+URL: /b\r\n\
                   Content_Length: 5\r\nTransfer_Encoding: chunked\r\nClient_Cert: :a:\r\n";
    for is_trusted in [false, true] {
        assert_eq!(
            fields(doubles, &hop("198.51.100.7", is_trusted)),
            fields("", &CLIENT)
        );
    }
    // Names that mean something else stay.
    let others = "X_Other: 1\r\nX-Forwarded-Form_: 2\r\nX_For: 3\r\nX-Forwarded-Other: 4\r\n";
    assert_eq!(fields(others, &CLIENT).len(), 8);
}

#[test]
fn own_answers_name_their_reason_and_have_no_body_for_head() {
    let facts = |text: &str| request(text).unwrap();
    let get = facts("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = facts("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let old = facts("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let written = |answer: OwnAnswer, request, after| {
        let mut out = Vec::new();
        answer.write(request, after, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written(OwnAnswer::NoEndpoint, Some(&get), AfterAnswer::Close),
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: 60\r\ncache-control: no-store\r\nx-fairway-error: no_endpoint\r\n\
         connection: close\r\n\r\nno_endpoint: The Service has no endpoint that could answer.\n"
    );
    let short = written(OwnAnswer::NoEndpoint, Some(&head), AfterAnswer::Keep);
    assert!(short.ends_with("no_endpoint\r\n\r\n"), "{short}");
    let kept = written(OwnAnswer::Overloaded, Some(&old), AfterAnswer::Keep);
    assert!(kept.contains("connection: keep-alive\r\n"), "{kept}");
    let all = [
        OwnAnswer::BadRequest,
        OwnAnswer::MethodNotAllowed,
        OwnAnswer::RequestTimeout,
        OwnAnswer::BodyTooLarge,
        OwnAnswer::TargetTooLong,
        OwnAnswer::TooManyRequests,
        OwnAnswer::HeadTooLarge,
        OwnAnswer::UnknownCoding,
        OwnAnswer::UnknownVersion,
        OwnAnswer::NoEndpoint,
        OwnAnswer::ConnectRefused,
        OwnAnswer::ConnectTimeout,
        OwnAnswer::ConnectFailed,
        OwnAnswer::UpstreamReset,
        OwnAnswer::UpstreamTimeout,
        OwnAnswer::UpstreamProtocol,
        OwnAnswer::Overloaded,
        OwnAnswer::Internal,
    ];
    let mut codes: Vec<&str> = all.iter().map(|it| it.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), all.len());
    for it in all {
        let text = written(it, None, AfterAnswer::Close);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {} ", it.status())),
            "{head}"
        );
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{text}"
        );
        // It is an answer that we would take ourselves.
        let read = answer("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &text).unwrap();
        assert_eq!((read.status, read.keeps), (it.status(), false));
    }
}
