//! HTTP/1 to the letter: what clients send and endpoints say, byte for byte, and what the other side gets.
//!
//! Malformed messages are in the corpus beside nginx and HAProxy; here are the rules about messages that pass, and one
//! request for each way of being refused.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, service, slice};
use fairway_integration::servers::{ExactPart, ExactServer};
use fairway_integration::site::{Site, at, client, server};
use fairway_integration::{clients, tests, wait};

tests![
    may run beside others;
    requests_reach_an_endpoint_byte_for_byte,
    answers_reach_a_client_as_its_version_has_them,
    what_is_refused_reaches_nobody_and_is_told_in_our_name,
    malformed_chunks_end_the_request,
    interim_answers_pass,
    an_upgraded_connection_ends_one_side_at_a_time,
    requests_that_come_together_are_answered_in_turn,
    an_endpoint_that_breaks_the_rules_is_a_502,
];

/// What Fairway adds for the client of these tests, where Host is `a`.
const ADDED: &str =
    "x-forwarded-for: 198.51.100.11\r\nx-forwarded-host: a\r\nx-forwarded-proto: http\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

struct Bench {
    site: Site,
    _fairway: Fairway,
    endpoint: ExactServer,
    to: SocketAddr,
}

impl Bench {
    fn new() -> Result<Self> {
        let site = Site::new()?;
        let endpoint = ExactServer::start(&site.farm, at(server(0), 8080))?;
        let spec = "type: LoadBalancer, ports: [{port: 80, targetPort: 8080, appProtocol: http}]";
        let manifests = all(&[
            &edge_pool(),
            &service("web", spec),
            &slice("web", 8080, &[server(0)]),
        ]);
        let fairway = Fairway::start(&site.edge, &[("web.yaml", &manifests)])?;
        let to = at(fairway.address("default/web")?.parse()?, 80);
        Ok(Self {
            site,
            _fairway: fairway,
            endpoint,
            to,
        })
    }

    fn connect(&self) -> Result<TcpStream> {
        let to = self.to;
        let stream = self
            .site
            .client
            .run(|| clients::connect_tcp_from(client(0), to))?;
        stream.set_read_timeout(Some(wait::SOON))?;
        Ok(stream)
    }

    /// The endpoint is to hear this and to answer that.
    fn expect(&self, parts: &[(&str, &str)]) {
        let parts = parts.iter().map(|(hears, says)| ExactPart {
            hears: hears.as_bytes().to_vec(),
            says: says.as_bytes().to_vec(),
            closes: false,
        });
        self.endpoint.expect(parts.collect());
    }

    /// The endpoint has heard this, and no more.
    fn heard(&self, wanted: &str) -> Result<()> {
        let came = self.endpoint.came();
        let came = String::from_utf8_lossy(&came);
        ensure!(came == wanted, "the endpoint got {came:?}, not {wanted:?}");
        Ok(())
    }
}

/// Reads exactly this, and leaves what comes behind it.
fn reads(stream: &mut TcpStream, wanted: &str) -> Result<()> {
    let mut bytes = Vec::new();
    let read = Read::take(stream, wanted.len() as u64).read_to_end(&mut bytes);
    let bytes = String::from_utf8_lossy(&bytes);
    read.with_context(|| format!("after {bytes:?}, not {wanted:?}"))?;
    ensure!(bytes == wanted, "the client got {bytes:?}, not {wanted:?}");
    Ok(())
}

/// Reads up to the end.
fn rest(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let bytes = String::from_utf8_lossy(&bytes).into_owned();
    read.with_context(|| format!("after {bytes:?}"))?;
    Ok(bytes)
}

/// A request to an endpoint that answers [`OK`]: it comes as wanted, whole and byte by byte.
fn arrives(bench: &Bench, request: &str, wanted: &str) -> Result<()> {
    for by_byte in [false, true] {
        bench.expect(&[(wanted, OK)]);
        let mut stream = bench.connect()?;
        stream.set_nodelay(true)?;
        match by_byte {
            false => stream.write_all(request.as_bytes())?,
            true => {
                for byte in request.bytes() {
                    stream.write_all(&[byte])?;
                }
            }
        }
        let mut answer = [0; 12];
        let read = stream.read_exact(&mut answer);
        bench.heard(wanted)?;
        read?;
        ensure!(&answer == b"HTTP/1.1 200", "{}", answer.escape_ascii());
    }
    Ok(())
}

