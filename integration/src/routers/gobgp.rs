//! GoBGP: a third way to read what is said; it keeps its table to itself.

use std::fs;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// Where it is asked, in its own host.
const CONTROL: &str = "127.0.0.1:50051";

/// A GoBGP that runs.
#[derive(Debug)]
pub struct GoBgp {
    host: Host,
    _process: Process,
    // Last: it goes after the process that uses it.
    _folder: TempDir,
}

impl GoBgp {
    /// A GoBGP of this AS that these neighbours, of the other AS, dial.
    pub fn start(
        host: &Host,
        (id, asn): (&str, u32),
        neighbours: &[IpAddr],
        (theirs, password): (u32, &str),
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-gobgp-")?;
        let mut text = format!("[global.config]\nas = {asn}\nrouter-id = \"{id}\"\n");
        for address in neighbours {
            text += &format!(
                "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\n\
                 peer-as = {theirs}\nauth-password = \"{password}\"\n\
                 [neighbors.transport.config]\npassive-mode = true\n\
                 [neighbors.timers.config]\nhold-time = 9\n"
            );
            for family in ["ipv4-unicast", "ipv6-unicast"] {
                text += &format!(
                    "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\n\
                     afi-safi-name = \"{family}\"\n"
                );
            }
        }
        let path = folder.path().join("gobgpd.toml");
        fs::write(&path, text)?;
        let mut command = Command::new(programs::tool("gobgpd")?);
        // Go 1.24 and later listen with Multipath TCP, which has no MD5 signatures.
        command.env("GODEBUG", "multipathtcp=0");
        command.arg("--config-file").arg(path);
        command.args([
            "--log-plain",
            "--pprof-disable",
            "--metrics-path=",
            "--api-hosts",
            CONTROL,
        ]);
        let gobgp = Self {
            host: host.clone(),
            _process: host.spawn(command)?,
            _folder: folder,
        };
        wait::until_some("GoBGP answers", || gobgp.ask(&["global"]))?;
        Ok(gobgp)
    }

    /// What `gobgp` says to a command.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        let program = programs::tool("gobgp")?;
        let program = program.to_string_lossy();
        let (_, port) = CONTROL.split_once(':').unwrap_or_default();
        let arguments = [&["-p", port], command].concat();
        self.host.run(|| clients::output(&program, &arguments))
    }

    /// The ways that it knows to a prefix, as it tells of them.
    pub fn ways(&self, prefix: &str) -> Result<Vec<Value>> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let said = self.ask(&["global", "rib", "-a", family, "-j"])?;
        let table: Value = serde_json::from_str(&said)?;
        Ok(table[prefix].as_array().cloned().unwrap_or_default())
    }

    /// Waits until it knows these ways to a prefix and no others, and each says each of `words`.
    pub fn learns(&self, prefix: &str, by: &[IpAddr], words: &[&str]) -> Result<()> {
        let mut wanted = by.to_vec();
        wanted.sort_unstable();
        wait::until_some(&format!("GoBGP learns {prefix} by {by:?}"), || {
            let ways = self.ways(prefix)?;
            let mut hops = Vec::new();
            for way in &ways {
                let attributes = way["attrs"].as_array().into_iter().flatten();
                let hop = attributes.filter_map(|it| it["nexthop"].as_str()).next();
                hops.push(hop.unwrap_or_default().parse::<IpAddr>()?);
                let said = way.to_string();
                ensure!(words.iter().all(|word| said.contains(word)), "{said}");
            }
            hops.sort_unstable();
            ensure!(hops == wanted, "by {hops:?}");
            Ok(())
        })
    }
}
