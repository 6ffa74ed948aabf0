//! Every command and flag.

mod drain;
mod limits;
mod pod;
mod time;

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{EnumValueParser, PossibleValue, TypedValueParser};
use clap::{Arg, Args, Command, Parser, Subcommand, ValueEnum};
use fairway_config::annotations::DEFAULT_CLASS;
use fairway_config::service::ForwardTo;
use fairway_controller_core::NodePortRange;
use fairway_gateway::fleet::DEFAULT_PORT;

pub(crate) use self::drain::DrainArgs;
pub(crate) use self::limits::LimitArgs;
pub(crate) use self::pod::{PodArgs, ProbeArgs, ProbeQuestion, TakeOverArgs};
use self::time::duration;
use crate::address;
use crate::peers::NamedPeer;
use crate::transparent::TransparentArgs;

/// The LoadBalancer and NodePort gateway for bare-metal Kubernetes and for edge appliances.
#[derive(Debug, Parser)]
#[command(name = "fairway", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: CliCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum CliCommand {
    /// Show a complete edge on this machine: backends, addresses, controller and gateway
    Demo(DemoArgs),
    /// Run controller and gateway over a directory of Kubernetes manifests, without a cluster
    Standalone(Box<StandaloneArgs>),
    /// Run the controller in a cluster: any number of replicas, one of them leads
    Controller(Box<ControllerArgs>),
    /// Run a gateway on an edge node, inside the cluster or outside
    Gateway(Box<GatewayArgs>),
    /// Print tables of what a running Fairway has
    Get(GetArgs),
    /// Say why a Service has this address, these ports, these endpoints
    #[command(visible_alias = "describe")]
    Explain(ExplainArgs),
    /// Have the gateway on a node hand its addresses over to others, or keep new connections away from endpoints,
    /// before work on these
    Drain(DrainArgs),
    /// Check manifests and pools without running anything
    Validate(ValidateArgs),
    /// Print AddressPools and BGPPeers for what another load balancer has, and what differs
    Import(ImportArgs),
    /// Ask the gateway in this container whether it is ready, or alive: what the kubelet runs
    Probe(ProbeArgs),
    /// Print the CustomResourceDefinitions
    Crds,
    /// Remove the routes of a gateway that is not heard any more: it starts this itself
    #[command(name = fairway_gateway::kernel_routes::keeper::COMMAND, hide = true)]
    KeepKernelRoutes,
    /// Start a program that takes over from this one: it starts this itself
    #[command(name = crate::launch::COMMAND, hide = true)]
    StartSuccessor {
        /// The program and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Print shell completions
    Completions {
        /// The shell to print them for
        shell: clap_complete::Shell,
    },
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Do one round of requests and exit: 0, or 1 if a request went wrong
    #[arg(long)]
    pub(crate) once: bool,
    /// Where to serve health, API, status page and metrics [default: 127.0.0.1:9901, or a free
    /// port if that one is taken]
    #[arg(long, env = "FAIRWAY_ADMIN", value_name = "ADDR:PORT", value_parser = address::admin)]
    pub(crate) admin: Option<SocketAddr>,
}

/// Flags of `standalone`.
#[derive(Debug, Args)]
pub(crate) struct StandaloneArgs {
    /// The directory of manifests, read recursively: *.yaml, *.yml, *.json
    #[arg(long, env = "FAIRWAY_MANIFESTS", value_name = "DIR")]
    pub(crate) manifests: PathBuf,
    /// Fairway's own directory: what was given out, kept through restarts
    #[arg(long, env = "FAIRWAY_STATE", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Whether it takes over.
    #[command(flatten)]
    pub(crate) take_over: TakeOverArgs,
    /// Which node ports there are.
    #[command(flatten)]
    pub(crate) node_ports: NodePortArgs,
    /// Which Services are ours.
    #[command(flatten)]
    pub(crate) class: ClassArgs,
    /// Let endpoints be on this host at this one TCP port: an API server that is behind its own address
    #[arg(long, env = "FAIRWAY_HOST_ENDPOINT_PORT", value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) host_endpoint_port: Option<u16>,
    /// What every long-running command takes.
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// What carries traffic.
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
}

