//! A store on directories of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::exchange::{Batch, Change, Held, Status, StoredService, Write};
use fairway_config::net::Protocol;
use fairway_config::service::PortKey;
use fairway_controller::{Controller, DirectorySettings, DirectoryStore, Store, WriteOutcome};
use fairway_controller_core::Settings;
use futures::StreamExt as _;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// The port of a Service that listens where the web does.
pub(crate) const TCP_80: PortKey = PortKey {
    protocol: Protocol::Tcp,
    port: 80,
};

/// How long a test waits for anything: longer than it takes on a very busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A manifest directory, a state directory, and what a subscriber knows.
pub(crate) struct Bed {
    _above: tempfile::TempDir,
    pub(crate) manifests: PathBuf,
    pub(crate) state: PathBuf,
    /// How often everything is looked at, whatever was heard.
    pub(crate) resync: Duration,
    store: Option<Arc<DirectoryStore>>,
    batches: Option<Receiver<Batch>>,
    pub(crate) services: BTreeMap<String, Arc<StoredService>>,
    pub(crate) peers: BTreeMap<String, Arc<BgpPeer>>,
    /// How old a Service's last change was said to be.
    pub(crate) since: BTreeMap<String, Option<Instant>>,
    synced: bool,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        let manifests = above.path().join("manifests");
        fs::create_dir(&manifests).unwrap();
        Self {
            state: above.path().join("state"),
            manifests,
            resync: Duration::from_secs(2),
            _above: above,
            store: None,
            batches: None,
            services: BTreeMap::new(),
            peers: BTreeMap::new(),
            since: BTreeMap::new(),
            synced: false,
        }
    }

    pub(crate) fn put(&self, file: &str, text: &str) {
        fs::write(self.manifests.join(file), text).unwrap();
    }

    pub(crate) fn settings(&self) -> DirectorySettings {
        DirectorySettings {
            // Long enough for what is held to be seen, however busy the machine is.
            grace: Duration::from_secs(3),
            resync: self.resync,
            // There is no gateway.
            first_report: Duration::ZERO,
            ..DirectorySettings::new(&self.manifests, &self.state)
        }
    }

    pub(crate) async fn open(&mut self) {
        let store = Arc::new(DirectoryStore::open(self.settings()).unwrap());
        self.batches = Some(store.subscribe());
        self.store = Some(store);
        self.services.clear();
        self.peers.clear();
        self.synced = false;
        self.until("synced", |bed| bed.synced).await;
    }

    pub(crate) async fn close(&mut self) {
        self.batches = None;
        let store = Arc::into_inner(self.store.take().unwrap()).unwrap();
        tokio::task::spawn_blocking(move || drop(store))
            .await
            .unwrap();
    }

    pub(crate) fn store(&self) -> &Arc<DirectoryStore> {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.store().problems();
        problems.iter().map(ToString::to_string).collect()
    }

    /// Takes in batches until what is waited for has come about.
    pub(crate) async fn until(&mut self, what: &str, met: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !met(self) {
            let batches = self.batches.as_mut().unwrap();
            let next = tokio::time::timeout(Duration::from_millis(20), batches.recv());
            match next.await {
                Ok(Some(batch)) => {
                    self.synced |= batch.synced;
                    for change in batch.changes {
                        match change {
                            Change::Service(name, Some(it)) => {
                                self.since.insert(name.to_string(), batch.since);
                                self.services.insert(name.to_string(), it);
                            }
                            Change::Service(name, None) => {
                                self.since.insert(name.to_string(), batch.since);
                                self.services.remove(&name.to_string());
                            }
                            Change::BgpPeer(name, Some(it)) => {
                                self.peers.insert(name.to_string(), it);
                            }
                            Change::BgpPeer(name, None) => {
                                self.peers.remove(&*name);
                            }
                            _ => {}
                        }
                    }
                }
                Ok(None) => panic!("the store closed while waiting for: {what}"),
                Err(_) => {}
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for: {what}; services {:?}, problems {:#?}",
                self.services.keys(),
                self.problems()
            );
        }
    }

    /// Waits until nothing is left to be written.
    pub(crate) async fn all_written(&mut self) {
        self.until("all to be written", |bed| {
            bed.store().outstanding().is_empty()
        })
        .await;
    }

    pub(crate) async fn gone(&mut self, name: &str) {
        self.until(&format!("{name} to go"), |bed| {
            !bed.services.contains_key(name)
        })
        .await;
    }

    pub(crate) async fn there(&mut self, name: &str) -> Arc<StoredService> {
        self.until(&format!("{name} to come"), |bed| {
            bed.services.contains_key(name)
        })
        .await;
        Arc::clone(&self.services[name])
    }

    /// Writes what a Service is to hold, as the controller would.
    pub(crate) async fn grant(&mut self, name: &str, address: &str, node_port: u16) {
        let stored = self.there(name).await;
        let ports = stored.service.ports.iter();
        let write = Write::Service {
            name: stored.service.name.clone(),
            version: stored.version,
            held: Held {
                addresses: vec![address.parse().unwrap()],
                node_ports: ports.map(|port| (port.key(), node_port)).collect(),
                health_check_node_port: None,
            },
            status: Status::default(),
        };
        let outcomes = written(self.store(), vec![write], None).await;
        assert_eq!(outcomes, [WriteOutcome::Written]);
        let version = stored.version;
        self.until("the echo", |bed| bed.services[name].version > version)
            .await;
    }
}

