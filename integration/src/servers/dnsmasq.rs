//! dnsmasq: a name server.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// dnsmasq with records that can be changed.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Process,
    folder: TempDir,
}

impl Dnsmasq {
    /// A name server at `at` (UDP and TCP) that knows `records` alone, each good for `ttl` seconds.
    pub fn start(
        host: &Host,
        at: SocketAddr,
        ttl: u32,
        records: &[(&str, IpAddr)],
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-dnsmasq-")?;
        write(&folder, records)?;
        let mut command = Command::new(programs::find("dnsmasq")?);
        command
            .args([
                "--no-daemon",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
            ])
            .args([
                "--bind-interfaces",
                "--user=root",
                "--group=root",
                "--pid-file=",
            ])
            .args([
                format!("--listen-address={}", at.ip()),
                format!("--port={}", at.port()),
            ])
            .args([format!("--local-ttl={ttl}"), "--local=/test/".to_owned()])
            .arg(format!(
                "--addn-hosts={}",
                folder.path().join("hosts").display()
            ));
        let process = host.spawn(command)?;
        wait::until("dnsmasq answers", || {
            host.run(|| clients::connect_tcp(at).is_ok())
        })?;
        Ok(Self { process, folder })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Other records from now on.
    pub fn set(&self, records: &[(&str, IpAddr)]) -> Result<()> {
        write(&self.folder, records)?;
        self.process.signal(Signal::HUP)
    }
}

fn write(folder: &TempDir, records: &[(&str, IpAddr)]) -> Result<()> {
    let lines: String = records
        .iter()
        .map(|(name, ip)| format!("{ip} {name}\n"))
        .collect();
    let (path, unfinished) = (folder.path().join("hosts"), folder.path().join("hosts.new"));
    fs::write(&unfinished, lines)?;
    fs::rename(&unfinished, &path)?;
    Ok(())
}
