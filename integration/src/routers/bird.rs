//! BIRD 2: a router with BGP and BFD that puts what it learns into its host's kernel.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// A BIRD that runs.
#[derive(Debug)]
pub struct Bird {
    host: Host,
    process: Process,
    // Last: it goes after the process that uses it.
    folder: TempDir,
}

/// The parts of its configuration that are always the same: all routes of BGP go into the kernel, those to one
/// place by several ways together; BFD at 100 ms, three packets may be lost.
const ALWAYS: &str = "
log stderr all;
protocol device { scan time 1; }
protocol kernel kernel4 { ipv4 { export all; }; merge paths on; }
protocol kernel kernel6 { ipv6 { export all; }; merge paths on; }
protocol bfd { interface \"*\" { interval 100 ms; multiplier 3; idle tx interval 500 ms; }; }
template bgp fairway {
    hold time 9;
    connect delay time 1;
    connect retry time 1;
    error wait time 1, 2;
    ipv4 { import all; export none; };
    ipv6 { import all; export none; };
}
";

impl Bird {
    /// A BIRD with this router ID and these `protocol` blocks, which may be `from fairway`.
    pub fn start(host: &Host, id: &str, protocols: &str) -> Result<Self> {
        Self::with_configuration(host, &format!("router id {id};{ALWAYS}{protocols}\n"))
    }

    /// A BIRD with this configuration.
    pub fn with_configuration(host: &Host, configuration: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-bird-")?;
        let path = |name: &str| folder.path().join(name);
        fs::write(path("conf"), configuration)?;
        let mut command = Command::new(programs::find("bird")?);
        command.arg("-f").arg("-c").arg(path("conf"));
        command.arg("-s").arg(path("control"));
        command.arg("-P").arg(path("pid"));
        let process = host.spawn(command)?;
        let bird = Self {
            host: host.clone(),
            process,
            folder,
        };
        wait::until_some("BIRD answers", || bird.ask(&["show", "status"]))?;
        Ok(bird)
    }

    /// Gives it other `protocol` blocks.
    pub fn configure(&self, id: &str, protocols: &str) -> Result<()> {
        let text = format!("router id {id};{ALWAYS}{protocols}\n");
        fs::write(self.folder.path().join("conf"), text)?;
        let said = self.ask(&["configure"])?;
        ensure!(said.contains("Reconfigur"), "{said}");
        Ok(())
    }

    /// What `birdc` says to a command.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        let control = self.folder.path().join("control");
        let control = control.to_str().context("a path that is no text")?;
        let arguments = [&["-s", control], command].concat();
        self.host.run(|| clients::output("birdc", &arguments))
    }

    /// What it has written to its log.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Waits until a session stands.
    pub fn established(&self, protocol: &str) -> Result<()> {
        wait::until_some(&format!("{protocol} is established"), || {
            let said = self.ask(&["show", "protocols", protocol])?;
            match said.contains("Established") {
                true => Ok(()),
                false => bail!("{said}"),
            }
        })
    }

    /// By which addresses the host's kernel reaches `address`; empty: it has no route of BIRD's to it.
    pub fn ways(&self, address: IpAddr) -> Result<Vec<IpAddr>> {
        ways(&self.host, address)
    }

    /// Waits until the host's kernel reaches `address` by these and no others.
    pub fn reaches(&self, address: IpAddr, by: &[IpAddr]) -> Result<()> {
        let mut wanted = by.to_vec();
        wanted.sort_unstable();
        wait::until_some(&format!("{address} is reached by {by:?}"), || {
            let ways = self.ways(address)?;
            match ways == wanted {
                true => Ok(()),
                false => bail!("it is reached by {ways:?}"),
            }
        })
    }
}

/// By which addresses a host's kernel reaches `address`, by a routing daemon's routes.
fn ways(host: &Host, address: IpAddr) -> Result<Vec<IpAddr>> {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let address = address.to_string();
    let arguments = [
        family, "route", "show", "to", "match", &address, "proto", "bird",
    ];
    let shown = host.run(|| clients::output("ip", &arguments))?;
    let mut words = shown.split_whitespace();
    let mut ways = Vec::new();
    while let Some(word) = words.next() {
        if word == "via" {
            // IPv4 by IPv6: via inet6 ADDRESS.
            let next = words.next().filter(|it| *it != "inet6");
            let next = next.or_else(|| words.next()).context("via what?")?;
            ways.push(next.parse()?);
        }
    }
    ways.sort_unstable();
    Ok(ways)
}
