#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::set_options;
use super::*;

fn check(text: &str) -> EndpointCheck {
    let check = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    (*check.unwrap()).clone()
}

fn tcp(send: &[u8], expect: &[u8]) -> CheckKind {
    CheckKind::Tcp {
        send: send.into(),
        expect: expect.into(),
    }
}

fn http(is_tls: bool, path: &str, host: Option<&str>, first: u16, last: u16) -> CheckKind {
    CheckKind::Http {
        is_tls,
        path: path.into(),
        host: host.map(Into::into),
        status: StatusCodes { first, last },
    }
}

#[test]
fn what_is_asked() {
    let table = [
        ("tcp", tcp(b"", b"")),
        (
            "tcp;send=PING\\r\\n;expect=+PONG",
            tcp(b"PING\r\n", b"+PONG"),
        ),
        (
            "tcp;send=a\\x2cb\\x3Bc\\\\;expect=\\t\\x00",
            tcp(b"a,b;c\\", b"\t\0"),
        ),
        ("tcp; expect = a=b ;", tcp(b"", b"a=b")),
        ("http:/", http(false, "/", None, 200, 399)),
        ("http:/a/b?c=d", http(false, "/a/b?c=d", None, 200, 399)),
        (
            "https:/healthz;host=a.example;status=200-299",
            http(true, "/healthz", Some("a.example"), 200, 299),
        ),
        (
            "http:/;host=a.example:8080;status=204",
            http(false, "/", Some("a.example:8080"), 204, 204),
        ),
        (
            "http:/;host=[2001:db8::1]:80",
            http(false, "/", Some("[2001:db8::1]:80"), 200, 399),
        ),
        (
            "http:/;host=192.0.2.1",
            http(false, "/", Some("192.0.2.1"), 200, 399),
        ),
        ("grpc", CheckKind::Grpc { service: "".into() }),
        (
            "grpc:shop.v1.Cart",
            CheckKind::Grpc {
                service: "shop.v1.Cart".into(),
            },
        ),
    ];
    for (text, kind) in table {
        assert_eq!(check(text), EndpointCheck::new(kind), "{text}");
    }
    assert_eq!(read("none"), Ok(None));
}

#[test]
fn how_often_and_how_long() {
    let standard = check("tcp");
    assert_eq!(
        (
            standard.interval,
            standard.timeout,
            standard.rise,
            standard.fall,
            standard.port
        ),
        (Duration::from_secs(2), Duration::from_secs(1), 2, 3, None)
    );
    let other = check("tcp;interval=500ms;rise=1;fall=10;port=8081");
    assert_eq!(other.interval, Duration::from_millis(500));
    assert_eq!(other.timeout, Duration::from_millis(250));
    assert_eq!((other.rise, other.fall, other.port), (1, 10, Some(8081)));
    let slow = check("tcp;interval=1h");
    assert_eq!(slow.interval, Duration::from_hours(1));
    assert_eq!(slow.timeout, Duration::from_secs(10));
    let exact = check("tcp;interval=3s;timeout=3s");
    assert_eq!(exact.timeout, exact.interval);
}

