//! The controller's loop on a directory: from manifests to addresses, node ports and statuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::Change;
use fairway_config::view::ServiceRow;
use fairway_controller::{Controller, DirectorySettings, DirectoryStore, Handle, Store as _};
use fairway_controller_core::Settings;
use tokio_util::sync::CancellationToken;

/// What `kubectl get services -A -o yaml` prints, and a pool.
const DUMP: &str = "
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: v1
  kind: Service
  metadata:
    name: shop
    namespace: web
    creationTimestamp: '2026-01-01T00:00:00Z'
    managedFields: [{manager: kubectl, operation: Update}]
  spec:
    type: LoadBalancer
    clusterIP: 10.96.0.10
    clusterIPs: [10.96.0.10]
    ports: [{name: http, port: 80, nodePort: 31468, targetPort: 8080, protocol: TCP}]
  status: {loadBalancer: {ingress: [{ip: 192.0.2.5}]}}
- apiVersion: v1
  kind: Service
  metadata: {name: plain, namespace: web}
  spec: {type: NodePort, ports: [{port: 80, nodePort: 30062}]}
---
apiVersion: fairway.dev/v1alpha1
kind: AddressPool
metadata: {name: edge}
spec: {addresses: [192.0.2.0/28]}
";

fn settings() -> Settings {
    Settings::standalone("fairway.dev/gateway".into(), Default::default())
}

async fn settled(handle: &Handle<DirectoryStore>, met: impl Fn(&[ServiceRow]) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !(handle.missing().is_empty() && met(&handle.services())) {
        let now = tokio::time::Instant::now();
        assert!(
            now < deadline,
            "{:?} {:#?}",
            handle.missing(),
            handle.services()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn row<'a>(rows: &'a [ServiceRow], name: &str) -> Option<&'a ServiceRow> {
    rows.iter().find(|row| row.name == name)
}

fn open(manifests: &Path, state: &Path) -> DirectoryStore {
    let settings = DirectorySettings {
        // There is no gateway.
        first_report: Duration::ZERO,
        ..DirectorySettings::new(manifests, state)
    };
    DirectoryStore::open(settings).unwrap()
}

#[tokio::test]
async fn a_dump_of_a_cluster_gets_what_it_says_it_has_and_keeps_it() {
    let above = tempfile::tempdir().unwrap();
    let manifests = above.path().join("manifests");
    let state = above.path().join("state");
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("dump.yaml"), DUMP).unwrap();
    for round in 0..2 {
        let store = open(&manifests, &state);
        let (controller, handle) = Controller::new(Arc::new(store), settings());
        let stop = CancellationToken::new();
        let running = tokio::spawn(controller.run(stop.clone()));
        settled(&handle, |rows| {
            row(rows, "shop").is_some_and(|shop| {
                shop.external_ips == ["192.0.2.5".parse::<std::net::IpAddr>().unwrap()]
                    && shop.ports[0].node_port == Some(31468)
            }) && row(rows, "plain").is_some_and(|it| it.ports[0].node_port == Some(30062))
        })
        .await;
        assert_eq!(handle.pools()[0].name, "edge");
        assert!(handle.explain(&"web/shop".parse().unwrap()).is_some());
        let text = fs::read_to_string(state.join("services/web/shop.yaml")).unwrap();
        for part in ["nodePort: 31468", "ip: \"192.0.2.5\"", "ipMode: Proxy"] {
            assert!(
                text.contains(part),
                "round {round}: {part} is not in\n{text}"
            );
        }
        stop.cancel();
        running.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_granted_is_as_old_as_the_change_that_asked_for_it() {
    let above = tempfile::tempdir().unwrap();
    let manifests = above.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let store = Arc::new(open(&manifests, &above.path().join("state")));
    let mut batches = store.subscribe();
    let (controller, _handle) = Controller::new(store, settings());
    let stop = CancellationToken::new();
    let running = tokio::spawn(controller.run(stop.clone()));
    let start = batches.recv().await.unwrap();
    assert!(start.synced && start.since.is_none());
    fs::write(manifests.join("dump.yaml"), DUMP).unwrap();
    let granted = async {
        let mut asked = None;
        loop {
            let batch = batches.recv().await.unwrap();
            for change in batch.changes {
                match change {
                    Change::Service(name, Some(it)) if &*name.name == "shop" => {
                        let asked = *asked.get_or_insert(batch.since.unwrap());
                        if !it.held.addresses.is_empty() {
                            return (asked, batch.since.unwrap());
                        }
                    }
                    _ => {}
                }
            }
        }
    };
    let (asked, granted) = tokio::time::timeout(Duration::from_secs(60), granted)
        .await
        .unwrap();
    assert_eq!(asked, granted);
    stop.cancel();
    running.await.unwrap();
}
