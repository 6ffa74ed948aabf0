//! `fairway controller` and `fairway gateway`: each over an API server.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_config::names::ServiceName;
use fairway_config::problem::Problem;
use fairway_config::view::{GatewayRow, PoolRow, Section, ServiceRow};
use fairway_controller::kubernetes::{
    Connection, GatewayIdentity, GatewaySelfReport, connect, lease_name,
};
use fairway_controller::{
    Controller, Elector, Follower, KubernetesSettings, KubernetesStore, Leadership, Reads,
    Snapshot, Store as _,
};
use fairway_controller_core::{Counts, Settings};
use fairway_gateway::Gateway;
use fairway_gateway_core::build::ServeNodePorts;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{ApiServerArgs, ControllerArgs, GatewayArgs};
use crate::outcome::WrongConfiguration;
use crate::process::{self, Process, Stop, Traffic};
use crate::views::{Followed, Known};

/// Runs a controller until SIGTERM or SIGINT.
pub(crate) fn controller(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let ControllerArgs {
        node_name,
        node_port_range,
        class,
        default_class,
        cluster,
        process: common,
    } = args;
    let class: Arc<str> = class.class.into();
    process::run(&common, async |addresses| {
        let admin = addresses.admin.local_addr()?;
        let client = client(cluster.api_server).await?;
        let recorder = process::recorder()?;
        let stop = Stop::default();
        let name: Arc<str> = node_name.unwrap_or_else(process::host_name).into();
        // Two of one name must not take each other for themselves.
        let identity = format!("{name}_{:016x}", random()?);
        let lease = lease_name(&class);
        let elector = Elector::new(client.clone(), &cluster.namespace, &lease, &identity);
        let campaign = Arc::new(Campaign {
            lease,
            leadership: elector.leadership(),
            known: Mutex::default(),
        });
        let (sender, leads) = watch::channel(false);
        let office = Office {
            client,
            store: KubernetesSettings {
                class: Arc::clone(&class),
                default_class,
                reads: Reads::Controller,
                leadership: elector.leadership(),
                namespace: cluster.namespace,
                instance: name,
            },
            core: Settings {
                class: Arc::clone(&class),
                default_class,
                node_ports: node_port_range,
                // What the API server allocates is what there is.
                allocates_node_ports: false,
                gateways_tell: true,
            },
            campaign: campaign.clone(),
        };
        let (mut work, mut tasks) = (JoinSet::new(), JoinSet::new());
        work.spawn(office.hold(leads, stop.drain.clone()));
        // Gives the Lease back when the last decision is written.
        tasks.spawn(elector.run(sender, stop.rest.clone()));
        let process = Process::serve(campaign, None, recorder, addresses, stop, work, tasks)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %class,
            default_class,
            %admin,
            "started"
        );
        Ok(process)
    })
}

/// Runs a gateway until SIGTERM or SIGINT, and then until its connections have ended.
pub(crate) fn gateway(args: Box<GatewayArgs>) -> anyhow::Result<ExitCode> {
    let GatewayArgs {
        state,
        cluster,
        process: common,
        traffic,
    } = *args;
    process::run(&common, async |addresses| {
        let admin = addresses.admin.local_addr()?;
        let client = client(cluster.api_server).await?;
        let recorder = process::recorder()?;
        let stop = Stop::default();
        let traffic = Traffic {
            serve_node_ports: ServeNodePorts::UnlessNode,
            slices_are_known: true,
            ..Traffic::new(traffic)
        };
        let snapshot = state.as_deref().map(Snapshot::open).transpose();
        let snapshot = snapshot
            .map_err(|error| WrongConfiguration(format!("{:#}", anyhow::Error::from(error))))?;
        let store = Arc::new(KubernetesStore::open(
            client,
            KubernetesSettings {
                // What the controller has taken is marked by it.
                class: "".into(),
                default_class: false,
                reads: Reads::Gateway,
                // A gateway writes nothing of Services.
                leadership: Leadership::default(),
                namespace: cluster.namespace.clone(),
                instance: Arc::clone(&traffic.name),
            },
            snapshot,
        ));
        let name = Arc::clone(&traffic.name);
        let gateway = traffic.start(&store, addresses.all()?, stop.drain.clone())?;
        let identity = GatewayIdentity {
            namespace: cluster.namespace,
            name,
            status: {
                let (gateway, store) = (gateway.clone(), store.clone());
                let progress = Mutex::new(ControlProgress::default());
                Arc::new(move || status(&gateway, &store, &progress))
            },
            stopping: stop.drain.clone(),
        };
        let follower = Follower::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.clone().run(store.subscribe(), stop.rest.clone()));
        tasks.spawn(store.tell(identity, stop.rest.clone()));
        let known = Arc::new(Followed {
            follower,
            store: store.clone(),
        });
        let process = Process::serve(
            known,
            Some(gateway),
            recorder,
            addresses,
            stop,
            JoinSet::new(),
            tasks,
        )?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %admin, "started");
        Ok(process)
    })
}

