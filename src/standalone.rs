//! `fairway standalone`: controller, gateway and admin address in one process over a directory of
//! manifests. An edge appliance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use fairway_controller::{Controller, DirectorySettings, DirectoryStore, OpenError};
use fairway_controller_core::NodePortRange;
use tokio::task::JoinSet;

use crate::args::StandaloneArgs;
use crate::drained::EndpointDrains;
use crate::outcome::WrongConfiguration;
use crate::process::{ProcessBase, RunningProcess, Traffic};
use crate::start;
use crate::take_over::{self, TakeOverPlan};

/// Runs until SIGTERM or SIGINT; a second one does not wait for connections to end.
pub(crate) fn run(args: Box<StandaloneArgs>) -> anyhow::Result<ExitCode> {
    let StandaloneArgs {
        manifests,
        state,
        take_over: take_over_args,
        node_ports,
        class,
        host_endpoint_port,
        process: common,
        traffic,
    } = *args;
    let range = node_ports.node_port_range;
    let plan = TakeOverPlan {
        state: state.clone(),
        takes_over: take_over_args.take_over,
        agreed: BTreeMap::from([
            ("the command".to_owned(), "standalone".to_owned()),
            ("--class".to_owned(), class.class.clone()),
            ("--node-port-range".to_owned(), range.to_string()),
        ]),
        pod: None,
        is_handing: Arc::default(),
    };
    start::run_with_traffic(
        &common,
        traffic,
        (Some(plan), None),
        async |base, traffic| {
            let traffic = Traffic {
                host_endpoint_port,
                ..traffic
            };
            let admin = base.admin()?;
            let process = start(StandaloneSettings {
                manifests: manifests.clone(),
                state: state.clone(),
                base,
                node_ports: range,
                class: class.class.as_str().into(),
                traffic,
            })?;
            tracing::info!(
                version = env!("CARGO_PKG_VERSION"),
                manifests = %manifests.display(),
                state = %state.display(),
                %admin,
                "started"
            );
            Ok(process)
        },
    )
}

/// The settings of a process over a directory.
pub(crate) struct StandaloneSettings {
    pub(crate) manifests: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) base: ProcessBase,
    pub(crate) node_ports: NodePortRange,
    /// The loadBalancerClass that is ours; those without one are, too.
    pub(crate) class: Arc<str>,
    pub(crate) traffic: Traffic,
}

/// Starts controller and gateway over a directory. Needs a Tokio runtime.
pub(crate) fn start(settings: StandaloneSettings) -> anyhow::Result<RunningProcess> {
    let StandaloneSettings {
        manifests,
        state,
        mut base,
        node_ports,
        class,
        traffic,
    } = settings;
    let settings = DirectorySettings {
        is_held: base.takes_over(),
        ..DirectorySettings::new(manifests, state)
    };
    let is_locked = |error: &OpenError| matches!(error, OpenError::State(_));
    let open = || DirectoryStore::open(settings.clone());
    let store = take_over::after_another(base.is_late, is_locked, open);
    let store = store.map_err(|error| match error {
        OpenError::Watch { .. } => error.into(),
        // Wrong configuration.
        OpenError::State(_) | OpenError::Nested { .. } | OpenError::NoManifests { .. } => {
            let whole = format!("{:#}", anyhow::Error::from(error));
            anyhow::Error::from(WrongConfiguration(whole))
        }
    })?;
    let store = Arc::new(store);
    base.drains = Some(Arc::new(EndpointDrains::open(store.clone())));
    let (controller, handle) = Controller::new(
        store.clone(),
        fairway_controller_core::Settings::standalone(class, node_ports),
    );
    let gateway = traffic.start(&store, &mut base)?;
    // The controller decides until the last connection has ended: Services that drain still need
    // it.
    let mut tasks = JoinSet::new();
    let running = controller.run(base.stop.rest.clone());
    tasks.spawn(async move {
        // The store finishes the writes that are on their way when it is dropped.
        let _ = running.await;
    });
    let process = base.serve(Arc::new(handle), Some(gateway), JoinSet::new(), tasks)?;
    Ok(process.over(store))
}
