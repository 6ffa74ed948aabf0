//! `fairway controller`: decides over an API server, while it leads.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use fairway_config::class::ClassFilter;
use fairway_controller::kubernetes::lease_name;
use fairway_controller::{Elector, KubernetesSettings, Reads};
use fairway_controller_core::Settings;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api_server::connect;
use crate::args::ControllerArgs;
use crate::leader::{Leader, LeaderViews};
use crate::process;
use crate::start;

/// Runs a controller until SIGTERM or SIGINT.
pub(crate) fn run(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let ControllerArgs {
        node_name,
        node_port_range,
        class,
        default_class,
        cluster,
        process: common,
    } = args;
    let class: Arc<str> = class.class.into();
    start::run(&common, async |base| {
        let admin = base.admin()?;
        let client = connect(cluster.api_server).await?;
        let name: Arc<str> = node_name.unwrap_or_else(process::host_name).into();
        // Two processes of one name must not take each other for themselves: as client-go names them.
        let identity = format!("{name}_{}", Uuid::new_v4());
        let lease = lease_name(&class);
        let elector = Elector::new(client.clone(), &cluster.namespace, &lease, &identity);
        let views = Arc::new(LeaderViews {
            lease,
            leadership: elector.leadership(),
            known: Mutex::default(),
        });
        let (sender, leads) = watch::channel(false);
        let filter = ClassFilter {
            name: Arc::clone(&class),
            is_default: default_class,
        };
        let leader = Leader {
            client,
            store: KubernetesSettings {
                class: filter.clone(),
                reads: Reads::Controller,
                leadership: elector.leadership(),
                namespace: cluster.namespace,
                instance: name,
            },
            core: Settings::cluster(filter, node_port_range),
            views: views.clone(),
        };
        let (mut work, mut tasks) = (JoinSet::new(), JoinSet::new());
        work.spawn(leader.run(leads, base.stop.drain.clone()));
        // Gives the Lease back when the last decision is written.
        tasks.spawn(elector.run(sender, base.stop.rest.clone()));
        let process = base.serve(views, None, work, tasks)?;
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
