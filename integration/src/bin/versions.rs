//! Measures Fairway beside an earlier build of it: whether what was added costs those who do not use it, and how much it
//! costs those who do. Prints a page in Markdown. Run it by `cargo xtask bench versions --before=PROGRAM`. By hand the
//! number of rounds may follow the path of the earlier program.
//!
//! ```text
//!   client ──┬── edge of `before` ──┬── farm
//!            ├── edge of `now`    ──┤
//!            └── edge of `all on` ──┘      all up, one asked
//! ```

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fairway_integration::bench::backend::{BenchServers, CLOSES, ECHOES, KEEPS, SENDS};
use fairway_integration::bench::datagrams::{self, Datagrams};
use fairway_integration::bench::{Outcome, cpu, requests, streams};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, wire};
use fairway_integration::{clients, figures, harness, wait};

/// Rounds, unless told otherwise: each ratio is the median of as many.
const ROUNDS: usize = 40;

/// How long each turn takes: short, so that a machine that is slow for some seconds is so for all.
const TURN: Duration = Duration::from_millis(700);

/// Connections that ask at the same time.
const CONNECTIONS: usize = 64;

/// Servers behind each edge.
const SERVERS: u8 = 4;

/// At least this much of what the earlier build does is wanted.
const WANTED: f64 = 0.98;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ComparedBuild {
    /// The earlier program.
    Before,
    /// This one, as it is by default.
    Now,
    /// This one, with everything on that a Service can ask for and that leaves the bytes as they are.
    AllOn,
}

impl ComparedBuild {
    const ALL: [Self; 3] = [Self::Before, Self::Now, Self::AllOn];

    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Now => "now",
            Self::AllOn => "all on",
        }
    }

    /// The third number of its networks, and the last one of its external address.
    fn number(self) -> u8 {
        match self {
            Self::Before => 1,
            Self::Now => 2,
            Self::AllOn => 3,
        }
    }

    fn address(self) -> IpAddr {
        Ipv4Addr::new(203, 0, 113, self.number()).into()
    }

    fn at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    fn server(self, n: u8) -> IpAddr {
        Ipv4Addr::new(198, 19, self.number(), 11 + n).into()
    }

    fn servers(self) -> impl Iterator<Item = IpAddr> {
        (0..SERVERS).map(move |n| self.server(n))
    }

    /// What its Service asks for.
    fn annotations(self) -> &'static str {
        match self {
            Self::Before | Self::Now => "",
            Self::AllOn => {
                ", annotations: {fairway.dev/balance: least-connections, \
                 fairway.dev/health-check: '8001=tcp;interval=1s,8002=tcp;interval=1s,8003=tcp;interval=1s'}"
            }
        }
    }
}

/// What is measured of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ComparedLoad {
    Requests,
    Visits,
    Streams,
    Datagrams,
}

impl ComparedLoad {
    const ALL: [Self; 4] = [Self::Requests, Self::Visits, Self::Streams, Self::Datagrams];

    fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests, 64 connections",
            Self::Visits => "new connections",
            Self::Streams => "8 streams, bytes",
            Self::Datagrams => "UDP, 64 bytes, 128 flows",
        }
    }

    fn run(self, build: ComparedBuild) -> Result<Outcome> {
        match self {
            Self::Requests => requests::keep_alive(build.at(KEEPS), CONNECTIONS, TURN),
            Self::Visits => requests::new_connections(build.at(CLOSES), CONNECTIONS, TURN),
            Self::Streams => streams::take(build.at(SENDS), 8, TURN),
            Self::Datagrams => {
                let load = Datagrams {
                    flows: 128,
                    length: 64,
                    window: 4,
                };
                datagrams::echo(build.at(ECHOES), load, TURN)
            }
        }
    }
}

/// One turn: how much a second, and how much for a second of the process's own processor time.
#[derive(Clone, Copy, Debug)]
struct TurnFigure {
    rate: f64,
    for_cpu: f64,
}