fn requests_reach_an_endpoint_byte_for_byte() -> Result<()> {
    let bench = Bench::new()?;
    let plain = format!("GET / HTTP/1.1\r\nHost: a\r\n{ADDED}");
    let without_host = "x-forwarded-for: 198.51.100.11\r\nx-forwarded-proto: http\r\n\r\n";
    let rows: &[(&str, String)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", plain.clone()),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", plain.clone()),
        // Versions.
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", plain.clone()),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", plain.clone()),
        // Health checkers send such ones. HTTP/1.1 without Host is refused by servers.
        (
            "GET / HTTP/1.0\r\n\r\n",
            format!("GET / HTTP/1.0\r\nconnection: keep-alive\r\n{without_host}"),
        ),
        // Targets.
        (
            "GET /\"<>|{}[]^`\\?\"<>|{}[]^`\\ HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("GET /\"<>|{{}}[]^`\\?\"<>|{{}}[]^`\\ HTTP/1.1\r\nHost: a\r\n{ADDED}"),
        ),
        ("GET http://A/ HTTP/1.1\r\nHost: a\r\n\r\n", plain.clone()),
        (
            "GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n",
            plain.clone(),
        ),
        ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", plain.clone()),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{ADDED}"),
        ),
        // What is of one connection alone.
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x\r\nX: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: keep-alive\r\nTrailer: b\r\nUpgrade: websocket\r\n\r\n",
            plain.clone(),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            plain.clone(),
        ),
        // Who the client is.
        (
            "GET / HTTP/1.1\r\nX-Forwarded-For: 1\r\nX_Forwarded_For: 1\r\nX-Forwarded_For: 1\r\n\
             True-Client-IP: 1\r\nX-Client-IP: 1\r\nX-Real-IP: 1\r\nX-Forwarded-Scheme: https\r\n\
             X-Forwarded-Prefix: /a\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 1\r\nForwarded: for=1\r\n\
             X-Original-URL: /b\r\nX-Rewrite-URL: /c\r\nX-Forwarded-Proto: https\r\nHost: a\r\n\r\n",
            plain,
        ),
        // Bodies.
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n{ADDED}hello"),
        ),
        (
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n\
             5;a=\"b\"\r\nhello\r\n1\r\nx\r\n0\r\nT: 1\r\nContent-Length: 9\r\nX_Real_IP: 1\r\n\r\n",
            format!(
                "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n{ADDED}\
                 5;a=\"b\"\r\nhello\r\n1\r\nx\r\n0\r\nT: 1\r\n\r\n"
            ),
        ),
    ];
    for (request, wanted) in rows {
        arrives(&bench, request, wanted).with_context(|| format!("{request:?}"))?;
    }
    Ok(())
}