/// Which node ports there are to give.
#[derive(Debug, Args)]
pub(crate) struct NodePortArgs {
    /// The range of node ports
    #[arg(
        long,
        env = "FAIRWAY_NODE_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value = DEFAULT_NODE_PORTS
    )]
    pub(crate) node_port_range: NodePortRange,
}

/// Flags of `controller`.
#[derive(Debug, Args)]
pub(crate) struct ControllerArgs {
    /// This replica's name in the election and in Events [default: the host's name]
    #[arg(long, env = "FAIRWAY_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The API server's --service-node-port-range: what it is asked for where a Service says
    /// forward-to: node-ports and allocates none
    #[arg(
        long,
        env = "FAIRWAY_NODE_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value = DEFAULT_NODE_PORTS
    )]
    pub(crate) node_port_range: NodePortRange,
    /// Which Services are ours.
    #[command(flatten)]
    pub(crate) class: ClassArgs,
    /// Take LoadBalancer Services without a loadBalancerClass, too
    #[arg(long, env = "FAIRWAY_DEFAULT_CLASS")]
    pub(crate) default_class: bool,
    /// Which cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// What every long-running command takes.
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
}

/// Flags of `gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// A directory for what is known, which a start while the API server is away comes back with
    /// [default: nothing is kept]
    #[arg(long, env = "FAIRWAY_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Whether it takes over.
    #[command(flatten)]
    pub(crate) take_over: TakeOverArgs,
    /// In which Pod.
    #[command(flatten)]
    pub(crate) pod: PodArgs,
    /// Which cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// What every long-running command takes.
    #[command(flatten)]
    pub(crate) process: ProcessArgs,
    /// What carries traffic.
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
}

/// How the API server is reached.
#[derive(Debug, Args)]
pub(crate) struct ApiServerArgs {
    /// How to reach the API server [default: KUBECONFIG, else the Pod's service account]
    #[arg(long, env = "FAIRWAY_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Which context of the kubeconfig
    #[arg(long, env = "FAIRWAY_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// Where the cluster is, and what of it is Fairway's own.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Which API server.
    #[command(flatten)]
    pub(crate) api_server: ApiServerArgs,
    /// Fairway's own namespace, for its Leases
    #[arg(
        long,
        env = "FAIRWAY_NAMESPACE",
        value_name = "NAME",
        default_value = "fairway-system"
    )]
    pub(crate) namespace: String,
}

/// Flags of every long-running command.
#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    /// Where to serve health, API, status page and metrics; :PORT is one of the loopback address
    #[arg(long, env = "FAIRWAY_ADMIN", value_name = "ADDR:PORT", default_value = DEFAULT_ADMIN,
          value_parser = address::admin)]
    pub(crate) admin: SocketAddr,
    /// Where to serve metrics and health alone, for a scraper from outside; :PORT is one of all addresses
    /// [default: nowhere]
    #[arg(long, env = "FAIRWAY_METRICS", value_name = "ADDR:PORT", value_parser = address::metrics)]
    pub(crate) metrics: Option<SocketAddr>,
    /// How to write the log
    #[arg(long, env = "FAIRWAY_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// Which Services are ours. A gateway has no such flags: it serves what the controller has taken.
#[derive(Debug, Args)]
pub(crate) struct ClassArgs {
    /// The loadBalancerClass that is ours
    #[arg(long, env = "FAIRWAY_CLASS", value_name = "CLASS", default_value = DEFAULT_CLASS)]
    pub(crate) class: String,
}

