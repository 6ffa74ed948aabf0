//! Thousands of Services: what a change of one costs, and what carrying one costs, beside how many
//! there are. Two ports each, on 256 addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fairway_integration::bench::backend::{BenchServers, CLOSES, KEEPS};
use fairway_integration::bench::{Outcome, cpu, requests};
use fairway_integration::clients;
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, pool, slice_of};
use fairway_integration::servers::named;
use fairway_integration::site::{Site, at, server};

use crate::reload::{Reloaded, Reloads};
use crate::rounds::{CONNECTIONS, TURN};

/// How many Services there are.
pub(crate) const COUNTS: [usize; 3] = [1, 1000, 20_000];

/// HAProxy and nginx have a socket for each port on each thread: of 20,000 Services they would have
/// more files open than a process may have on most machines.
const MOST_RELOADED: usize = 1000;

/// Changes of each in a round.
const CHANGES: usize = 7;

/// The port of the Service that changes, and its servers'.
const CHANGING: u16 = 9000;

/// After how long a change is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose changes are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Fairway,
    Reloaded(Reloaded),
}

impl Who {
    pub(crate) const ALL: [Self; 3] = [
        Self::Fairway,
        Self::Reloaded(Reloaded::HaProxy),
        Self::Reloaded(Reloaded::Nginx),
    ];
}

/// What was measured, a value a round (or a change), by how many Services there are.
#[derive(Debug, Default)]
pub(crate) struct Services {
    /// Milliseconds from a change to the first connection that is served so.
    pub(crate) changes: BTreeMap<(Who, usize), Vec<f64>>,
    /// Microseconds of the machine for a request, and Fairway's own.
    pub(crate) request: BTreeMap<usize, Vec<(f64, f64)>>,
    /// The same for a connection.
    pub(crate) connection: BTreeMap<usize, Vec<(f64, f64)>>,
    /// Files that Fairway has open at rest.
    pub(crate) files: BTreeMap<usize, usize>,
}

/// A site with so many Services.
struct Scale {
    count: usize,
    fairway: Fairway,
    reloads: Vec<Reloads>,
    _backend: BenchServers,
    _named: Served,
    /// Which of the two servers is behind the Service that changes.
    turns: BTreeMap<Who, u8>,
    // Last: they run on its hosts.
    site: Site,
}

/// The address that `n` Services share with others: one of 256.
fn address(n: usize) -> IpAddr {
    Ipv4Addr::new(10, 128, 0, (n % 256) as u8).into()
}

