//! gRPC's own interoperability programs.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, bail};

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// gRPC's interoperability server, on that port of every address of the host.
pub fn grpc_server(host: &Host, port: u16) -> Result<Process> {
    let mut command = Command::new(programs::tool("server")?);
    command.arg(format!("-port={port}"));
    let process = host.spawn(command)?;
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("the gRPC server answers", || {
        host.run(|| clients::connect_tcp(at).is_ok())
    })?;
    Ok(process)
}

/// Runs a test case of gRPC's interoperability client on `host`; it must pass.
pub fn grpc_client(host: &Host, to: SocketAddr, case: &str) -> Result<()> {
    let mut command = Command::new(programs::tool("client")?);
    command
        .arg(format!("-server_host={}", to.ip()))
        .arg(format!("-server_port={}", to.port()))
        .arg(format!("-test_case={case}"))
        .env("GRPC_GO_LOG_SEVERITY_LEVEL", "error");
    let mut process = host.spawn(command)?;
    let status = process.wait(wait::SOON)?;
    if !status.success() {
        bail!(
            "the gRPC client's {case} ended with {status}: {}",
            process.said()
        );
    }
    Ok(())
}
