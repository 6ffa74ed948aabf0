//! A host that is run by a systemd of its own, with the unit of Fairway and nothing else.
//!
//! What a unit's sandbox is can be read in many places and is decided in one, systemd's code. So the
//! unit is tested by the program itself, in namespaces of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::lab::{Host, Process, note};
use crate::{programs, wait};

/// What makes the namespaces a machine.
const SCRIPT: &str = include_str!("systemd.sh");

/// A systemd that runs on a host.
#[derive(Debug)]
pub struct Systemd {
    process: Process,
    cgroup: PathBuf,
    // Last: it goes after the process that uses it.
    folder: TempDir,
}

/// What there is besides the unit and the manifests.
#[derive(Clone, Debug, Default)]
pub struct UnitSettings {
    /// A watchdog time of its own.
    pub watchdog: Option<&'static str>,
    /// Drop-ins of the unit.
    pub drop_ins: Vec<PathBuf>,
    /// What is in `/etc/fairway/key`.
    pub key: &'static str,
}

impl Systemd {
    /// Starts it with the unit at `unit` and these manifests. The host is called `cp-1` there.
    ///
    /// # Errors
    /// Where this process is not root, or systemd is not installed.
    pub fn start(
        host: &Host,
        unit: &Path,
        manifests: &[(&str, &str)],
        settings: &UnitSettings,
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-systemd-")?;
        fs::create_dir(folder.path().join("manifests"))?;
        for (name, text) in manifests {
            fs::write(folder.path().join("manifests").join(name), text)?;
        }
        fs::write(folder.path().join("key"), settings.key)?;
        fs::create_dir(folder.path().join("drop-ins"))?;
        for path in &settings.drop_ins {
            let name = path.file_name().context("no name")?;
            fs::copy(path, folder.path().join("drop-ins").join(name))?;
        }
        fs::copy(unit, folder.path().join("fairway.service"))?;
        let all = cgroups()?;
        // Its name has to be one that no other test has.
        let name = folder.path().file_name().context("no name")?;
        let cgroup = all.join(name);
        fs::create_dir(&cgroup)
            .with_context(|| format!("{} can't be made: run this as root", cgroup.display()))?;
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --mount --pid --fork --uts --ipc --cgroup \
             --kill-child sh -c \"$SCRIPT\"",
            cgroup.display()
        );
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).env("SCRIPT", SCRIPT);
        command
            .env("FOLDER", folder.path())
            .env("FAIRWAY", programs::fairway()?);

        if let Some(watchdog) = settings.watchdog {
            command.env("WATCHDOG", watchdog);
        }
        let process = host.spawn(command)?;
        Ok(Self {
            process,
            cgroup,
            folder,
        })
    }

    /// Runs a program inside.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let unshare = self.process.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        let first = children.split_whitespace().next();
        let first = first.with_context(|| format!("no systemd: {}", self.process.said()))?;
        let mut command = Command::new(programs::find("nsenter")?);
        command.args([
            "--target", first, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup",
        ]);
        Ok(command.arg(program).args(arguments).output()?)
    }

    /// Runs `systemctl` and takes its success for granted.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run("systemctl", arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "systemctl {arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// A property of the unit.
    pub fn property(&self, name: &str) -> Result<String> {
        let value = self.systemctl(&["show", "fairway", "--value", "--property", name])?;
        Ok(value.trim().to_owned())
    }

    /// Waits until a property of the unit is that.
    pub fn is(&self, name: &str, wanted: &str) -> Result<()> {
        wait::until_some(&format!("{name} is {wanted}"), || {
            match self.property(name)? {
                is if is == wanted => Ok(()),
                other => bail!("it is {other}\n{}\n{}", self.log(), self.process.said()),
            }
        })
    }

    /// The id of Fairway's process, as it is seen here.
    pub fn fairway(&self) -> Result<Pid> {
        let inside = self.property("MainPID")?;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path().join("status");
            let Ok(status) = fs::read_to_string(&path) else {
                continue;
            };
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let ids: Vec<&str> = ids.unwrap_or_default().split_whitespace().collect();
            let is_fairway = status.starts_with("Name:\tfairway\n");
            if is_fairway && ids.last() == Some(&&*inside) && self.holds(ids[0])? {
                return Pid::from_raw(ids[0].parse()?).context("no process");
            }
        }
        bail!("there is no process {inside}: {}", self.log())
    }

    /// Whether a process is one of this systemd's.
    fn holds(&self, pid: &str) -> Result<bool> {
        let name = self
            .cgroup
            .file_name()
            .context("no name")?
            .to_string_lossy();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Ok(cgroups.contains(&*name))
    }

    /// Sends Fairway a signal, not by way of systemd.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.fairway()?, signal)?)
    }

    /// What Fairway has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where the manifests are, outside.
    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        note(format!("--- fairway.service\n{}", self.log()));
        // With its first process the whole namespace ends.
        let _ = self.process.signal(Signal::KILL);
        let _ = self.process.wait(wait::SOON);
        let mut below = vec![self.cgroup.clone()];
        let mut at = 0;
        while let Some(folder) = below.get(at).cloned() {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            below.extend(
                entries
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
            at += 1;
        }
        for folder in below.iter().rev() {
            // It is empty as soon as the kernel has taken its processes away.
            let _ = wait::until_within(wait::SOON, "the cgroup is empty", || {
                fs::remove_dir(folder).is_ok()
            });
        }
    }
}

/// Where cgroups of version 2 are.
fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    found.context("no cgroup2 is mounted")
}
