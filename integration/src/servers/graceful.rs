//! Servers that end as good ones do when they are told to.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::lab::{Host, Process};
use crate::{programs, wait};

/// A Go program (integration/go/servers/graceful) that ends gracefully: it accepts nothing more, answers what it has, and
/// closes connections that ask nothing, by `http.Server.Shutdown`.
#[derive(Debug)]
pub struct GracefulServer(Process);

impl GracefulServer {
    /// Answers each line with its name. A connection that is open when it ends goes on until its client closes.
    pub fn lines(host: &Host, name: &str, at: SocketAddr) -> Result<Self> {
        Self::start(host, name, at, &["-lines"])
    }

    /// Answers each request with its name.
    pub fn http(host: &Host, name: &str, at: SocketAddr) -> Result<Self> {
        Self::start(host, name, at, &[])
    }

    fn start(host: &Host, name: &str, at: SocketAddr, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(programs::tool("graceful")?);
        command.args(["-listen", &at.to_string(), "-name", name]);
        command.args(arguments);
        let process = host.spawn(command)?;
        wait::until("the Go server listens", || {
            process.said().contains("listening")
        })?;
        Ok(Self(process))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.0.signal(signal)
    }

    /// Tells it to end, and waits for that.
    pub fn end(mut self) -> Result<()> {
        self.0.signal(Signal::TERM)?;
        let status = self.0.wait(wait::SOON)?;
        ensure!(status.success(), "the Go server ended with {status}");
        Ok(())
    }
}
