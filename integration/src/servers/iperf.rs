//! iperf3.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// An iperf3 server at `at`.
pub fn iperf_server(host: &Host, at: SocketAddr) -> Result<Process> {
    let mut command = Command::new(programs::find("iperf3")?);
    command.args(["--server", "--forceflush", "--bind", &at.ip().to_string()]);
    let process = host.spawn({
        command.args(["--port", &at.port().to_string()]);
        command
    })?;
    wait::until("iperf3 listens", || {
        process.said().contains("Server listening")
    })?;
    Ok(process)
}

/// Runs an iperf3 client on `host` and hands back what it has measured.
pub fn iperf_client(host: &Host, to: SocketAddr, arguments: &[&str]) -> Result<Value> {
    let (address, port) = (to.ip().to_string(), to.port().to_string());
    let mut all = vec!["--json", "--connect-timeout", "5000", "--client", &address];
    all.extend(["--port", &port]);
    all.extend(arguments);
    // The server takes one client at a time, and is not yet free when the last one has its answer.
    wait::until_some("the iperf3 server is free", || {
        let outcome = measure(host, &all);
        match &outcome {
            Err(error) if error.to_string().contains("server is busy") => Err(error.to_string()),
            _ => Ok(outcome),
        }
    })?
}

fn measure(host: &Host, arguments: &[&str]) -> Result<Value> {
    let output = host.run(|| clients::run("iperf3", arguments))?;
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 said no JSON")?;
    match report.get("error").and_then(Value::as_str) {
        Some(error) => Err(anyhow::anyhow!("iperf3: {error}")),
        None => Ok(report),
    }
}