impl Bed {
    /// Runs a controller over the directories until everything is given out and written: what each
    /// Service has then, and the problems. `count` Services have an external address.
    pub(crate) async fn run(&self, count: usize) -> (Given, Vec<String>) {
        let store = Arc::new(DirectoryStore::open(self.settings()).unwrap());
        let (controller, handle) = Controller::new(
            store,
            Settings::standalone("fairway.dev/gateway".into(), Default::default()),
        );
        let stop = CancellationToken::new();
        let running = tokio::spawn(controller.run(stop.clone()));
        let deadline = Instant::now() + PATIENCE;
        let rows = loop {
            let rows = handle.services();
            let given = rows.iter().filter(|row| !row.external_ips.is_empty());
            if given.count() == count && handle.missing().is_empty() {
                break rows;
            }
            assert!(Instant::now() < deadline, "{:?}", handle.missing());
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let problems = handle.problems();
        stop.cancel();
        running.await.unwrap();
        let held = rows.into_iter().map(|row| {
            let ports = row.ports.iter().map(|port| port.node_port);
            let all = ports.chain([row.health_check_node_port]).collect();
            (row.name, (row.external_ips, all))
        });
        let said = problems.iter().map(ToString::to_string).collect();
        (held.collect(), said)
    }
}

/// What each Service has: its addresses, its node ports, and its health check port.
pub(crate) type Given = BTreeMap<String, (Vec<std::net::IpAddr>, Vec<Option<u16>>)>;

/// The write that gives a Service this address and no node port.
pub(crate) fn granted(stored: &StoredService, address: &str) -> Write {
    Write::Service {
        name: stored.service.name.clone(),
        version: stored.version,
        held: Held {
            addresses: vec![address.parse().unwrap()],
            ..Held::default()
        },
        status: Status::default(),
    }
}

/// What becomes of writes.
pub(crate) async fn written(
    store: &DirectoryStore,
    writes: Vec<Write>,
    since: Option<Instant>,
) -> Vec<WriteOutcome> {
    let outcomes = store.write(writes, since).await;
    outcomes.map(|(_, outcome)| outcome).collect().await
}

/// A Service of type LoadBalancer with one port.
pub(crate) fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{a: b}}}}\n\
         spec: {{type: LoadBalancer, ports: [{{name: web, port: {port}}}]}}\n"
    )
}
