//! `fairway gateway`: carries traffic for what an API server says, and reports how it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_config::class::ClassFilter;
use fairway_config::view::GatewayRow;
use fairway_controller::kubernetes::{GatewayIdentity, GatewaySelfReport};
use fairway_controller::{
    Follower, KubernetesSettings, KubernetesStore, Leadership, Reads, Snapshot, Store as _,
    TakeError,
};
use fairway_gateway::Gateway;
use fairway_gateway::fleet::FleetSettings;
use fairway_gateway_core::build::ServeNodePorts;
use tokio::task::JoinSet;

use crate::api_server::connect;
use crate::args::GatewayArgs;
use crate::outcome::WrongConfiguration;
use crate::pods::OwnPod;
use crate::process::{ProcessBase, Traffic};
use crate::start;
use crate::take_over::{self, TakeOverPlan};
use crate::views::FollowerViews;

/// Runs a gateway until SIGTERM or SIGINT, and then until its connections have ended.
pub(crate) fn run(args: Box<GatewayArgs>) -> anyhow::Result<ExitCode> {
    let GatewayArgs {
        state,
        take_over: take_over_args,
        pod,
        cluster,
        process: common,
        traffic,
    } = *args;
    let plan = state.as_ref().map(|state| TakeOverPlan {
        state: state.clone(),
        takes_over: take_over_args.take_over,
        agreed: BTreeMap::from([
            ("the command".to_owned(), "gateway".to_owned()),
            ("--namespace".to_owned(), cluster.namespace.clone()),
        ]),
        pod: pod.pod.map(|uid| Arc::new(OwnPod::new(uid, state.clone()))),
        is_handing: Arc::default(),
    });
    let also = (plan, pod.probe_socket);
    start::run_with_traffic(&common, traffic, also, async |mut base, traffic| {
        let admin = base.admin()?;
        let client = connect(cluster.api_server).await?;
        let traffic = Traffic {
            serve_node_ports: ServeNodePorts::UnlessNode,
            slices_are_known: true,
            fleet: FleetSettings {
                waits_for_key: true,
                ..traffic.fleet
            },
            ..traffic
        };
        let snapshot = state.as_deref().map(|state| open(state, &base));
        let snapshot = snapshot.transpose()?;
        let store = Arc::new(KubernetesStore::open(
            client,
            KubernetesSettings {
                // A gateway takes no Service: the controller marks those that it has taken.
                class: ClassFilter {
                    name: "".into(),
                    is_default: false,
                },
                reads: Reads::Gateway,
                // A gateway writes nothing of Services.
                leadership: Leadership::default(),
                namespace: cluster.namespace.clone(),
                instance: Arc::clone(&traffic.name),
            },
            snapshot,
        ));
        let name = Arc::clone(&traffic.name);
        let own_name = Arc::clone(&name);
        if base.takes_over() {
            store.let_another_tell();
        }
        let gateway = traffic.start(&store, &mut base)?;
        let identity = GatewayIdentity {
            namespace: cluster.namespace,
            name,
            status: {
                let (gateway, store) = (gateway.clone(), store.clone());
                let progress = Mutex::new(ControlProgress::default());
                Arc::new(move || status(&gateway, &store, &progress))
            },
            stopping: base.stop.drain.clone(),
        };
        let follower = Follower::default();
        let mut tasks = JoinSet::new();
        let rest = &base.stop.rest;
        tasks.spawn(follower.clone().run(store.subscribe(), rest.clone()));
        tasks.spawn(store.tell(identity, rest.clone()));
        if base.takes_over() {
            let telling = tell_when_ready(gateway.clone(), store.clone(), &base);
            let rest = rest.clone();
            tasks.spawn(async move {
                rest.run_until_cancelled(telling).await;
            });
        }
        let known = Arc::new(FollowerViews {
            follower,
            store: store.clone(),
            gateway: own_name,
        });
        let process = base.serve(known, Some(gateway), JoinSet::new(), tasks)?;
        let process = process.handing(store);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %admin, "started");
        Ok(process)
    })
}

/// The state directory, or what is in that of a process that hands over.
fn open(state: &Path, base: &ProcessBase) -> anyhow::Result<Snapshot> {
    let open = || match base.takes_over() {
        true => Snapshot::open_held(state),
        false => Snapshot::open(state),
    };
    let is_locked = |error: &TakeError| matches!(error, TakeError::Locked { .. });
    let opened = take_over::after_another(base.is_late, is_locked, open);
    Ok(opened.map_err(|error| WrongConfiguration(format!("{:#}", anyhow::Error::from(error))))?)
}

/// How long a gateway that has taken over tells the cluster nothing, until it is ready: what the one before said last
/// stands for longer. It would say that it owns no addresses and hears no other gateway.
const UNTOLD: Duration = Duration::from_secs(8);

const LOOK: Duration = Duration::from_millis(20);

/// Has a gateway tell the cluster how it is, once it has taken over and is ready.
fn tell_when_ready(
    gateway: Gateway,
    store: Arc<KubernetesStore>,
    base: &ProcessBase,
) -> impl Future<Output = ()> + use<> {
    let (taken, stopping) = (base.taken.clone(), base.stop.drain.clone());
    async move {
        taken.cancelled().await;
        let is_ready = async {
            while !gateway.missing().is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        };
        // That it stops is told, too.
        let is_due = stopping.run_until_cancelled(is_ready);
        let _ = tokio::time::timeout(UNTOLD, is_due).await;
        store.begin_to_tell();
    }
}

/// When the control thread of a gateway makes no progress for this long it counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// The progress of the control thread of a gateway when it was last seen with changes to work in,
/// and since when.
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

/// What a gateway reports of itself to the cluster.
fn status(
    gateway: &Gateway,
    store: &KubernetesStore,
    progress: &Mutex<ControlProgress>,
) -> GatewaySelfReport {
    let row = gateway.row();
    let outstanding = store.outstanding();
    let why = Some(row.why.clone()).filter(|why| !why.is_empty());
    let own = store.own_addresses();
    let row = GatewayRow {
        addresses: own.values().filter(|own| own.is_owned()).count(),
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
    status.addresses = gateway.host_addresses();
    status.set_sessions(gateway.peers());
    status.behind = is_stuck.then(|| {
        format!(
            "its control thread has worked in no change for {} s",
            STUCK.as_secs()
        )
    });
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_thread_is_stuck_where_it_has_had_something_to_do_for_long_and_did_none_of_it() {
        let (mut progress, now) = (ControlProgress::default(), Instant::now());
        // It is through with all of it, however long ago.
        assert!(!progress.is_stuck(5, 5, now));
        assert!(!progress.is_stuck(5, 5, now + STUCK * 2));
        // Busy, and going on.
        let mut later = now + STUCK * 2;
        for done in 5..9 {
            assert!(!progress.is_stuck(done, 10, later));
            later += STUCK / 2;
        }
        // It stands still.
        assert!(!progress.is_stuck(8, 10, later - Duration::from_millis(1)));
        assert!(progress.is_stuck(8, 11, later + STUCK / 2));
        // And goes on.
        assert!(!progress.is_stuck(9, 11, later + STUCK / 2));
        assert!(!progress.is_stuck(11, 11, later + STUCK * 2));
    }
}