/// The Service whose ports are `ports`, at the address of number `n`.
fn service(name: &str, n: usize, ports: [u16; 2]) -> String {
    let [one, two] = ports;
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: \
         {{fairway.dev/addresses: \"{}\", fairway.dev/sharing-key: all}}}}\nspec: {{type: LoadBalancer, \
         allocateLoadBalancerNodePorts: false, ports: [{{name: one, port: {one}}}, {{name: two, port: \
         {two}}}]}}\n",
        address(n)
    )
}

/// Its EndpointSlice.
fn slice(name: &str, ports: [u16; 2], server: IpAddr) -> String {
    let [one, two] = ports;
    slice_of(name, &[("one", "TCP", one), ("two", "TCP", two)], &[server])
}

/// Where the Service that changes is, and its second port.
const PORTS: [u16; 2] = [CHANGING, CHANGING + 1];

impl Scale {
    fn start(count: usize) -> Result<Self> {
        let site = Site::new()?;
        for host in [&site.client, &site.edge, &site.farm] {
            host.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
            host.sysctl("ipv4/tcp_tw_reuse", "1")?;
            host.sysctl("core/somaxconn", "4096")?;
        }
        site.client.ip("route add 10.128.0.0/14 via 198.51.100.1")?;
        let backend = BenchServers::start(&site.farm, &[server(0)])?;
        let named = named(
            &site.farm,
            &[
                ("1", at(server(1), CHANGING)),
                ("2", at(server(2), CHANGING)),
            ],
        )?;
        // The one that changes counts, and so does the one that carries where there is more than one.
        let mut parts = vec![
            pool("edge", &["10.128.0.0/24"]),
            service("changing", 2, PORTS),
        ];
        let carrying = [KEEPS, CLOSES];
        parts.push(service("carrying", 1, carrying));
        parts.push(slice("carrying", carrying, server(0)));
        for n in 2..count {
            let first = 1000 + 2 * (n / 256) as u16;
            let (name, ports) = (format!("s{n}"), [first, first + 1]);
            parts.push(service(&name, n, ports));
            parts.push(slice(&name, ports, server(0)));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mut fairway = Fairway::prepare(&site.edge)?.log("warn");
        fairway.write("all.yaml", &all(&parts))?;
        fairway.write("one.yaml", &slice("changing", PORTS, server(1)))?;
        fairway.launch()?;
        fairway.ready_within(Duration::from_secs(120))?;
        let mut reloads = Vec::new();
        if count <= MOST_RELOADED {
            for which in Reloaded::ALL {
                reloads.push(Reloads::start(
                    which,
                    &site.edge,
                    count,
                    CHANGING,
                    server(1),
                )?);
            }
        }
        Ok(Self {
            count,
            site,
            fairway,
            reloads,
            _backend: backend,
            _named: named,
            turns: BTreeMap::new(),
        })
    }

    /// Gives the Service that changes its other server, and waits until a client is served by it.
    fn change(&mut self, who: Who, figures: &mut Services) -> Result<()> {
        let next = 3 - self.turns.get(&who).copied().unwrap_or(1);
        let mut began = Instant::now();
        let to = match who {
            Who::Fairway => {
                self.fairway
                    .write("one.yaml", &slice("changing", PORTS, server(next)))?;
                at(address(2), CHANGING)
            }
            Who::Reloaded(which) => {
                let mut reloads = self.reloads.iter_mut();
                let Some(reloads) = reloads.find(|reloads| reloads.which == which) else {
                    return Ok(());
                };
                reloads.settled()?;
                began = Instant::now();
                reloads.change(server(next))?;
                reloads.at()
            }
        };
        let wanted = next.to_string();
        let took = self.site.client.run(|| {
            loop {
                if clients::who(to).is_ok_and(|who| who == wanted) {
                    break Ok(began.elapsed());
                }
                ensure!(began.elapsed() < PATIENCE, "{to} is not served by {wanted}");
            }
        });
        let took = took.with_context(|| format!("{who:?} with {} Services", self.count))?;
        let values = figures.changes.entry((who, self.count)).or_default();
        values.push(took.as_secs_f64() * 1e3);
        self.turns.insert(who, next);
        Ok(())
    }

    /// Processor time of each thing that comes about: the machine's, and Fairway's own.
    fn cost(
        &mut self,
        load: impl FnOnce(SocketAddr) -> Result<Outcome> + Send,
        port: u16,
    ) -> Result<(f64, f64)> {
        let process = self.fairway.process()?.id();
        let before = (cpu::machine()?, cpu::of(process)?);
        let outcome = self.site.client.run(|| load(at(address(1), port)))?;
        let each = |seconds: f64| seconds * 1e6 / outcome.count.max(1) as f64;
        Ok((
            each(cpu::machine()? - before.0),
            each(cpu::of(process)? - before.1),
        ))
    }

    fn round(&mut self, figures: &mut Services) -> Result<()> {
        for who in Who::ALL {
            for _ in 0..CHANGES {
                self.change(who, figures)?;
            }
        }
        let request = self.cost(|to| requests::keep_alive(to, CONNECTIONS, TURN), KEEPS)?;
        figures.request.entry(self.count).or_default().push(request);
        let connection = self.cost(
            |to| requests::new_connections(to, CONNECTIONS, TURN),
            CLOSES,
        )?;
        figures
            .connection
            .entry(self.count)
            .or_default()
            .push(connection);
        Ok(())
    }
}

/// Measures in so many rounds.
pub(crate) fn measure(rounds: usize) -> Result<Services> {
    let mut figures = Services::default();
    let mut scales = Vec::new();
    for count in COUNTS {
        eprintln!("{count} Services");
        let mut scale = Scale::start(count)?;
        let process = scale.fairway.process()?.id();
        let files = std::fs::read_dir(format!("/proc/{process}/fd"))?.count();
        figures.files.insert(count, files);
        scales.push(scale);
    }
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        // There and back: what one leaves behind is there for the next.
        scales.reverse();
        for scale in &mut scales {
            scale.round(&mut figures)?;
        }
    }
    Ok(figures)
}
