//! A Fairway to be shown, and its admin address on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod load;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fairway_config::drained::DrainTarget;
use fairway_config::exchange::{
    AddressReport, AddressState, ClaimKind, ListenerReport, ListenerState,
};
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::problem::Problem;
use fairway_config::service::ServiceType;
use fairway_config::time::Timestamp;
use fairway_config::view::{
    AddressRow, BgpPeerRow, ConditionRow, EndpointRow, Explanation, GatewayRow, ListenerRow,
    OwnerRow, PoolRow, PortRow, Section, ServiceRow,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
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
    /// Whether the gateway edge-1 was asked to drain.
    drains: Mutex<bool>,
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
        owners: vec![OwnerRow {
            address: "203.0.113.1".parse().unwrap(),
            owner: Some("edge-<2>".into()),
        }],
        refused: None,
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
        is_local: false,
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
            draining: None,
        }]
    }
    fn pools(&self) -> Vec<PoolRow> {
        Vec::new()
    }
    fn gateways(&self) -> Vec<GatewayRow> {
        Vec::new()
    }
    fn addresses(&self) -> Vec<AddressRow> {
        vec![AddressRow {
            address: "203.0.113.1".parse().unwrap(),
            gateway: "edge-1".into(),
            report: AddressReport {
                state: AddressState::Elsewhere,
                owner: Some("edge-<2>".into()),
                since: Timestamp(1_800_000_000),
                term: 7,
                why: "edge-1 was stopped".into(),
                interfaces: vec!["br0".into(), "br1".into()],
                conflict: None,
                successor: None,
                probe: None,
            },
        }]
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
    fn peers(&self) -> Vec<BgpPeerRow> {
        Vec::new()
    }
    fn note(&self) -> Option<String> {
        None
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

    fn set_draining(&self, gateway: &str, is_asked: bool) -> Result<(), String> {
        if gateway != "edge-1" {
            return Err(format!("the gateway here is edge-1, not {gateway}"));
        }
        *self.drains.lock().unwrap() = is_asked;
        Ok(())
    }

    fn set_drained(&self, target: DrainTarget, _is_drained: bool) -> Result<(), String> {
        let addr = EndpointAddr("10.0.0.1:8080".parse().unwrap());
        match target.covers(addr, Some("node-1")) {
            true => Ok(()),
            false => Err(format!("no Service has an {target}")),
        }
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
        let headers = [(HOST.as_str(), host)];
        self.send(method, path, &headers, body).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> (u16, HeaderMap, String) {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = hyper::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
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