#[test]
fn what_cant_be_read_says_why() {
    let table = [
        ("", "must be tcp"),
        ("tpc", "must be tcp"),
        ("TCP", "must be tcp"),
        ("tcp:80", "must be tcp"),
        ("udp", "must be tcp"),
        ("none:", "must be tcp"),
        ("http", "http:/healthz"),
        ("https:healthz", "https:/healthz"),
        ("http://a.example/", "http:/healthz"),
        ("http:/a b", "path"),
        ("http:/a\r\nX: y", "path"),
        ("http:/ä", "path"),
        ("grpc:a b", "gRPC service"),
        ("none;rise=1", "none has options"),
        ("tcp;send", "'send' has no value"),
        ("tcp;send=\\q", "whose send"),
        ("tcp;send=\\x4", "whose send"),
        ("tcp;expect=a;expect=b", "'expect' twice"),
        ("tcp;host=a", "'host' is no option of tcp"),
        ("grpc;status=200", "'status' is no option of grpc"),
        ("http:/;send=a", "'send' is no option of http:/"),
        ("http:/;status=99", "whose status"),
        ("http:/;status=300-200", "whose status"),
        ("http:/;status=200-600", "whose status"),
        ("http:/;host=a b", "whose host"),
        ("http:/;host=a:0", "whose host"),
        ("tcp;interval=5", "whose interval"),
        ("tcp;interval=50ms", "whose interval"),
        ("tcp;interval=2h", "whose interval"),
        ("tcp;interval=-2s", "whose interval"),
        ("tcp;interval=99999999999s", "whose interval"),
        ("tcp;timeout=1ms", "whose timeout"),
        ("tcp;timeout=3s", "longer than its interval"),
        ("tcp;rise=0", "whose rise"),
        ("tcp;fall=1001", "whose fall"),
        ("tcp;fall=1.5", "whose fall"),
        ("tcp;port=0", "whose port"),
        ("tcp;port=65536", "whose port"),
    ];
    for (text, part) in table {
        let error = read(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

/// The checks of 80/TCP, 443/TCP and 53/UDP, and the notices.
fn of_ports(text: &str) -> ([Option<String>; 3], Vec<String>) {
    let mut ports = [
        ServicePort::new(Protocol::Tcp, 80),
        ServicePort::new(Protocol::Tcp, 443),
        ServicePort::new(Protocol::Udp, 53),
    ];
    let annotations = BTreeMap::from([(HEALTH_CHECK, text)]);
    let notices = set_options(&annotations, &mut ports);
    let notices = notices.iter().map(|it| it.message.to_string());
    let checks = ports.map(|port| {
        let check = port.options.health_check?;
        Some(check.kind.to_string())
    });
    (checks, notices.collect())
}

#[test]
fn each_port_has_its_own() {
    let some = |text: &str| Some(text.to_owned());
    let table = [
        ("", [None, None, None], 0),
        (
            "443=tcp,80=http:/healthz",
            [some("http:/healthz"), some("tcp"), None],
            0,
        ),
        (
            "443=tcp,*=http:/healthz;port=8080",
            [some("http:/healthz"), some("tcp"), some("http:/healthz")],
            0,
        ),
        ("*=tcp;port=1,443=none", [some("tcp"), None, some("tcp")], 0),
        // UDP has no check without a TCP port of its own.
        ("tcp", [some("tcp"), some("tcp"), None], 1),
        ("*=tcp,53=none", [some("tcp"), some("tcp"), None], 0),
        // What can't be read is not replaced by what is said of all ports.
        ("443=tpc,*=tcp;port=1", [some("tcp"), None, some("tcp")], 1),
        ("444=tcp", [None, None, None], 1),
    ];
    for (text, checks, notices) in table {
        let found = of_ports(text);
        assert_eq!(
            (&found.0, found.1.len()),
            (&checks, notices),
            "{text}: {:?}",
            found.1
        );
    }
    let (_, notices) = of_ports("443=tpc");
    let [notice] = &*notices else {
        panic!("{notices:?}")
    };
    assert!(
        notice.starts_with("fairway.dev/health-check has 'tpc', must be tcp")
            && notice.ends_with("no check is made of the endpoints of these ports"),
        "{notice}"
    );
    let (_, notices) = of_ports("53=tcp");
    let notice = notices.first().unwrap();
    assert!(
        notice.contains("53/UDP") && notice.contains("53/UDP=none"),
        "{notice}"
    );
}

proptest! {
    #[test]
    fn no_text_panics_and_what_is_read_is_within_bounds(text in "\\PC{0,60}|(tcp|http:/|grpc)(;(send|expect|host|status|interval|timeout|rise|fall|port)=[0-9a-z\\\\:.\\-]{0,8}){0,4}") {
        if let Ok(Some(check)) = read(&text) {
            prop_assert!((SHORTEST..=LONGEST).contains(&check.interval));
            prop_assert!(check.timeout <= check.interval && check.timeout >= SHORTEST_TIMEOUT);
            prop_assert!(check.timeout <= LONGEST_TIMEOUT);
            prop_assert!(check.rise >= 1 && check.fall >= 1 && check.port != Some(0));
            if let CheckKind::Http { path, .. } = &check.kind {
                prop_assert!(path.bytes().all(|it| it.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn any_bytes_can_be_sent(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let text: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        prop_assert_eq!(unescape(&text), Some(bytes));
    }
}