/// A round: a turn of each build at each load.
type ComparedRound = BTreeMap<(ComparedLoad, ComparedBuild), TurnFigure>;

/// An edge and the Fairway on it.
struct ComparedEdge {
    build: ComparedBuild,
    fairway: Fairway,
    _servers: BenchServers,
    _host: Host,
}

impl ComparedEdge {
    fn start(
        client: &Host,
        farm: &Host,
        build: ComparedBuild,
        program: Option<PathBuf>,
    ) -> Result<Self> {
        let host = Host::new(&format!("edge of {}", build.name()))?;
        let n = build.number();
        let (up, down) = (format!("up{n}"), format!("down{n}"));
        wire((client, &up), (&host, "front"))?;
        wire((&host, "back"), (farm, &down))?;
        let at = |network: u8, last: u8| IpAddr::from(Ipv4Addr::new(198, network, n, last));
        client.addresses(&up, &[(at(18, 2), 24)])?;
        host.addresses("front", &[(at(18, 1), 24)])?;
        host.addresses("back", &[(at(19, 1), 24)])?;
        let servers: Vec<_> = build.servers().map(|server| (server, 24)).collect();
        farm.addresses(&down, &servers)?;
        client.ip(&format!(
            "route add {}/32 via {}",
            build.address(),
            at(18, 1)
        ))?;
        ready_for_many(&host)?;
        let servers: Vec<_> = build.servers().collect();
        let servers = BenchServers::start(farm, &servers)?;
        let mut fairway = Fairway::prepare(&host)?.log("warn");
        if let Some(program) = program {
            fairway = fairway.program(program);
        }
        fairway.write("bench.yaml", &manifests(build))?;
        fairway.launch()?;
        fairway.ready()?;
        for port in [KEEPS, CLOSES, SENDS] {
            let to = build.at(port);
            wait::until(&format!("{} answers at {to}", build.name()), || {
                client.run(|| clients::connect_tcp(to).is_ok())
            })?;
        }
        Ok(Self {
            build,
            fairway,
            _servers: servers,
            _host: host,
        })
    }

    fn turn(&mut self, client: &Host, load: ComparedLoad) -> Result<TurnFigure> {
        let process = self.fairway.process()?.id();
        let before = cpu::of(process)?;
        let outcome = client
            .run(|| load.run(self.build))
            .with_context(|| format!("{}: {}", self.build.name(), load.name()))?;
        // The kernel counts in hundredths of a second.
        let worked = (cpu::of(process)? - before).max(0.01);
        Ok(TurnFigure {
            rate: outcome.rate(),
            for_cpu: outcome.count as f64 / worked,
        })
    }
}

/// Ports for many short connections.
fn ready_for_many(host: &Host) -> Result<()> {
    host.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    host.sysctl("ipv4/tcp_tw_reuse", "1")?;
    host.sysctl("core/somaxconn", "4096")?;
    host.sysctl("ipv4/tcp_max_syn_backlog", "8192")
}

fn manifests(build: ComparedBuild) -> String {
    let ports = [
        (KEEPS, "TCP"),
        (CLOSES, "TCP"),
        (SENDS, "TCP"),
        (ECHOES, "UDP"),
    ];
    let ports = ports.map(|(port, protocol)| {
        format!("- {{name: p{port}, port: {port}, protocol: {protocol}}}\n")
    });
    let endpoints: Vec<String> = build
        .servers()
        .map(|server| format!("{{addresses: ['{server}']}}"))
        .collect();
    format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: edge}}\nspec: {{addresses: \
         [{0}-{0}]}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: bench, namespace: \
         bench{1}}}\nspec:\n  type: LoadBalancer\n  allocateLoadBalancerNodePorts: false\n  ports:\n  \
         {2}---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: bench-1, namespace: bench, \
         labels: {{kubernetes.io/service-name: bench}}}}\naddressType: IPv4\nports:\n{3}endpoints: [{4}]\n",
        build.address(),
        build.annotations(),
        ports.join("  "),
        ports.concat(),
        endpoints.join(", ")
    )
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let before = arguments
        .next()
        .context("the earlier program is not named")?;
    let before = PathBuf::from(&before).canonicalize().context(before)?;
    let rounds = arguments.next().map_or(Ok(ROUNDS), |text| text.parse())?;
    harness::prepare()?;

    let (client, farm) = (Host::new("client")?, Host::new("farm")?);
    ready_for_many(&client)?;
    ready_for_many(&farm)?;
    let mut edges = Vec::new();
    for build in ComparedBuild::ALL {
        let program = (build == ComparedBuild::Before).then(|| before.clone());
        edges.push(ComparedEdge::start(&client, &farm, build, program)?);
    }
    let mut all = Vec::new();
    for number in 0..rounds {
        eprintln!("round {} of {rounds}", number + 1);
        all.push(round(&mut edges, &client, number)?);
    }
    println!("{}", page(&all));
    Ok(())
}

