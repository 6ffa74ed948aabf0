//! keepalived on every edge: VRRP, as most people know it.
//!
//! The addresses are the kernel's wherever they are, and a server of the edge itself answers there: nothing is forwarded,
//! which is to keepalived's favour.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::announcers::Announcers;
use super::edge_programs::{EdgePrograms, is_named};
use super::network::{INTERFACE, Lan, LanEdge};
use crate::programs;

/// keepalived on each edge of a LAN, and the servers beside it.
#[derive(Debug)]
pub struct Keepaliveds {
    programs: EdgePrograms,
    folder: TempDir,
}

impl Keepaliveds {
    /// Started on each edge; they share the addresses, which the first edge has while it lives. `interval` is how
    /// often its owner is heard, in seconds: keepalived's default is 1.
    pub fn start(lan: &Lan, addresses: &[IpAddr], port: u16, interval: f64) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-keepalived-")?;
        let mut all = Self {
            programs: EdgePrograms::default(),
            folder,
        };
        for edge in &lan.edges {
            all.programs.serve(edge, port)?;
            fs::write(
                all.file(edge, "conf"),
                configuration(edge, addresses, interval),
            )?;
            all.launch(edge)?;
        }
        Ok(all)
    }

    fn file(&self, edge: &LanEdge, suffix: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{}.{suffix}", edge.name))
    }

    fn launch(&mut self, edge: &LanEdge) -> Result<()> {
        let mut command = Command::new(programs::find("keepalived")?);
        command
            .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arg(self.file(edge, "conf"))
            .arg("--pid")
            .arg(self.file(edge, "pid"))
            .arg("--vrrp_pid")
            .arg(self.file(edge, "vrrp.pid"));
        self.programs.launch(edge, command)
    }
}

/// VRRP version 3 (RFC 9568), for each family a router of its own; nobody takes back what another one has.
fn configuration(edge: &LanEdge, addresses: &[IpAddr], interval: f64) -> String {
    let priority = 200 - u32::from(edge.number) * 10;
    let mut text = String::from("global_defs {\n  vrrp_version 3\n}\n");
    let families = [("v4", 51, true), ("v6", 52, false)];
    for (name, id, is_v4) in families {
        let of_family = addresses.iter().filter(|it| it.is_ipv4() == is_v4);
        let lines: String = of_family.map(|it| format!("    {it}\n")).collect();
        if lines.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "vrrp_instance {name} {{\n  state BACKUP\n  nopreempt\n  interface {INTERFACE}\n  \
             virtual_router_id {id}\n  priority {priority}\n  advert_int {interval}\n  \
             virtual_ipaddress {{\n{lines}  }}\n}}\n"
        );
    }
    text
}

/// The processes that a process has started.
fn children(process: u32) -> Result<Vec<Pid>> {
    let path = format!("/proc/{process}/task/{process}/children");
    let text = fs::read_to_string(&path).context(path)?;
    let numbers = text.split_whitespace().filter_map(|it| it.parse().ok());
    Ok(numbers.filter_map(Pid::from_raw).collect())
}

impl Announcers for Keepaliveds {
    fn signal(&mut self, edge: &LanEdge, signal: Signal) -> Result<()> {
        let process = self.programs.on(edge)?;
        match signal {
            // It passes this on, and waits for its child.
            Signal::TERM => process.signal(signal),
            Signal::CONT => {
                process.signal(signal)?;
                let children = children(process.id())?;
                children
                    .into_iter()
                    .try_for_each(|it| Ok(kill_process(it, signal)?))
            }
            // Frozen it starts no other child, and a child hears nothing of its end before its own.
            _ => {
                process.signal(Signal::STOP)?;
                for child in children(process.id())? {
                    kill_process(child, signal)?;
                }
                process.signal(signal)?;
                if signal == Signal::KILL {
                    self.programs.killed(edge);
                }
                Ok(())
            }
        }
    }

    fn revive(&mut self, edge: &LanEdge) -> Result<()> {
        self.programs.ended(edge)?;
        self.launch(edge)
    }

    fn has_served(&self, edge: &LanEdge, line: &str) -> bool {
        is_named(edge, line)
    }
}
