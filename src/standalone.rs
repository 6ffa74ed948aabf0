//! `fairway standalone`: an edge appliance over a directory of manifests.

use std::process::ExitCode;

use crate::args::{CommonArgs, StandaloneArgs};
use crate::process::{self, Process};

/// Runs until SIGTERM or SIGINT; a second one does not wait for connections to end.
pub(crate) fn run(args: Box<StandaloneArgs>) -> anyhow::Result<ExitCode> {
    let StandaloneArgs {
        manifests,
        state,
        common,
    } = *args;
    crate::logs::start(common.log_format, "info");
    process::runtime()?.block_on(async {
        let mut stop = process::stop_signal()?;
        let admin = process::bind(common.admin, "--admin")?;
        let metrics = common
            .metrics
            .map(|address| process::bind(address, "--metrics"))
            .transpose()?;
        let admin_address = admin.local_addr()?;
        let CommonArgs {
            forward_to,
            node_address,
            node_port_range,
            drain_timeout,
            workers,
            node_name,
            class,
            allow_loopback_endpoints,
            name_server,
            ..
        } = common;
        let defaults = process::Settings::new(&manifests, &state, admin);
        let settings = process::Settings {
            metrics,
            node_name: node_name.unwrap_or_else(host_name),
            node_addresses: node_address,
            forward_to: forward_to.into(),
            node_ports: node_port_range,
            drain_timeout,
            workers: workers.map_or(defaults.workers, usize::from),
            class,
            allow_loopback: allow_loopback_endpoints,
            name_server,
            ..defaults
        };
        let process = Process::start(settings).await?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            manifests = %manifests.display(),
            state = %state.display(),
            admin = %admin_address,
            "started"
        );
        stop.recv().await;
        tracing::info!(
            timeout_seconds = drain_timeout.as_secs_f64(),
            "stopping: connections drain"
        );
        tokio::select! {
            () = process.stop() => tracing::info!("stopped"),
            () = stop.recv() => tracing::warn!("told to stop twice: connections are cut"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The name the kernel has for this host.
fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
