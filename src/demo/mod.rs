//! `fairway demo`: a complete edge on this machine, without root.
//!
//! It is `fairway standalone` over a temporary directory, with backends of its own and requests
//! that show what happens: nothing of the product is bypassed.

mod backends;
mod round;
mod targets;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use fairway_config::annotations::DEFAULT_CLASS;
use fairway_config::service::ForwardTo;
use fairway_controller_core::NodePortRange;
use fairway_gateway::fleet::FleetSettings;
use fairway_gateway::icmp::IcmpSockets;
use fairway_gateway::layer2::Layer2;
use fairway_gateway::transparent::DEFAULT_RELAY_PORT;
use fairway_gateway_core::build::ServeNodePorts;

use crate::admin_listeners::{self, AdminListeners};
use crate::args::{DEFAULT_ADMIN, DemoArgs, LogFormat};
use crate::process::{ProcessBase, RunningProcess, Traffic};
use crate::standalone;
use crate::start;
use backends::Backend;
use targets::{CHAT, ECHO, STICKY, Targets, WEB};

/// How long the edge may take to be ready before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs it until Ctrl-C, or for one round.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    // The round prints what goes wrong; log lines would be in its way.
    let _rest_of_log = crate::logs::start(LogFormat::Text, "error")?;
    let runtime = start::runtime()?;
    runtime.block_on(show(args))
}

async fn show(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut stop = crate::signals::stop_signal()?;
    let mut backends = Vec::new();
    for name in backends::NAMES {
        backends.push(
            Backend::start(name)
                .await
                .context("a backend could not be started")?,
        );
    }
    let block = free_block()?;
    let manifests = tempfile::tempdir().context("no temporary directory can be made")?;
    let state = tempfile::tempdir().context("no temporary directory can be made")?;
    write_manifests(manifests.path(), block, &backends)
        .with_context(|| format!("{} can't be written", manifests.path().display()))?;

    let admin = admin_listener(args.admin)?;
    let admin_address = admin.local_addr()?;
    let process = standalone::start(standalone::StandaloneSettings {
        manifests: manifests.path().to_owned(),
        state: state.path().to_owned(),
        base: ProcessBase::new(AdminListeners {
            admin,
            metrics: None,
        })?,
        node_ports: NodePortRange::default(),
        class: DEFAULT_CLASS.into(),
        traffic: Traffic {
            name: "demo".into(),
            zone: None,
            node_addresses: vec![block.node.into()],
            serve_node_ports: ServeNodePorts::Always,
            forward_to: ForwardTo::Endpoints,
            slices_are_known: false,
            drain_timeout: Duration::from_secs(5),
            workers: 2,
            pin_workers: false,
            // On the machine of whoever tries it, nothing is changed.
            steering: false,
            udp_flows: None,
            limits: Default::default(),
            reader_timeout: None,
            icmp_sockets: IcmpSockets::none(),
            layer2: Layer2::none(),
            fleet: FleetSettings::default(),
            relay_port: DEFAULT_RELAY_PORT,
            transparent_mark: None,
            udp_offload: true,
            io_uring: true,
            allow_loopback: true,
            host_endpoint_port: None,
            name_server: None,
        },
    })?;
    let well = tokio::select! {
        well = stand_and_show(&process, block, admin_address, args.once) => well?,
        () = stop.recv() => true,
    };
    if !args.once {
        stop.recv().await;
    }
    process.stop().await;
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until the edge is ready, prints it and does the round. True: every request went well.
async fn stand_and_show(
    process: &RunningProcess,
    block: LoopbackBlock,
    admin: SocketAddr,
    once: bool,
) -> anyhow::Result<bool> {
    if !process.wait_ready(PATIENCE).await {
        let missing = process.readiness().missing.join("\n  ");
        bail!(
            "the edge does not stand after {} s:\n  {missing}",
            PATIENCE.as_secs()
        );
    }
    let services = process.services();
    let table = crate::get::services_table(&services, crate::get::now());
    let targets = Targets::of(&services, block.node)?;
    crate::outcome::print(&format!(
        "Fairway {}: an edge on this machine. Backends: {}. Pool: {}.\n\n{table}\n",
        env!("CARGO_PKG_VERSION"),
        backends::NAMES.join(", "),
        block.pool(),
    ))?;
    let web = targets.web;
    let outcome = tokio::task::spawn_blocking(move || round::run(&targets)).await?;
    crate::outcome::print(&outcome.text)?;
    if !once {
        crate::outcome::print(&format!(
            "\nTry it:       curl http://{web}/\n\
             Look at it:   http://{admin}/\n\
             Ask it:       fairway explain service demo/web{}\n\
             Ctrl-C ends it.\n",
            if admin.to_string() == DEFAULT_ADMIN {
                String::new()
            } else {
                format!(" --admin {admin}")
            },
        ))?;
    }
    Ok(outcome.well)
}

/// The demo's addresses: 127.N.0.0/28 for the pool and 127.N.1.1 for node ports. All of 127.0.0.0/8
/// is local on Linux, so none of it needs a privilege.
#[derive(Clone, Copy, Debug)]
struct LoopbackBlock {
    n: u8,
    node: Ipv4Addr,
}

impl LoopbackBlock {
    fn new(n: u8) -> Self {
        Self {
            n,
            node: Ipv4Addr::new(127, n, 1, 1),
        }
    }

    fn pool(self) -> String {
        format!("127.{}.0.0/28", self.n)
    }

    /// The first address that is given out: the pool leaves its ends alone.
    fn first(self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.n, 0, 1)
    }
}

