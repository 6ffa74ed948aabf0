//! The process under test, and the handle of a test on it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairway_config::net::AddressRange;
use fairway_gateway::clock::boot_time;
use fairway_gateway::layer2::Layer2;
use fairway_gateway_core::fleet::{HEARTBEAT, RIGHT};
use fairway_integration::lab::{Host, Process};
use fairway_integration::lan::network::{INTERFACE, vip, vip6};
use fairway_integration::{clients, wait};
use tempfile::TempDir;

/// The process: does what the file says, and says what it sees. `own ADDRESS TERM`, `probe ADDRESS`, `end`.
pub(crate) fn respond(file: &Path) -> Result<()> {
    let layer2 = Layer2::start()?;
    let range = |first: IpAddr, last: IpAddr| AddressRange::new(first, last).context("a range");
    layer2.guard(vec![
        range(vip(0), vip(0xffff))?,
        range(vip6(0), vip6(0xffff))?,
    ]);
    layer2.set_interfaces([INTERFACE.into()].into());
    let right = layer2.right(INTERFACE);
    let mut done = String::new();
    let mut said = BTreeSet::new();
    let mut say = |line: String| {
        if said.insert(line.clone()) {
            println!("{line}");
        }
    };
    loop {
        // As a fleet does.
        right.set(boot_time().after(RIGHT));
        let text = fs::read_to_string(file)?;
        if text != done {
            let mut owned = BTreeMap::new();
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                match words[..] {
                    ["own", address, term] => drop(owned.insert(address.parse()?, term.parse()?)),
                    ["probe", address] => {
                        let results = layer2.probe(INTERFACE, vec![address.parse()?]);
                        let result = results.recv_timeout(Duration::from_secs(10))?;
                        say(format!("probed {} {:?}", result.address, result.outcome));
                    }
                    ["end"] => {
                        layer2.stop();
                        return Ok(());
                    }
                    _ => bail!("what is {line}?"),
                }
            }
            layer2.set_owned(INTERFACE, owned);
            done = text;
        }
        match layer2.faults().get(INTERFACE) {
            Some(fault) => say(format!("fault {fault}")),
            None => say("answering".to_owned()),
        }
        for ((_, address), seen) in layer2.conflicts() {
            say(format!("conflict {address} {}", seen.hardware_address));
        }
        if let Some(why) = layer2.kernel_answers() {
            say(format!("the kernel answers: {why}"));
        }
        for address in layer2.own_addresses_in_guard() {
            say(format!("kernel answers for {address}"));
        }
        let age = boot_time().since(layer2.last_turn());
        if age > Duration::from_secs(1) && !layer2.faults().contains_key(INTERFACE) {
            say(format!("the responder has not turned for {age:?}"));
        }
        thread::sleep(HEARTBEAT / 2);
    }
}

/// A responder on a host.
pub(crate) struct Responder {
    pub(crate) process: Process,
    file: PathBuf,
    _folder: TempDir,
}

impl Responder {
    /// One that owns these addresses. The host takes datagrams for the first external addresses, as a gateway does.
    pub(crate) fn start(host: &Host, owned: &[IpAddr]) -> Result<Self> {
        let responder = Self::start_under(host, &[], owned)?;
        responder.says("answering")?;
        Ok(responder)
    }

    /// The same, but by this command, and whether it answers or not.
    pub(crate) fn start_under(host: &Host, under: &[&str], owned: &[IpAddr]) -> Result<Self> {
        let local: Vec<String> = (0..8)
            .flat_map(|n| [vip(n), vip6(n)])
            .map(|address| format!("route replace local {address} dev lo"))
            .collect();
        host.ip(&local.join("\n"))?;
        let folder = TempDir::with_prefix("layer2-")?;
        let file = folder.path().join("owned");
        fs::write(&file, owns(owned, 1))?;
        let own = std::env::current_exe()?;
        let mut words = under.iter().map(OsStr::new).chain([own.as_os_str()]);
        let mut command = Command::new(words.next().context("a program")?);
        command.args(words).arg("--responder").arg(&file);
        Ok(Self {
            process: host.spawn(command)?,
            file,
            _folder: folder,
        })
    }

    pub(crate) fn says(&self, what: &str) -> Result<()> {
        wait::until_some(&format!("the responder says: {what}"), || {
            let said = self.process.said();
            ensure!(said.lines().any(|line| line.contains(what)), "{said}");
            Ok(())
        })
    }

    pub(crate) fn tell(&self, text: &str) -> Result<()> {
        // In one step, so that no half is read.
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.file)?)
    }

    pub(crate) fn own(&self, owned: &[IpAddr], term: u64) -> Result<()> {
        self.tell(&owns(owned, term))
    }

    pub(crate) fn end(mut self) -> Result<()> {
        self.tell("end")?;
        let status = self.process.wait(wait::SOON)?;
        ensure!(status.success(), "{status}: {}", self.process.said());
        Ok(())
    }
}

fn owns(owned: &[IpAddr], term: u64) -> String {
    let lines = owned.iter().map(|it| format!("own {it} {term}\n"));
    lines.collect()
}

/// The table of nftables on a host.
pub(crate) fn table(host: &Host) -> Result<String> {
    host.run(|| clients::output("nft", &["list", "table", "arp", "fairway"]))
}

/// How long each address must have one owner.
pub(crate) const SETTLED: Duration = Duration::from_millis(300);
