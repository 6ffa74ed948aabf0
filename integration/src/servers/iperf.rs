//! iperf3.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// Runs an iperf3 client on `client` against a server at `at` on `server`, to which `to` leads, and
/// hands back what the client has measured.
///
/// Each measurement has a server of its own: between two clients a server that stays is busy for a
/// while and then, for a moment, does not listen. Whoever comes then is told so, refused or reset,
/// which from here looks like a fault of what is in between.
pub fn iperf(
    server: &Host,
    at: SocketAddr,
    client: &Host,
    to: SocketAddr,
    arguments: &[&str],
) -> Result<Value> {
    let process = start_server(server, at, &["--one-off"])?;
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let mut all = vec!["--json", "--client", &address, "--port", &port];
    all.extend(arguments);
    let output = client.run(|| clients::run("iperf3", &all))?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 said no JSON")?;
    match report.get("error").and_then(Value::as_str) {
        Some(error) => bail!(
            "iperf3 {}: {error}; its server: {}",
            arguments.join(" "),
            process.said()
        ),
        None => Ok(report),
    }
}

/// An iperf3 server that stays.
#[derive(Debug)]
pub struct IperfServer(Process);

impl IperfServer {
    /// One at `at`, which listens.
    pub fn start(host: &Host, at: SocketAddr) -> Result<Self> {
        Ok(Self(start_server(host, at, &[])?))
    }

    /// Whether it has had a client.
    pub fn is_in_use(&self) -> bool {
        self.0.said().contains("Accepted connection")
    }
}

fn start_server(host: &Host, at: SocketAddr, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(programs::find("iperf3")?);
    command
        .args(["--server", "--forceflush"])
        .args(arguments)
        .args(["--bind", &at.ip().to_string()])
        .args(["--port", &at.port().to_string()]);
    let process = host.spawn(command)?;
    wait::until("iperf3 listens", || {
        process.said().contains("Server listening")
    })?;
    Ok(process)
}