/// The first block that no other process (another demo, say) listens on.
fn free_block() -> anyhow::Result<LoopbackBlock> {
    (88..=99)
        .map(LoopbackBlock::new)
        .find(|block| {
            TcpListener::bind((block.first(), WEB)).is_ok()
                && UdpSocket::bind((block.first(), ECHO)).is_ok()
        })
        .context(
            "no loopback addresses from 127.88.0.1 to 127.99.0.1 can be listened on at port 8080; \
             on this system they may have to be added first (Linux has them all)",
        )
}

/// The address that was asked for, or the default, or a free port where that is taken.
fn admin_listener(asked: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    match asked {
        Some(address) => admin_listeners::bind(address, "--admin"),
        None => TcpListener::bind(DEFAULT_ADMIN)
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("no port is free for the admin address"),
    }
}

fn write_manifests(dir: &Path, block: LoopbackBlock, backends: &[Backend]) -> std::io::Result<()> {
    std::fs::write(
        dir.join("pool.yaml"),
        format!(
            "apiVersion: fairway.dev/v1alpha1\n\
             kind: AddressPool\n\
             metadata: {{name: demo}}\n\
             spec: {{addresses: [\"{}\"], avoidEnds: true}}\n",
            block.pool()
        ),
    )?;
    let services = [
        (
            "web",
            "type: LoadBalancer",
            format!("{{port: {WEB}, protocol: TCP}}"),
        ),
        (
            "sticky",
            "type: LoadBalancer\n  sessionAffinity: ClientIP",
            format!("{{port: {STICKY}, protocol: TCP}}"),
        ),
        (
            "chat",
            "type: LoadBalancer",
            format!("{{port: {CHAT}, protocol: TCP, appProtocol: http}}"),
        ),
        (
            "echo",
            "type: LoadBalancer",
            format!("{{port: {ECHO}, protocol: UDP}}"),
        ),
        (
            "api",
            "type: NodePort",
            "{port: 80, protocol: TCP}".to_owned(),
        ),
    ];
    for (name, spec, port) in services {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\n\
             spec:\n  {spec}\n  ports:\n  - {port}\n"
        );
        let protocol = if name == "echo" { "UDP" } else { "TCP" };
        // Every backend has a port of its own, and a slice has one port for all its endpoints: a
        // slice each.
        for (n, backend) in backends.iter().enumerate() {
            text.push_str(&format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 name: {name}-{n}\n  namespace: demo\n  \
                 labels: {{kubernetes.io/service-name: {name}}}\n\
                 addressType: IPv4\n\
                 ports: [{{port: {}, protocol: {protocol}}}]\n\
                 endpoints: [{{addresses: [\"{}\"]}}]\n",
                backend.address.port(),
                backend.address.ip(),
            ));
        }
        std::fs::write(dir.join(format!("{name}.yaml")), text)?;
    }
    Ok(())
}
