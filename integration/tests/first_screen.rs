//! What README shows first, word by word: its commands, its manifests and what they print.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::lab::{Host, Process, Served};
use fairway_integration::lan::network::{INTERFACE, Lan, LanEdge, Snooping};
use fairway_integration::servers::named;
use fairway_integration::site::at;
use fairway_integration::{clients, programs, tests, wait};
use rustix::process::Signal;
use tempfile::TempDir;

tests![
    an_edge_in_five_minutes_is_reached_on_its_own_network,
    of_two_machines_either_may_die,
];

/// Twice what README says: the machine of a test may be busy.
const LONG: Duration = Duration::from_secs(2);

/// The address of the example's Service.
const SHOP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 16));

fn project(path: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    Ok(path.canonicalize()?)
}

fn readme() -> Result<String> {
    let text = fs::read_to_string(project("README.md")?)?;
    Ok(text.replace("\\\n", " "))
}

/// The only line that begins so, without that.
fn line_after(begin: &str) -> Result<String> {
    let text = readme()?;
    let lines: Vec<&str> = text
        .lines()
        .filter_map(|it| it.strip_prefix(begin))
        .collect();
    ensure!(lines.len() == 1, "«{begin}»: {lines:?}");
    Ok(lines[0].to_owned())
}

/// A LAN whose hosts have the addresses of the examples, and the two servers of the example behind it.
struct Example {
    lan: Lan,
    folder: TempDir,
    _servers: Served,
}

impl Example {
    fn new(edges: u8) -> Result<Self> {
        let lan = Lan::new(edges, Snooping::Mld)?;
        for edge in &lan.edges {
            let outside = format!("203.0.113.1{}", edge.number).parse()?;
            let inside = format!("10.0.0.{}", edge.number).parse()?;
            edge.host.addresses(INTERFACE, &[(outside, 24)])?;
            edge.host.addresses("back", &[(inside, 24)])?;
        }
        lan.client
            .addresses(INTERFACE, &[("203.0.113.99".parse()?, 24)])?;
        let servers = [("one", "10.0.0.11".parse()?), ("two", "10.0.0.12".parse()?)];
        lan.farm
            .addresses("servers", &servers.map(|(_, ip)| (ip, 24)))?;
        let servers = servers.map(|(name, ip)| (name, at(ip, 8080)));
        Ok(Self {
            _servers: named(&lan.farm, &servers)?,
            lan,
            folder: TempDir::with_prefix("first-screen-")?,
        })
    }

    /// Runs a command of README on an edge. What it names outside the project's folder is in one of the test.
    fn run(&self, edge: &LanEdge, line: &str) -> Result<Process> {
        let own = |name: &str| self.folder.path().join(name).display().to_string();
        let mut words = line.split_whitespace();
        ensure!(words.next() == Some("fairway"), "{line}");
        let mut command = Command::new(programs::fairway()?);
        for word in words {
            command.arg(match word {
                "deploy/examples/edge" | "/etc/fairway/edge" => {
                    project("deploy/examples/edge")?.display().to_string()
                }
                "/var/lib/fairway" => own(&format!("state-{}", edge.name)),
                "/etc/fairway/key" => own("key"),
                word => word.to_owned(),
            });
        }
        edge.host.spawn(command)
    }

    /// Which edge the client has the address of the example's Service from.
    fn owner(&self) -> Result<&LanEdge> {
        let known = self.lan.neighbor(&self.lan.client, SHOP)?;
        let known = known.context("the client has not asked for it")?;
        self.lan.edge_with(known.0)
    }

    /// What a client of the network gets at the address of the example's Service.
    fn is_served(&self) -> Result<()> {
        let to = at(SHOP, 80);
        let who = self.lan.client.run(|| clients::who(to))?;
        ensure!(["one", "two"].contains(&&*who), "{who}");
        Ok(())
    }
}

/// What a command prints on a host.
fn printed(host: &Host, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let fairway = programs::fairway()?.display().to_string();
    host.run(|| clients::output(&fairway, &words))
}

fn an_edge_in_five_minutes_is_reached_on_its_own_network() -> Result<()> {
    let example = Example::new(1)?;
    let edge = example.lan.edge(1)?;
    let command = line_after("$ sudo fairway standalone")?;
    let _fairway = example.run(edge, &format!("fairway standalone{command}"))?;
    wait::until_some("a client reaches the Service", || example.is_served())?;
    // But for how old it is.
    let words = |text: &str| -> Vec<String> {
        let words = text.split_whitespace().map(str::to_owned);
        let mut words: Vec<String> = words.collect();
        words.pop();
        words
    };
    let shown = readme()?;
    let shown = shown.split_once("$ fairway get services\n");
    let shown = shown.context("README shows no Services")?.1;
    let shown: Vec<_> = shown.lines().take(2).map(words).collect();
    wait::until_some("it is listed as README shows", || {
        let listed = printed(&edge.host, "fairway get services")?;
        let listed: Vec<_> = listed.lines().map(words).collect();
        ensure!(listed == shown, "{listed:?}, and README has {shown:?}");
        Ok(())
    })?;
    let explain = line_after("$ fairway explain ")?;
    let explained = printed(&edge.host, &format!("fairway explain {explain}"))?;
    ensure!(explained.contains(&SHOP.to_string()), "{explained}");
    Ok(())
}

fn of_two_machines_either_may_die() -> Result<()> {
    let example = Example::new(2)?;
    let lan = &example.lan;
    let key = line_after("$ openssl rand -base64 32 | sudo ")?;
    let key = key.split('#').next().unwrap_or_default().trim();
    let key = key.replace(
        "/etc/fairway/key",
        &example.folder.path().join("key").display().to_string(),
    );
    clients::output("sh", &["-c", &format!("openssl rand -base64 32 | {key}")])?;
    let mut gateways = Vec::new();
    for edge in &lan.edges {
        let command = line_after(&format!("{}$ sudo fairway", edge.name))?;
        gateways.push(example.run(edge, &format!("fairway{command}"))?);
    }
    // Each of them in turn: the first one is started again before the second one dies.
    for _ in 0..2 {
        wait::until_some(
            "a client reaches the Service, and both say who owns it",
            || {
                example.is_served()?;
                let owner = example.owner()?;
                for edge in &lan.edges {
                    let listed = printed(&edge.host, "fairway get addresses")?;
                    ensure!(listed.contains(&owner.name), "{}: {listed}", edge.name);
                }
                Ok(())
            },
        )?;
        let owner = example.owner()?;
        let place = lan.edges.iter().position(|it| it.number == owner.number);
        let place = place.context("an edge")?;
        let dead = &mut gateways[place];
        dead.signal(Signal::KILL)?;
        let died = Instant::now();
        wait::until_some("the other one has the address", || {
            // A client that waits longer would not see when it is served again.
            let to = at(SHOP, 80);
            let patience = Duration::from_millis(200);
            lan.client
                .run(|| TcpStream::connect_timeout(&to, patience))?;
            example.is_served()
        })?;
        ensure!(died.elapsed() < LONG, "{:?}", died.elapsed());
        dead.wait(wait::SOON)?;
        let command = line_after(&format!("{}$ sudo fairway", owner.name))?;
        gateways[place] = example.run(owner, &format!("fairway{command}"))?;
    }
    Ok(())
}