/// Flags of every command that carries traffic.
#[derive(Debug, Args)]
pub(crate) struct TrafficArgs {
    /// Where to send traffic: straight to the endpoints, or to the nodes' node ports
    #[arg(long, env = "FAIRWAY_FORWARD_TO", value_enum, default_value_t = ForwardToArg::Endpoints)]
    pub(crate) forward_to: ForwardToArg,
    /// Where node ports are served; repeatable [default: all addresses of the host that are in no
    /// pool]
    #[arg(
        long,
        env = "FAIRWAY_NODE_ADDRESS",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub(crate) node_address: Vec<IpAddr>,
    /// How long connections may go on after a stop or after their endpoint went away
    #[arg(long, env = "FAIRWAY_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s",
          value_parser = duration)]
    pub(crate) drain_timeout: Duration,
    /// Threads that carry traffic [default: the cores]
    #[arg(long, env = "FAIRWAY_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// Bind each worker to a processor: for machines that do nothing else, whose network cards give each
    /// processor a queue of its own
    #[arg(long, env = "FAIRWAY_PIN_WORKERS", hide_short_help = true)]
    pub(crate) pin_workers: bool,
    /// Have sockets of its own for each external address and port, where the kernel could steer connections (with CAP_BPF and
    /// CAP_NET_ADMIN)
    #[arg(long, env = "FAIRWAY_NO_STEERING", hide_short_help = true)]
    pub(crate) no_steering: bool,
    /// UDP flows at once, over all Services; each takes a file descriptor, and a port of
    /// net.ipv4.ip_local_port_range [default: as many as there are descriptors, at most three quarters of
    /// those ports]
    #[arg(long, env = "FAIRWAY_UDP_FLOWS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) udp_flows: Option<u32>,
    /// What clients may have of each port.
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Take and send UDP datagrams one by one, for a network driver that does segmentation (GSO, GRO)
    /// wrong
    #[arg(long, env = "FAIRWAY_NO_UDP_OFFLOAD", hide_short_help = true)]
    pub(crate) no_udp_offload: bool,
    /// Make each system call by itself, where several could be handed to the kernel together (by io_uring)
    #[arg(long, env = "FAIRWAY_NO_IO_URING", hide_short_help = true)]
    pub(crate) no_io_uring: bool,
    /// This node's name [default: the host's name]
    #[arg(long, env = "FAIRWAY_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The zone that this gateway is in, for Services that prefer endpoints of the same zone [default: that of the
    /// Node with this node's name]
    #[arg(long, env = "FAIRWAY_ZONE", value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// An address of another gateway that external addresses are announced together with; repeatable. This
    /// gateway's own name counts for nothing, so all of them may have the same list
    #[arg(
        long,
        env = "FAIRWAY_PEERS",
        value_name = "NAME=IP",
        value_delimiter = ','
    )]
    pub(crate) peers: Vec<NamedPeer>,
    /// A file with the secret that all these gateways have, 16 bytes or more
    #[arg(long, env = "FAIRWAY_PEERS_KEY_FILE", value_name = "FILE")]
    pub(crate) peers_key_file: Option<PathBuf>,
    /// The UDP port at which gateways that announce together hear each other
    #[arg(long, env = "FAIRWAY_FLEET_PORT", value_name = "PORT", default_value_t = DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) fleet_port: u16,
    /// Dialling from clients' addresses.
    #[command(flatten)]
    pub(crate) transparent: TransparentArgs,
    /// For tests: let endpoints be on loopback and on this host
    #[arg(long, env = "FAIRWAY_ALLOW_LOOPBACK_ENDPOINTS", hide_short_help = true)]
    pub(crate) allow_loopback_endpoints: bool,
    /// The name server to ask for names that stand in for endpoints [default: /etc/resolv.conf]
    #[arg(long, env = "FAIRWAY_NAME_SERVER", value_name = "ADDR:PORT", value_parser = address::name_server)]
    pub(crate) name_server: Option<SocketAddr>,
}

/// Where the admin address is unless said otherwise.
pub(crate) const DEFAULT_ADMIN: &str = "127.0.0.1:9901";

/// The node ports that Kubernetes has unless told otherwise.
const DEFAULT_NODE_PORTS: &str = "30000-32767";

/// The process that is asked.
#[derive(Debug, Args)]
pub(crate) struct AskedArgs {
    /// The admin address of the process to ask; :PORT is one of this host
    #[arg(long, env = "FAIRWAY_ADMIN", value_name = "ADDR:PORT", default_value = DEFAULT_ADMIN,
          value_parser = address::admin)]
    pub(crate) admin: SocketAddr,
}

/// Flags of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to print; one by name is TYPE/NAME, too
    #[arg(value_name = "TYPE", value_parser = TypeParser)]
    pub(crate) what: TypeAndName,
    /// Only those of these names: NAME or NAMESPACE/NAME; all TYPE/NAME where the first is [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Only this namespace [default: all namespaces]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// All namespaces, also where one is named
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Go on and print what changes
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// How to print it
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<Output>,
    /// Leave the heading of a table out
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Whom to ask.
    #[command(flatten)]
    pub(crate) asked: AskedArgs,
}

