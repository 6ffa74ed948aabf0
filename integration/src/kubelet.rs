//! Gateways' Pods on a node, as its kubelet runs them: each container has a root and a PID namespace of its own, the
//! network is the host's, the state directory is a hostPath.
//!
//! What is in a root: the program, libraries (the image's program needs none), `/etc/resolv.conf`, the ServiceAccount's
//! files, `/proc`, a read-only `/sys` and the usual devices. A container has the capabilities and flags of the chart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::{API_ADDRESS, API_PORT};
use crate::lab::{Host, Process};
use crate::{programs, wait};

/// How often the kubelet asks whether a container is ready.
const PROBED_EVERY: Duration = Duration::from_millis(250);

/// Where a container has its own socket.
const PROBE_SOCKET: &str = "/run/fairway/probe.sock";

/// What a container may, as in the chart.
const CAPABILITIES: [&str; 5] = [
    "bpf",
    "net_admin",
    "net_bind_service",
    "net_raw",
    "sys_nice",
];

/// Makes the root of a container: `$1` is its folder, `$2` the program, `$3` the hostPath, `$4` the ServiceAccount's
/// files, `$5` the Pod's volume. The rest is the container's command. The shell is the first process of a PID namespace,
/// and becomes the command.
const RUN: &str = r#"
root=$1 program=$2 state=$3 account=$4 volume=$5
shift 5
mount -t tmpfs tmpfs "$root"
cd "$root"
mkdir -p bin etc proc sys dev run/fairway var/lib/fairway var/run/secrets/kubernetes.io/serviceaccount .runtime
for library in lib lib64 usr/lib usr/lib64; do
  if [ -d "/$library" ]; then mkdir -p "$library"; mount --bind "/$library" "$library"; fi
done
for file in "$program:bin/fairway" "$(command -v setpriv):.runtime/setpriv" \
    /dev/null:dev/null /dev/zero:dev/zero /dev/urandom:dev/urandom /dev/random:dev/random; do
  : > "${file##*:}"
  mount --bind "${file%%:*}" "${file##*:}"
done
: > etc/resolv.conf
mount --bind "$state" var/lib/fairway
mount --bind "$volume" run/fairway
mount --bind "$account" var/run/secrets/kubernetes.io/serviceaccount
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys || mount --rbind /sys sys
mount -o remount,ro,bind "$root" || true
exec chroot "$root" "$@"
"#;

/// The kubelet of a host, for Pods of gateways.
pub struct Kubelet {
    host: Host,
    node: String,
    folder: TempDir,
    pods: u32,
}

impl Kubelet {
    /// One for a node, with the token of that kubeconfig.
    pub fn new(host: &Host, node: &str, kubeconfig: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-node-")?;
        let account = folder.path().join("account");
        fs::create_dir(&account)?;
        fs::create_dir(folder.path().join("state"))?;
        let config: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
        let text = |path: &str| {
            let text = config.pointer(path).and_then(Value::as_str);
            text.with_context(|| format!("no {path} in the kubeconfig"))
        };
        fs::write(account.join("token"), text("/users/0/user/token")?)?;
        let authority = text("/clusters/0/cluster/certificate-authority")?;
        fs::copy(authority, account.join("ca.crt"))?;
        fs::write(account.join("namespace"), crate::in_cluster::NAMESPACE)?;
        Ok(Self {
            host: host.clone(),
            node: node.to_owned(),
            folder,
            pods: 0,
        })
    }

    /// The state directory, which all Pods of the node share.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A new Pod whose container has been started, with these arguments besides.
    pub fn start(&mut self, arguments: &[&str]) -> Result<NodePod> {
        self.pods += 1;
        let folder = self.folder.path().join(format!("pod-{}", self.pods));
        let uid = format!("00000000-0000-4000-8000-{:012}", self.pods);
        fs::create_dir(&folder)?;
        fs::create_dir(folder.join("volume"))?;
        let mut pod = NodePod {
            host: self.host.clone(),
            node: self.node.clone(),
            uid,
            folder,
            state: self.state(),
            account: self.folder.path().join("account"),
            arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
            containers: 0,
            container: None,
        };
        pod.start_container()?;
        Ok(pod)
    }

    /// A new Pod beside that one; when it is ready, that one is ended. Returns it.
    pub fn roll(&mut self, old: NodePod, arguments: &[&str]) -> Result<NodePod> {
        let mut new = self.start(arguments)?;
        new.ready()?;
        let status = old.terminate(GRACE)?;
        ensure!(status.success(), "the old container ended with {status}");
        Ok(new)
    }
}

/// How long a Pod has to end.
pub const GRACE: Duration = Duration::from_secs(45);

/// A Pod with one container.
pub struct NodePod {
    host: Host,
    node: String,
    uid: String,
    folder: PathBuf,
    state: PathBuf,
    account: PathBuf,
    arguments: Vec<String>,
    containers: u32,
    container: Option<Process>,
}

