//! What is answered, to whom, and in which form.

use axum::http::header::CONTENT_TYPE;

use super::*;

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
async fn a_gateway_is_drained_by_its_own_host_and_by_no_page_in_a_browser() {
    let admin = Admin::start(false).await;
    let host = admin.addr.to_string();
    let (on, off) = (
        r#"{"node": "edge-1", "drain": true}"#,
        r#"{"node": "edge-1", "drain": false}"#,
    );
    let json = ("content-type", "application/json");
    let text = ("content-type", "text/plain");
    let origin = ("origin", "http://127.0.0.1:9901");
    let site = ("sec-fetch-site", "same-origin");
    let host: (&str, &str) = ("host", &host);
    let rebound = ("host", "evil.example");
    for (method, headers, body, wanted, drains) in [
        ("GET", &[host, json][..], on, 405, false),
        ("PUT", &[host, json], on, 405, false),
        ("OPTIONS", &[host, origin], "", 405, false),
        ("POST", &[host, json, origin], on, 403, false),
        ("POST", &[host, json, site], on, 403, false),
        ("POST", &[host, text], on, 415, false),
        ("POST", &[host], on, 415, false),
        ("POST", &[rebound, json], on, 421, false),
        ("POST", &[host, json], "{}", 400, false),
        ("POST", &[host, json], r#"{"drain": true}"#, 400, false),
        (
            "POST",
            &[host, json],
            r#"{"endpoint": "web", "drain": true}"#,
            400,
            false,
        ),
        (
            "POST",
            &[host, json],
            r#"{"node": "edge-1", "endpoint": "10.0.0.1", "drain": true}"#,
            400,
            false,
        ),
        (
            "POST",
            &[host, json],
            r#"{"endpoint": "10.0.0.9", "drain": true}"#,
            409,
            false,
        ),
        (
            "POST",
            &[host, json],
            r#"{"endpoint": "10.0.0.1:8080", "drain": true}"#,
            200,
            false,
        ),
        (
            "POST",
            &[host, json],
            r#"{"endpointsOn": "node-1", "drain": false}"#,
            200,
            false,
        ),
        (
            "POST",
            &[host, json],
            r#"{"node": "edge-2", "drain": true}"#,
            409,
            false,
        ),
        ("POST", &[host, json], on, 200, true),
        ("POST", &[host, json], off, 200, false),
    ] {
        let (status, _, said) = admin.send(method, "/api/v1/drain", headers, body).await;
        assert_eq!(status, wanted, "{method} {headers:?} {body}: {said}");
        assert_eq!(
            *admin.shown.drains.lock().unwrap(),
            drains,
            "{method} {headers:?} {body}"
        );
    }
    let outside = Admin::start(true).await;
    let (status, _, _) = outside
        .send("POST", "/api/v1/drain", &[host, json], on)
        .await;
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
        "203.0.113.1 on edge-&lt;2&gt;",
        "<td>edge-1</td><td>elsewhere</td><td>edge-&lt;2&gt;</td><td>2027-01-15T08:00:00Z</td>",
        "<td>br0, br1</td><td>edge-1 was stopped</td>",
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
        fn addresses(&self) -> Vec<AddressRow> {
            Vec::new()
        }
        fn peers(&self) -> Vec<BgpPeerRow> {
            Vec::new()
        }
        fn problems(&self) -> Vec<Problem> {
            Vec::new()
        }
        fn note(&self) -> Option<String> {
            None
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

        fn set_draining(&self, _gateway: &str, _is_asked: bool) -> Result<(), String> {
            Ok(())
        }

        fn set_drained(&self, _target: DrainTarget, _is_drained: bool) -> Result<(), String> {
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