/// A turn of each at each load. Who is first changes from round to round, for what one leaves behind is there for the next.
fn round(edges: &mut [ComparedEdge], client: &Host, number: usize) -> Result<ComparedRound> {
    let mut figures = ComparedRound::new();
    let count = edges.len();
    for load in ComparedLoad::ALL {
        for step in 0..count {
            // There and back, by turns, beginning with another one each time.
            let step = if number.is_multiple_of(2) {
                step
            } else {
                count - step
            };
            if let Some(edge) = edges.get_mut((number / 2 + step) % count) {
                figures.insert((load, edge.build), edge.turn(client, load)?);
            }
        }
    }
    Ok(figures)
}

/// A median, and the range that has the true one with a probability of 95 % (by ranks, without regard to how values are spread).
fn median(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let count = values.len();
    let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
    let half = (0.98 * (count as f64).sqrt()).ceil() as usize;
    let low = (count / 2).saturating_sub(half);
    let high = (count / 2 + half).min(count.saturating_sub(1));
    let middle = f64::midpoint(at((count.saturating_sub(1)) / 2), at(count / 2));
    (middle, at(low), at(high))
}

fn page(rounds: &[ComparedRound]) -> String {
    let mut text = format!(
        "# Beside an earlier build\n\nMeasured by `cargo xtask bench versions` on {}. Three gateways in network namespaces of \
         their own, with the same client and the same servers on the same cores, take turns of {} ms; {} rounds. Ratios \
         are medians of those of the rounds, with the range beside them that has the true median with a probability of \
         95 %; more is better. `all on`: active checks of each endpoint each second, least connections.\n\n| \
         figure | before | now | now against before | all on against now |\n|---|---|---|---|---|\n",
        figures::today_here(),
        TURN.as_millis(),
        rounds.len()
    );
    type Part = (&'static str, fn(&TurnFigure) -> f64);
    let parts: [Part; 2] = [
        ("in a second", |figure| figure.rate),
        ("for a second of its own CPU", |figure| figure.for_cpu),
    ];
    for load in ComparedLoad::ALL {
        for (what, of) in parts {
            let value =
                |round: &ComparedRound, build| round.get(&(load, build)).map_or(f64::NAN, of);
            let middle = |build| {
                let mut values: Vec<_> = rounds.iter().map(|round| value(round, build)).collect();
                median(&mut values).0
            };
            let ratio = |one, other| {
                let ratios = rounds
                    .iter()
                    .map(|round| value(round, one) / value(round, other));
                let (middle, low, high) = median(&mut ratios.collect::<Vec<_>>());
                format!("{middle:.3} ({low:.3}–{high:.3})")
            };
            let _ = writeln!(
                text,
                "| {}, {what} | {:.4e} | {:.4e} | {} | {} |",
                load.name(),
                middle(ComparedBuild::Before),
                middle(ComparedBuild::Now),
                ratio(ComparedBuild::Now, ComparedBuild::Before),
                ratio(ComparedBuild::AllOn, ComparedBuild::Now),
            );
        }
    }
    let _ = writeln!(
        text,
        "\nWanted: at least {WANTED} of the earlier build where nothing is on."
    );
    text
}