impl NodePod {
    /// Starts the container, as the kubelet does when the one before has ended.
    pub fn start_container(&mut self) -> Result<()> {
        self.containers += 1;
        let root = self.folder.join(format!("root-{}", self.containers));
        fs::create_dir(&root)?;
        let capabilities = CAPABILITIES.map(|name| format!(",+{name}")).concat();
        let mut command = Command::new(programs::find("unshare")?);
        // The propagation is private, so the host sees none of its mounts.
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--"]);
        command.args(["sh", "-ec", RUN, "sh"]);
        command.args([&root, &programs::fairway()?.to_path_buf(), &self.state]);
        command.args([&self.account, &self.folder.join("volume")]);
        command.args(["/.runtime/setpriv", "--no-new-privs", "--inh-caps=-all"]);
        command.arg(format!("--bounding-set=-all{capabilities}"));
        command.args(["/bin/fairway", "gateway", "--state=/var/lib/fairway"]);
        command.arg(format!("--node-name={}", self.node));
        command.args(["--take-over", "--drain-timeout=30s"]);
        command.args(&self.arguments);
        command
            .env_clear()
            .env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin")
            .env("FAIRWAY_POD", &self.uid)
            .env("FAIRWAY_PROBE_SOCKET", PROBE_SOCKET)
            .env("FAIRWAY_LOG", "info")
            .env("KUBERNETES_SERVICE_HOST", API_ADDRESS.to_string())
            .env("KUBERNETES_SERVICE_PORT", API_PORT.to_string());
        self.container = Some(self.host.spawn(command)?);
        Ok(())
    }

    fn container(&mut self) -> Result<&mut Process> {
        self.container.as_mut().context("it has no container")
    }

    /// What its container has written.
    pub fn said(&mut self) -> Result<String> {
        Ok(self.container()?.said())
    }

    /// Waits until its container has written that.
    pub fn says(&mut self, words: &str) -> Result<()> {
        wait::until_some(&format!("the log has {words:?}"), || {
            let said = self.said()?;
            ensure!(said.contains(words), "{said}");
            Ok(())
        })
    }

    /// The first process of its container, as the host counts.
    fn first(&mut self) -> Result<Pid> {
        let parent = self.container()?.id();
        let path = format!("/proc/{parent}/task/{parent}/children");
        let children = fs::read_to_string(path)?;
        let first = children.split_whitespace().next().context("no container")?;
        Pid::from_raw(first.parse()?).context("no process")
    }

    /// Sends the first process of its container a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.first()?, signal)?)
    }

    /// How many sockets its container has open.
    pub fn sockets(&mut self) -> Result<usize> {
        let first = self.first()?.as_raw_pid();
        let all = fs::read_dir(format!("/proc/{first}/fd"))?;
        let open = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let open = open.filter(|target| target.to_string_lossy().starts_with("socket:"));
        Ok(open.count())
    }

    /// Asks the container as the kubelet does (`alive` or `ready`); the error is what it says.
    pub fn probe(&mut self, question: &str) -> Result<()> {
        let first = self.first()?.as_raw_pid().to_string();
        let mut command = Command::new(programs::find("nsenter")?);
        command.args(["--target", &first, "--mount", "--pid", "--root", "--wdns=/"]);
        command.args(["--", "/bin/fairway", "probe", question]);
        command.env("FAIRWAY_PROBE_SOCKET", PROBE_SOCKET);
        let output = self.host.run(|| command.output())?;
        if output.status.success() {
            return Ok(());
        }
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim())
    }

    /// Waits until it is ready. It must be alive all the time.
    pub fn ready(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.container()?.ended()? {
                bail!("its container has ended with {status}: {}", self.said()?);
            }
            let Err(why) = self.probe("ready") else {
                return Ok(());
            };
            ensure!(began.elapsed() < wait::SOON, "{why}: {}", self.said()?);
            std::thread::sleep(PROBED_EVERY);
        }
    }

    /// Waits until its container has ended, and says how.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        self.container()?.wait(wait::SOON)
    }

    /// Whether its container runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.container()?.ended()?.is_none())
    }

    /// Kills its container, and waits for that. The kubelet would start it again.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.ended().map(drop)
    }

    /// Ends the Pod: SIGTERM, and SIGKILL when its time is over. Returns how its container ended.
    pub fn terminate(mut self, grace: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let status = self.container()?.wait(grace);
        status.with_context(|| "it was not over in time")
    }
}

impl Drop for NodePod {
    fn drop(&mut self) {
        // The end of its parent is told to the thread that it had then. A process that has begun anew has another one.
        if self.runs().is_ok_and(|runs| runs) {
            let _ = self.signal(Signal::KILL);
        }
    }
}
