#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use fairway_config::exchange::{ClaimKind, ListenerReport, ListenerState};
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::problem::Problem;
use fairway_config::service::ServiceType;
use fairway_config::view::{
    ConditionRow, EndpointRow, Explanation, GatewayRow, ListenerRow, PoolRow, PortRow, Section,
    ServiceRow,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// A Fairway with two Services, one of them in trouble.
#[derive(Default)]
struct FakeViews {
    missing: Mutex<Vec<String>>,
    /// Comments in the metrics, in bytes.
    padding: AtomicUsize,
    /// Held by a test, it keeps metrics and lists from being made.
    making: Mutex<()>,
    filter: Mutex<String>,
}

fn service(namespace: &str, name: &str, ready: bool) -> ServiceRow {
    ServiceRow {
        namespace: namespace.into(),
        name: name.into(),
        kind: ServiceType::LoadBalancer,
        cluster_ips: Vec::new(),
        external_ips: vec!["203.0.113.1".parse().unwrap()],
        external_name: None,
        ports: vec![PortRow {
            name: None,
            port: 80,
            protocol: Protocol::Tcp,
            node_port: Some(31468),
        }],
        created: "2026-11-01T00:00:00Z".into(),
        endpoints: Some(2),
        serving: Some(1),
        gateways: Some(1),
        conditions: vec![ConditionRow {
            kind: "Ready".into(),
            status: if ready { "True" } else { "False" }.into(),
            reason: "NoAddress".into(),
            message: "No pool has a free <b>address</b>.".into(),
            last_transition_time: "2026-11-01T00:00:00Z".into(),
        }],
        source: Some("shop.yaml, document 1".into()),
        source_problem: None,
        health_check_node_port: None,
    }
}

impl Views for FakeViews {
    fn version(&self) -> String {
        "1.2.3".into()
    }
    fn services(&self) -> Vec<ServiceRow> {
        drop(self.making.lock().unwrap());
        vec![service("bank", "till", false), service("web", "shop", true)]
    }
    fn endpoints(&self) -> Vec<EndpointRow> {
        vec![EndpointRow {
            namespace: "web".into(),
            service: "shop".into(),
            port: 80,
            protocol: Protocol::Tcp,
            endpoint: EndpointAddr("10.0.0.1:8080".parse().unwrap()),
            state: "refused".into(),
            why: "is a \"loopback\" address".into(),
            node: None,
            active: 0,
        }]
    }
    fn pools(&self) -> Vec<PoolRow> {
        Vec::new()
    }
    fn gateways(&self) -> Vec<GatewayRow> {
        Vec::new()
    }
    fn listeners(&self) -> Vec<ListenerRow> {
        vec![ListenerRow {
            namespace: "web".into(),
            service: "shop".into(),
            listener: ListenerReport {
                listen: ListenAddr("203.0.113.1:80".parse().unwrap()),
                protocol: Protocol::Tcp,
                port: 80,
                kind: ClaimKind::Vip,
                state: ListenerState::Failed {
                    reason: "PortInUse".into(),
                    message: "nginx holds it".into(),
                },
            },
        }]
    }
    fn problems(&self) -> Vec<Problem> {
        let problem = |object: &str| Problem {
            document: 1,
            object: object.into(),
            field: "spec".into(),
            ..Problem::of_file("shop.yaml", "<script>alert(1)</script>")
        };
        vec![
            problem(""),
            problem("Service web/shop"),
            problem("Service bank/till"),
        ]
    }
    fn explain(&self, service: &ServiceName) -> Option<Explanation> {
        (&*service.name == "shop").then(|| Explanation {
            service: service.to_string(),
            sections: vec![Section {
                title: "Address".into(),
                sentences: vec!["It has.".into()],
            }],
            held_back: false,
        })
    }
    fn readiness(&self) -> Readiness {
        let missing = self.missing.lock().unwrap().clone();
        Readiness {
            ready: missing.is_empty(),
            missing,
        }
    }
    fn log_filter(&self) -> String {
        self.filter.lock().unwrap().clone()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        if filter == "debgu" {
            return Err("'debgu' is no level".to_owned());
        }
        *self.filter.lock().unwrap() = filter.to_owned();
        Ok(())
    }

    fn metrics(&self) -> String {
        drop(self.making.lock().unwrap());
        let padding = "#".repeat(self.padding.load(Ordering::Relaxed));
        format!("{padding}\n# HELP up Up.\n# TYPE up gauge\nup 1\n")
    }
}

struct Admin {
    addr: SocketAddr,
    shown: Arc<FakeViews>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Admin {
    async fn start(metrics_alone: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (shown, shutdown) = (Arc::new(FakeViews::default()), CancellationToken::new());
        let (views, token) = (shown.clone(), shutdown.clone());
        let serving = tokio::spawn(async move {
            if metrics_alone {
                serve_metrics(listener, views, token).await;
            } else {
                serve(listener, views, token).await;
            }
        });
        Self {
            addr,
            shown,
            shutdown,
            serving,
        }
    }

    async fn ask(&self, method: &str, path: &str, host: &str) -> (u16, HeaderMap, String) {
        self.ask_with(method, path, host, "").await
    }

    async fn ask_with(
        &self,
        method: &str,
        path: &str,
        host: &str,
        body: &'static str,
    ) -> (u16, HeaderMap, String) {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host);
        let request = request
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap();
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            parts.status.as_u16(),
            parts.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.ask("GET", path, &self.addr.to_string()).await;
        (status, body)
    }
}

#[tokio::test]
async fn the_level_of_the_log_is_shown_and_changed() {
    let admin = Admin::start(false).await;
    let host = admin.addr.to_string();
    let put = async |body| {
        let (status, _, answer) = admin.ask_with("PUT", "/api/v1/log", &host, body).await;
        (status, answer)
    };
    assert_eq!(put("debug\n").await, (200, r#"{"filter":"debug"}"#.into()));
    assert_eq!(put("debgu").await, (400, "'debgu' is no level\n".into()));
    let shown = (200, r#"{"filter":"debug"}"#.to_owned());
    assert_eq!(admin.get("/api/v1/log").await, shown);
    // Nobody's page in a browser changes it, and nobody from outside.
    let (status, _, _) = admin
        .ask_with("PUT", "/api/v1/log", "evil.example", "trace")
        .await;
    assert_eq!(status, 421);
    let outside = Admin::start(true).await;
    let host = outside.addr.to_string();
    let (status, _, _) = outside.ask_with("PUT", "/api/v1/log", &host, "trace").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn readyz_says_what_is_missing() {
    let admin = Admin::start(false).await;
    assert_eq!(admin.get("/livez").await.0, 200);
    assert_eq!(admin.get("/readyz").await, (200, "ready\n".into()));
    admin
        .shown
        .missing
        .lock()
        .unwrap()
        .push("203.0.113.1:80/TCP does not listen".into());
    let missing = (503, "203.0.113.1:80/TCP does not listen\n".to_owned());
    assert_eq!(admin.get("/readyz").await, missing);
    assert_eq!(admin.get("/readyz?verbose").await.0, 503);
    assert_eq!(admin.get("/livez").await.0, 200, "not ready is not dead");
}

#[tokio::test]
async fn metrics_have_the_content_type_of_the_format() {
    for metrics_alone in [false, true] {
        let admin = Admin::start(metrics_alone).await;
        let (status, headers, body) = admin.ask("GET", "/metrics", "127.0.0.1").await;
        assert_eq!((status, body.lines().last()), (200, Some("up 1")));
        assert_eq!(
            headers[CONTENT_TYPE],
            "text/plain; version=0.0.4; charset=utf-8"
        );
    }
}

#[tokio::test]
async fn the_metrics_address_shows_nothing_else() {
    let admin = Admin::start(true).await;
    assert_eq!(admin.get("/readyz").await.0, 200);
    for path in ["/", "/api/v1/services", "/api/v1/explain/web/shop"] {
        assert_eq!(admin.get(path).await.0, 404, "{path}");
    }
    let (status, ..) = admin
        .ask("GET", "/metrics", "fairway-metrics.monitoring.svc")
        .await;
    assert_eq!(status, 200, "a scraper may use a name");
}

#[tokio::test]
async fn lists_can_be_narrowed_to_a_namespace() {
    let admin = Admin::start(false).await;
    for (path, count) in [
        ("/api/v1/services", 2),
        ("/api/v1/services?namespace=web", 1),
        ("/api/v1/endpoints?namespace=web", 1),
        ("/api/v1/endpoints?namespace=bank", 0),
        ("/api/v1/listeners", 1),
        ("/api/v1/pools", 0),
        ("/api/v1/gateways", 0),
        ("/api/v1/problems", 3),
        ("/api/v1/problems?namespace=web", 2),
    ] {
        let (status, body) = admin.get(path).await;
        assert_eq!(status, 200, "{path}");
        let list: List<serde_json::Value> = serde_json::from_str(&body).unwrap();
        assert_eq!(list.items.len(), count, "{path}");
    }
    let (_, body) = admin.get("/api/v1/services?namespace=web").await;
    let rows: List<ServiceRow> = serde_json::from_str(&body).unwrap();
    assert_eq!(
        rows.items,
        [service("web", "shop", true)],
        "what is sent is what comes"
    );
}

#[tokio::test]
async fn a_service_that_is_not_there_is_said_so() {
    let admin = Admin::start(false).await;
    let (status, body) = admin.get("/api/v1/explain/web/shop").await;
    assert_eq!(status, 200);
    let explanation: Explanation = serde_json::from_str(&body).unwrap();
    assert_eq!(explanation.service, "web/shop");
    let missing = (404, "there is no Service web/nothing\n".to_owned());
    assert_eq!(admin.get("/api/v1/explain/web/nothing").await, missing);
}

#[tokio::test]
async fn the_page_shows_what_is_wrong_and_escapes_what_others_wrote() {
    let admin = Admin::start(false).await;
    admin.shown.missing.lock().unwrap().push("a & b".into());
    let (status, headers, page) = admin.ask("GET", "/", "localhost:9901").await;
    assert_eq!(status, 200);
    assert!(
        headers[CONTENT_TYPE]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    assert!(
        headers[CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap()
            .starts_with("default-src 'none'")
    );
    for text in [
        "Fairway",
        "1.2.3",
        "not ready",
        "a &amp; b",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "NoAddress: No pool has a free &lt;b&gt;address&lt;/b&gt;.",
        "80:31468/TCP",
        "PortInUse: nginx holds it",
        "is a &quot;loopback&quot; address",
    ] {
        assert!(page.contains(text), "{text} is missing in {page}");
    }
    assert!(!page.contains("<script") && !page.contains("<b>"));
    let at = |text: &str| page.find(text).unwrap();
    assert!(
        at("To be mended") < at("id=\"services\""),
        "problems stand on top"
    );
    for tag in [
        "section", "table", "tr", "td", "th", "ul", "li", "div", "main", "header",
    ] {
        let opened =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[tokio::test]
async fn a_name_in_host_and_a_method_that_writes_are_refused() {
    let admin = Admin::start(false).await;
    for (host, status) in [
        ("127.0.0.1:9901", 200),
        ("10.1.2.3", 200),
        ("[::1]:9901", 200),
        ("[2001:db8::1]", 200),
        ("localhost", 200),
        ("LocalHost:9901", 200),
        ("attacker.example", 421),
        ("attacker.example:9901", 421),
        ("localhost.attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
    ] {
        assert_eq!(
            admin.ask("GET", "/api/v1/services", host).await.0,
            status,
            "{host}"
        );
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(
            admin.ask(method, "/api/v1/services", "localhost").await.0,
            405,
            "{method}"
        );
    }
    let (status, _, body) = admin.ask("HEAD", "/metrics", "localhost").await;
    assert_eq!((status, body.as_str()), (200, ""));
}

/// A probe that is not answered within a second has failed: kubelet's default for `timeoutSeconds`.
async fn probe(admin: &Admin, what: &str) {
    for path in ["/livez", "/readyz", "/readyz?verbose"] {
        let answer = tokio::time::timeout(Duration::from_secs(1), admin.get(path)).await;
        let (status, _) = answer.unwrap_or_else(|_| panic!("{what}: {path} timed out"));
        assert_eq!(status, 200, "{what}: {path}");
    }
}

/// What many clients do at once, each on a connection of its own.
#[derive(Clone, Copy, Debug)]
enum Misbehaving {
    Idle,
    HalfAHead,
    AByteNowAndThen,
    NeverRead,
    AskAndNeverReadAgain,
}

impl Misbehaving {
    async fn come(self, admin: &Admin) -> TcpStream {
        let mut stream = TcpStream::connect(admin.addr).await.unwrap();
        match self {
            Self::Idle => {}
            Self::HalfAHead => stream.write_all(b"GET /livez HT").await.unwrap(),
            Self::AByteNowAndThen => stream.write_all(b"G").await.unwrap(),
            Self::NeverRead | Self::AskAndNeverReadAgain => {
                let path = match self {
                    Self::NeverRead => "/metrics",
                    _ => "/livez",
                };
                let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        }
        stream
    }
}

#[tokio::test]
async fn a_probe_is_answered_in_time_whatever_two_hundred_clients_do() {
    for metrics_alone in [false, true] {
        for crowd in [
            Misbehaving::Idle,
            Misbehaving::HalfAHead,
            Misbehaving::AByteNowAndThen,
            Misbehaving::NeverRead,
            Misbehaving::AskAndNeverReadAgain,
        ] {
            let what = format!("{crowd:?}, metrics alone: {metrics_alone}");
            let admin = Admin::start(metrics_alone).await;
            // More than the kernel's buffers hold.
            admin.shown.padding.store(8 << 20, Ordering::Relaxed);
            let mut clients = Vec::new();
            for _ in 0..200 {
                clients.push(crowd.come(&admin).await);
            }
            for byte in b"ET /l" {
                probe(&admin, &what).await;
                if matches!(crowd, Misbehaving::AByteNowAndThen) {
                    for client in &mut clients {
                        // Some were told to go.
                        let _ = client.write_all(&[*byte]).await;
                    }
                }
            }
            drop(clients);
        }
    }
}

#[tokio::test]
async fn a_probe_is_answered_while_metrics_and_lists_are_made() {
    for metrics_alone in [false, true] {
        let admin = Admin::start(metrics_alone).await;
        let shown = admin.shown.clone();
        let (held, release) = std::sync::mpsc::channel::<()>();
        let making = std::thread::spawn(move || {
            let _making = shown.making.lock().unwrap();
            let _ = release.recv();
        });
        let paths = ["/metrics", "/api/v1/services"];
        let mut asking = Vec::new();
        for n in 0..100 {
            let mut stream = TcpStream::connect(admin.addr).await.unwrap();
            let path = paths[n % 2];
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            asking.push(stream);
        }
        probe(&admin, "busy").await;
        drop(held);
        making.join().unwrap();
        probe(&admin, "not busy any more").await;
    }
}

#[tokio::test]
async fn a_scrape_is_answered_though_others_never_read_theirs() {
    let admin = Admin::start(true).await;
    admin.shown.padding.store(8 << 20, Ordering::Relaxed);
    let mut lazy = Vec::new();
    for _ in 0..20 {
        lazy.push(Misbehaving::NeverRead.come(&admin).await);
    }
    let scrape = tokio::time::timeout(Duration::from_secs(20), admin.get("/metrics"));
    let (status, body) = scrape.await.unwrap();
    assert_eq!((status, body.lines().last()), (200, Some("up 1")));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_slowly_has_five_seconds_as_a_whole() {
    let admin = Admin::start(false).await;
    let mut slow = TcpStream::connect(admin.addr).await.unwrap();
    let began = tokio::time::Instant::now();
    let head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: ".iter();
    for byte in head.chain(std::iter::repeat(&b'a')) {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_shutdown_ends_it_though_a_connection_is_open() {
    let admin = Admin::start(false).await;
    let mut kept = TcpStream::connect(admin.addr).await.unwrap();
    kept.write_all(b"GET /li").await.unwrap();
    // It was accepted before this one.
    assert_eq!(admin.get("/livez").await.0, 200);
    admin.shutdown.cancel();
    admin.serving.await.unwrap();
    let mut rest = Vec::new();
    // Closed or reset, as not all was read that it said.
    let _ = kept.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[test]
fn a_page_of_many_rows_is_cut_short_and_keeps_the_worst() {
    struct Many;
    impl Views for Many {
        fn version(&self) -> String {
            String::new()
        }
        fn services(&self) -> Vec<ServiceRow> {
            let name = |i: usize| format!("s{i:05}");
            (0..5000)
                .map(|i| service("web", &name(i), i != 4321))
                .collect()
        }
        fn endpoints(&self) -> Vec<EndpointRow> {
            Vec::new()
        }
        fn pools(&self) -> Vec<PoolRow> {
            Vec::new()
        }
        fn gateways(&self) -> Vec<GatewayRow> {
            Vec::new()
        }
        fn listeners(&self) -> Vec<ListenerRow> {
            Vec::new()
        }
        fn problems(&self) -> Vec<Problem> {
            Vec::new()
        }
        fn explain(&self, _: &ServiceName) -> Option<Explanation> {
            None
        }
        fn readiness(&self) -> Readiness {
            Readiness::default()
        }
        fn log_filter(&self) -> String {
            String::new()
        }

        fn set_log_filter(&self, _filter: &str) -> Result<(), String> {
            Ok(())
        }

        fn metrics(&self) -> String {
            String::new()
        }
    }
    let page = page::render(&Many);
    assert_eq!(page.matches("<tr class=").count(), 1000);
    let at = |name: &str| page.find(name);
    assert!(
        at("s04321") < at("s00000"),
        "the one in trouble comes first"
    );
    assert!(at("s00999").is_none() && at("1000 of 5000").is_some());
}