/// After so long without any progress the control thread of a gateway counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// How far the control thread of a gateway was when it was last seen to have something to do.
#[derive(Default)]
struct ControlProgress(Option<(u64, Instant)>);

impl ControlProgress {
    /// Whether it has had changes to work in for long, and has worked in none of them.
    fn is_stuck(&mut self, done: u64, told: u64, now: Instant) -> bool {
        match self.0 {
            _ if done >= told => self.0 = None,
            Some((seen, since)) if seen == done => return now >= since + STUCK,
            _ => self.0 = Some((done, now)),
        }
        false
    }
}

/// How a gateway is, as the cluster is told.
fn status(
    gateway: &Gateway,
    store: &KubernetesStore,
    progress: &Mutex<ControlProgress>,
) -> GatewaySelfReport {
    let row = gateway.row();
    let outstanding = store.outstanding();
    let why = Some(row.why.clone()).filter(|why| !why.is_empty());
    let row = GatewayRow {
        ready: row.ready && outstanding.is_empty(),
        why: why
            .into_iter()
            .chain(outstanding)
            .collect::<Vec<_>>()
            .join("; "),
        ..row
    };
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let is_stuck = progress.is_stuck(gateway.done(), store.sequence(), Instant::now());
    let mut status = GatewaySelfReport::new(row, 0);
    status.behind = is_stuck.then(|| {
        format!(
            "its control thread has worked in no change for {} s",
            STUCK.as_secs()
        )
    });
    status
}

/// Who asks the API server that the flags name.
pub(crate) async fn client(args: ApiServerArgs) -> anyhow::Result<Connection> {
    connect(args.kubeconfig, args.context)
        .await
        .map_err(|error| WrongConfiguration(error.to_string()).into())
}

/// Eight random bytes of the kernel's.
fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// What a controller does while it leads.
struct Office {
    client: Connection,
    store: KubernetesSettings,
    core: Settings,
    campaign: Arc<Campaign>,
}

impl Office {
    /// Decides whenever this process leads, each time from what the API server has then: nothing
    /// is carried over from an earlier term, in which another may have decided since.
    async fn hold(self, mut leads: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            let begins = leads.wait_for(|leads| *leads);
            match stop.run_until_cancelled(begins).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
            let store = KubernetesStore::open(self.client.clone(), self.store.clone(), None);
            let (controller, handle) = Controller::new(Arc::new(store), self.core.clone());
            self.campaign.set(Some(Arc::new(handle)));
            tokio::select! {
                all_ended = controller.run(stop.clone()) => {
                    if !all_ended {
                        tracing::warn!("the Lease is not given back: writes are on their way that are not answered");
                        self.store.leadership.let_expire();
                    }
                }
                _ = leads.wait_for(|leads| !*leads) => {}
            }
            self.campaign.set(None);
        }
    }
}

/// What a replica knows: all of it while it leads, and nothing while it stands by.
struct Campaign {
    /// The name of the Lease that the one that leads holds.
    lease: String,
    leadership: Leadership,
    known: Mutex<Option<Arc<dyn Known>>>,
}

impl Campaign {
    fn set(&self, known: Option<Arc<dyn Known>>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn ask<T>(&self, question: impl FnOnce(&dyn Known) -> T) -> Option<T> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        known.map(|known| question(&*known))
    }

    /// What people are told who ask one that does not lead.
    fn stands_by(&self) -> String {
        format!(
            "This controller stands by and knows of nothing: ask the one that kubectl get lease {} \
             names, in Fairway's namespace.",
            self.lease
        )
    }
}

impl Known for Campaign {
    fn services(&self) -> Vec<ServiceRow> {
        self.ask(|known| known.services()).unwrap_or_default()
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.ask(|known| known.pools()).unwrap_or_default()
    }

    fn gateways(&self) -> Vec<GatewayRow> {
        self.ask(|known| known.gateways()).unwrap_or_default()
    }

    fn explain(&self, service: &ServiceName) -> Option<Vec<Section>> {
        self.ask(|known| known.explain(service)).unwrap_or_else(|| {
            Some(vec![Section {
                title: "Standing by".to_owned(),
                sentences: vec![self.stands_by()],
            }])
        })
    }

    fn counts(&self) -> Option<Counts> {
        self.ask(|known| known.counts()).flatten()
    }

    fn problems(&self) -> Vec<Problem> {
        self.ask(|known| known.problems()).unwrap_or_default()
    }

    fn note(&self) -> Option<String> {
        self.ask(|known| known.note())
            .unwrap_or_else(|| Some(self.stands_by()))
    }

    fn missing(&self) -> Vec<String> {
        // One that stands by is ready to take over: where it knows that it could, and that another leads.
        let missing = self.ask(|known| known.missing()).unwrap_or_default();
        self.leadership
            .missing()
            .into_iter()
            .chain(missing)
            .collect()
    }

    fn told(&self) -> u64 {
        self.ask(|known| known.told()).unwrap_or_default()
    }

    fn done(&self) -> u64 {
        self.ask(|known| known.done()).unwrap_or_default()
    }
}
