//! A program on each edge of a LAN, and a server beside it that says which edge it is.
//!
//! The addresses are local on each edge that has them, and the server answers there: nothing is forwarded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::network::LanEdge;
use crate::lab::{Process, Served};
use crate::servers::named;

/// How long a program whose end has been asked for may take.
const ENDS: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EdgePrograms {
    running: BTreeMap<u8, Process>,
    servers: Vec<Served>,
}

impl EdgePrograms {
    /// Starts the server of an edge.
    pub(super) fn serve(&mut self, edge: &LanEdge, port: u16) -> Result<()> {
        // Of IPv6 and IPv4 (ipv6(7), IPV6_V6ONLY).
        let any: IpAddr = [0_u16; 8].into();
        let server = named(&edge.host, &[(&edge.name, (any, port).into())])?;
        self.servers.push(server);
        Ok(())
    }

    /// Starts the program of an edge.
    pub(super) fn launch(&mut self, edge: &LanEdge, command: Command) -> Result<()> {
        let process = edge.host.spawn(command)?;
        self.running.insert(edge.number, process);
        Ok(())
    }

    /// The program of an edge.
    pub(super) fn on(&self, edge: &LanEdge) -> Result<&Process> {
        let process = self.running.get(&edge.number);
        process.with_context(|| format!("no program runs on {}", edge.name))
    }

    /// The program of an edge was killed.
    pub(super) fn killed(&mut self, edge: &LanEdge) {
        self.running.remove(&edge.number);
    }

    /// Waits for the end of the program of an edge, where one runs.
    pub(super) fn ended(&mut self, edge: &LanEdge) -> Result<()> {
        if let Some(mut process) = self.running.remove(&edge.number) {
            process.wait(ENDS)?;
        }
        Ok(())
    }
}

/// Whether the server of this edge answered with that line.
pub(super) fn is_named(edge: &LanEdge, line: &str) -> bool {
    line.split_whitespace().next() == Some(&edge.name)
}