/// Flags of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Which Service: NAME or NAMESPACE/NAME; the word service, or service/, may stand before it
    #[arg(value_name = "NAME", required = true, num_args = 1..=2)]
    pub(crate) words: Vec<String>,
    /// The namespace that it is in [default: where there is one of that name]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Whom to ask.
    #[command(flatten)]
    pub(crate) asked: AskedArgs,
}

/// Flags of `validate`.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files and directories to check, - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Print what is wrong as JSON
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<ValidateOutput>,
    /// Which node ports there are.
    #[command(flatten)]
    pub(crate) node_ports: NodePortArgs,
}

/// Forms in which `validate` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ValidateOutput {
    /// One object with the counts and a list of problems
    Json,
}

/// Flags of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Where from: metallb
    #[arg(value_enum)]
    pub(crate) what: ImportFrom,
    /// Files to read, - for standard input: what kubectl get
    /// ipaddresspools,l2advertisements,bgpadvertisements,bgppeers.metallb.io,bfdprofiles,communities,services
    /// -A -o yaml prints [default: the cluster]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) from: Vec<PathBuf>,
    /// Create the objects in the cluster; those that are there stay as they are
    #[arg(long)]
    pub(crate) apply: bool,
    /// Which API server.
    #[command(flatten)]
    pub(crate) api_server: ApiServerArgs,
}

/// What can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFrom {
    /// MetalLB's IPAddressPools, advertisements and BGPPeers
    Metallb,
}

/// What `get` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Services with their external addresses and node ports
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Where their traffic goes, and why not elsewhere
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    /// Address pools and how full they are
    #[value(
        alias = "pool",
        alias = "addresspools",
        alias = "addresspool",
        alias = "addresspool.fairway.dev",
        alias = "addresspools.fairway.dev",
        alias = "apool"
    )]
    Pools,
    /// Gateways and how they are
    #[value(alias = "gateway", alias = "gw")]
    Gateways,
    /// External addresses that are announced on layer 2, and who owns each
    #[value(alias = "address")]
    Addresses,
    /// Every address and port that is listened on
    #[value(alias = "listener")]
    Listeners,
    /// Routers that addresses are announced to by BGP, and the sessions with them
    #[value(
        alias = "peer",
        alias = "bgppeers",
        alias = "bgppeer",
        alias = "bgppeer.fairway.dev",
        alias = "bgppeers.fairway.dev"
    )]
    Peers,
}

impl What {
    /// The word for one of them, as `-o name` prints it.
    pub(crate) fn of_one(self) -> &'static str {
        match self {
            Self::Services => "service",
            Self::Endpoints => "endpoints",
            Self::Pools => "addresspool.fairway.dev",
            Self::Gateways => "gateway",
            Self::Addresses => "address",
            Self::Listeners => "listener",
            Self::Peers => "bgppeer.fairway.dev",
        }
    }
}

/// What `get` prints, and of TYPE/NAME the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeAndName {
    pub(crate) what: What,
    pub(crate) name: Option<String>,
}

/// Reads TYPE and TYPE/NAME.
#[derive(Clone, Copy, Debug)]
struct TypeParser;

impl TypedValueParser for TypeParser {
    type Value = TypeAndName;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<TypeAndName, clap::Error> {
        let text = value.to_string_lossy();
        let (kind, name) = match text.split_once('/') {
            Some((kind, name)) => (kind, Some(name.to_owned())),
            None => (&*text, None),
        };
        let what = EnumValueParser::<What>::new();
        let what = what.parse_ref(command, argument, OsStr::new(kind))?;
        Ok(TypeAndName { what, name })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let all = What::value_variants().iter();
        Some(Box::new(all.filter_map(ValueEnum::to_possible_value)))
    }
}

/// How `get` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table with more columns
    Wide,
    /// The admin API's JSON
    Json,
    /// The same as YAML
    Yaml,
    /// TYPE/NAME, a line each
    Name,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// Where traffic is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ForwardToArg {
    /// Straight to the endpoints
    Endpoints,
    /// To the nodes' InternalIPs, on the node ports
    NodePorts,
}

impl From<ForwardToArg> for ForwardTo {
    fn from(arg: ForwardToArg) -> Self {
        match arg {
            ForwardToArg::Endpoints => Self::Endpoints,
            ForwardToArg::NodePorts => Self::NodePorts,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_well_formed() {
        Cli::command().debug_assert();
    }
}