fn answers_reach_a_client_as_its_version_has_them() -> Result<()> {
    let bench = Bench::new()?;
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    let (get, takes_trailers, head, old, kept_old) = (
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    );
    let same = |text: &str| (text.to_owned(), text.to_owned());
    let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
    // What is asked, what is answered and what of it comes, and whether the client's connection goes on.
    let rows: Vec<(&str, (String, String), bool)> = vec![
        (get, same(OK), true),
        (
            get,
            same(&format!("{chunked}\r\n2\r\nok\r\n0\r\n\r\n")),
            true,
        ),
        (
            takes_trailers,
            pair(
                &format!(
                    "{chunked}Trailer: T\r\n\r\n2;x\r\nok\r\n0\r\nT: 1\r\nSet-Cookie: a\r\n\r\n"
                ),
                &format!("{chunked}Trailer: T\r\n\r\n2;x\r\nok\r\n0\r\nT: 1\r\n\r\n"),
            ),
            true,
        ),
        // A client that does not take them gets the end of the body all the same.
        (
            get,
            pair(
                &format!("{chunked}\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n"),
                &format!("{chunked}\r\n2\r\nok\r\n0\r\n\r\n"),
            ),
            true,
        ),
        (
            old,
            pair(
                OK,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok",
            ),
            false,
        ),
        (
            kept_old,
            pair(
                OK,
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: keep-alive\r\n\r\nok",
            ),
            true,
        ),
        // HTTP/1.0 has no chunks.
        (
            kept_old,
            pair(
                &format!("{chunked}Trailer: T\r\n\r\n2;x\r\nok\r\n3\r\n, k\r\n0\r\nT: 1\r\n\r\n"),
                "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok, k",
            ),
            false,
        ),
        (
            head,
            same("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            true,
        ),
        (
            get,
            same("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
            true,
        ),
        (
            get,
            pair(
                "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ),
            true,
        ),
        // What is of the endpoint's connection alone.
        (
            get,
            pair(
                "HTTP/1.1 200 OK\r\nConnection: keep-alive, x\r\nX: 1\r\nKeep-Alive: timeout=5\r\n\
                 Proxy-Connection: a\r\nTrailer: T\r\nContent-Length: 2\r\n\r\nok",
                OK,
            ),
            true,
        ),
        (
            get,
            pair(
                "HTTP/1.1 200 OK\nContent-Length: 2, 2\n\nok",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ),
            true,
        ),
    ];
    for (asked, (says, wanted), is_kept) in rows {
        let told = |bench: &Bench| {
            // An empty part is due with whatever comes first.
            bench.expect(&[("", &says)]);
            let mut stream = bench.connect()?;
            stream.write_all(asked.as_bytes())?;
            reads(&mut stream, &wanted)?;
            if is_kept {
                bench.expect(&[("", OK)]);
                stream.write_all(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")?;
                reads(&mut stream, OK)
            } else {
                let more = rest(&mut stream)?;
                ensure!(more.is_empty(), "{more:?}");
                Ok(())
            }
        };
        told(&bench).with_context(|| format!("{asked:?}, {says:?}"))?;
    }
    Ok(())
}

/// An answer of Fairway's own, after which the connection ends.
fn refused(answer: &str, status: u16, code: &str) -> Result<()> {
    ensure!(
        answer.starts_with(&format!("HTTP/1.1 {status} "))
            && answer.contains(&format!("\r\nx-fairway-error: {code}\r\n"))
            && answer.contains("\r\nconnection: close\r\n")
            && !answer.to_lowercase().contains("\r\nserver:")
            && answer.matches("HTTP/1.1").count() == 1,
        "{answer:?}, not {status} {code}"
    );
    Ok(())
}

fn what_is_refused_reaches_nobody_and_is_told_in_our_name() -> Result<()> {
    let bench = Bench::new()?;
    let with = |field: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n0\r\n\r\n");
    let rows = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        (
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (
            "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), 400, "bad_request"),
        (
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            400,
            "bad_request",
        ),
        (with("Content-Length: 5, 5\r\n"), 400, "bad_request"),
        (
            with("Content-Length: 5\r\nContent-Length: 5\r\n"),
            400,
            "bad_request",
        ),
        (
            with("Transfer-Encoding: chunked, chunked\r\n"),
            400,
            "bad_request",
        ),
        (
            with("Transfer-Encoding: chunked, identity\r\n"),
            400,
            "bad_request",
        ),
        (
            with("Transfer-Encoding: gzip, chunked\r\n"),
            501,
            "unknown_coding",
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
        ),
        (
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            505,
            "unknown_version",
        ),
        ("\u{16}\u{3}\u{1}".to_owned(), 400, "bad_request"),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000)),
            414,
            "target_too_long",
        ),
        (
            with(&format!("A: {}\r\n", "a".repeat(70_000))),
            431,
            "head_too_large",
        ),
        (with(&"A: b\r\n".repeat(300)), 431, "head_too_large"),
    ];
    for (request, status, code) in rows {
        bench.expect(&[]);
        let mut stream = bench.connect()?;
        // The answer may come before all is written.
        let _ = stream.write_all(request.as_bytes());
        let shown: String = request.chars().take(80).collect();
        let answer = rest(&mut stream).with_context(|| format!("{shown:?}"))?;
        refused(&answer, status, code).with_context(|| format!("{shown:?}"))?;
        bench.heard("").with_context(|| format!("{shown:?}"))?;
    }
    Ok(())
}

fn malformed_chunks_end_the_request() -> Result<()> {
    let bench = Bench::new()?;
    for chunks in [
        "5;a\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello6\r\n0\r\n\r\n",
        "10000000000000000\r\n",
        "0\r\nA : b\r\n\r\n",
    ] {
        bench.expect(&[]);
        let mut stream = bench.connect()?;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
        let next = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(format!("{head}\r\n{chunks}{next}").as_bytes())?;
        let answer = rest(&mut stream).with_context(|| format!("{chunks:?}"))?;
        refused(&answer, 400, "bad_request").with_context(|| format!("{chunks:?}"))?;
        let came = String::from_utf8_lossy(&bench.endpoint.came()).into_owned();
        ensure!(!came.contains("smuggled"), "{chunks:?}: {came:?}");
    }
    Ok(())
}

fn interim_answers_pass() -> Result<()> {
    let bench = Bench::new()?;
    let early = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    bench.expect(&[("", &format!("{early}{early}{OK}"))]);
    let mut stream = bench.connect()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    reads(&mut stream, &format!("{early}{early}{OK}"))?;
    // HTTP/1.0 knows none.
    bench.expect(&[("", &format!("{early}{OK}"))]);
    let mut stream = bench.connect()?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")?;
    let answer = rest(&mut stream)?;
    ensure!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    // A client that waits for 100 before it sends its body.
    let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n";
    let arrived = format!("{head}{ADDED}");
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    bench.expect(&[(&arrived, go_on), ("hello", OK)]);
    let mut stream = bench.connect()?;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    reads(&mut stream, go_on)?;
    stream.write_all(b"hello")?;
    reads(&mut stream, OK)?;
    bench.heard(&format!("{arrived}hello"))
}

fn an_upgraded_connection_ends_one_side_at_a_time() -> Result<()> {
    let bench = Bench::new()?;
    let head = "GET / HTTP/1.1\r\nHost: a\r\n";
    let asked = format!("{head}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let arrived = format!("{head}connection: Upgrade\r\nupgrade: websocket\r\n{ADDED}");
    let up =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let told =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
    let part = |hears: &str, says: &str, closes| ExactPart {
        hears: hears.as_bytes().to_vec(),
        says: says.as_bytes().to_vec(),
        closes,
    };
    // The endpoint speaks first, and in one piece with its head.
    bench.endpoint.expect(vec![
        part(&arrived, &format!("{up}GET / HTTP/1.1\r\n\r\n"), false),
        part("0\r\n\r\n", "last words", true),
        part("after it", "", false),
    ]);
    let mut stream = bench.connect()?;
    stream.write_all(asked.as_bytes())?;
    reads(&mut stream, &format!("{told}GET / HTTP/1.1\r\n\r\n"))?;
    stream.write_all(b"0\r\n\r\n")?;
    let end = rest(&mut stream)?;
    ensure!(end == "last words", "{end:?}");
    // The other side is open still.
    stream.write_all(b"after it")?;
    stream.shutdown(Shutdown::Write)?;
    let wanted = format!("{arrived}0\r\n\r\nafter it");
    wait::until_some("all has come", || bench.heard(&wanted))
}

fn requests_that_come_together_are_answered_in_turn() -> Result<()> {
    let bench = Bench::new()?;
    let one = format!("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n{ADDED}one");
    let two = format!("GET /2 HTTP/1.1\r\nHost: a\r\n{ADDED}");
    let answer = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{text}");
    bench.expect(&[(&one, &answer("1")), (&two, &answer("2"))]);
    let mut stream = bench.connect()?;
    stream.write_all(
        b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
          GET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a, b\r\n\r\n",
    )?;
    reads(&mut stream, &format!("{}{}", answer("1"), answer("2")))?;
    refused(&rest(&mut stream)?, 400, "bad_request")?;
    bench.heard(&format!("{one}{two}"))
}

fn an_endpoint_that_breaks_the_rules_is_a_502() -> Result<()> {
    let bench = Bench::new()?;
    for says in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        bench.expect(&[("", says)]);
        let mut stream = bench.connect()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let answer = rest(&mut stream).with_context(|| format!("{says:?}"))?;
        refused(&answer, 502, "upstream_protocol").with_context(|| format!("{says:?}"))?;
    }
    // A body that breaks them when its head has gone: the connection ends, and no end of the body is made up.
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    bench.expect(&[("", &format!("{head}2\r\nok\r\nx\r\n"))]);
    let mut stream = bench.connect()?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut bytes = Vec::new();
    // It may be reset, so that nobody takes it for whole.
    let _ = stream.read_to_end(&mut bytes);
    let came = String::from_utf8_lossy(&bytes);
    ensure!(
        !came.ends_with("0\r\n\r\n") && !came.contains("x\r\n"),
        "{came:?}"
    );
    Ok(())
}
