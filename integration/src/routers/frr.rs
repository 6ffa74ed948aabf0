//! FRR: the router that many switches run, with zebra, bgpd and bfdd.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::lab::{Host, Process};
use crate::{clients, wait};

/// An FRR that runs.
#[derive(Debug)]
pub struct Frr {
    host: Host,
    _daemons: Vec<Process>,
    // Last: it goes after the processes that use it.
    folder: TempDir,
}

impl Frr {
    /// An FRR with this configuration of bgpd, and BFD.
    pub fn start(host: &Host, bgp: &str) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-frr-")?;
        // The daemons give up root.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
        let mut frr = Self {
            host: host.clone(),
            _daemons: Vec::new(),
            folder,
        };
        for (daemon, configuration) in [("zebra", ""), ("bfdd", ""), ("bgpd", bgp)] {
            let path = |end: &str| frr.folder.path().join(format!("{daemon}.{end}"));
            fs::write(path("conf"), format!("log stdout\n{configuration}\n"))?;
            fs::set_permissions(path("conf"), Permissions::from_mode(0o666))?;
            let mut command = Command::new(Path::new("/usr/lib/frr").join(daemon));
            command.arg("--config_file").arg(path("conf"));
            command.arg("--pid_file").arg(path("pid"));
            command.arg("--vty_socket").arg(frr.folder.path());
            command.args(["--vty_port", "0"]);
            command
                .arg("--socket")
                .arg(frr.folder.path().join("zserv.api"));
            if daemon == "bfdd" {
                command
                    .arg("--bfdctl")
                    .arg(frr.folder.path().join("bfdd.sock"));
            }
            if daemon == "bgpd" {
                command.args(["--listenon", "0.0.0.0"]);
            }
            let process = frr.host.spawn(command)?;
            frr._daemons.push(process);
            let socket = frr.folder.path().join(format!("{daemon}.vty"));
            wait::until(&format!("{daemon} listens"), || socket.exists())?;
        }
        Ok(frr)
    }

    /// Has it read a configuration of all its daemons.
    pub fn read(&self, configuration: &Path) -> Result<()> {
        let (folder, file) = (self.folder.path().to_str(), configuration.to_str());
        let (folder, file) = folder.zip(file).context("a path that is no text")?;
        let arguments = ["--vty_socket", folder, "-f", file];
        let said = self.host.run(|| clients::output("vtysh", &arguments))?;
        ensure!(!said.contains('%'), "{said}");
        Ok(())
    }

    /// What `vtysh` says to a command.
    pub fn ask(&self, command: &str) -> Result<String> {
        let folder = self
            .folder
            .path()
            .to_str()
            .context("a path that is no text")?;
        let arguments = ["--vty_socket", folder, "-c", command];
        self.host.run(|| clients::output("vtysh", &arguments))
    }

    /// Waits until it says each of `words` to a command.
    pub fn says(&self, command: &str, words: &[&str]) -> Result<()> {
        wait::until_some(&format!("{command} says {words:?}"), || {
            let said = self.ask(command)?;
            match words.iter().all(|word| said.contains(word)) {
                true => Ok(()),
                false => bail!("{said}"),
            }
        })
    }
}
