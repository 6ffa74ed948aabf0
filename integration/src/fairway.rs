//! A Fairway under test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::clients::{self, Response};
use crate::lab::{Host, Process};
use crate::{programs, wait};

/// Where the admin address is, inside the host.
pub const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9901);

/// Fairway on a host: `standalone` with a manifest and a state directory of its own, or a part of
/// it in a cluster.
#[derive(Debug)]
pub struct Fairway {
    process: Option<Process>,
    host: Host,
    /// `controller` or `gateway` and the kubeconfig; nothing: `standalone`.
    member: Option<(&'static str, PathBuf)>,
    manifests: PathBuf,
    state: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Another build of it; none: the usual one.
    program: Option<PathBuf>,
    /// A program of the system, and arguments of its own, that what it is to run stands behind.
    under: Option<(&'static str, Vec<String>)>,
    log: &'static str,
    // Last: it goes after the process that uses it.
    folder: TempDir,
}

impl Fairway {
    /// A Fairway that is not started yet; its directories are there.
    pub fn prepare(host: &Host) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-")?;
        let (manifests, state) = (folder.path().join("manifests"), folder.path().join("state"));
        fs::create_dir(&manifests)?;
        fs::create_dir(&state)?;
        Ok(Self {
            process: None,
            host: host.clone(),
            member: None,
            manifests,
            state,
            arguments: Vec::new(),
            environment: Vec::new(),
            program: None,
            under: None,
            log: "debug,kube=info,hyper_util=info,rustls=info,tower=info,h2=info",
            folder,
        })
    }

    /// A Fairway that runs on these manifests (file name, text) and is ready.
    pub fn start(host: &Host, manifests: &[(&str, &str)]) -> Result<Self> {
        let mut fairway = Self::prepare(host)?;
        for (name, text) in manifests {
            fairway.write(name, text)?;
        }
        fairway.launch()?;
        fairway.ready()?;
        Ok(fairway)
    }

    /// `fairway controller` or `fairway gateway` in the cluster of that kubeconfig; not started
    /// yet.
    pub fn member(host: &Host, command: &'static str, kubeconfig: &Path) -> Result<Self> {
        let mut member = Self::prepare(host)?;
        member.member = Some((command, kubeconfig.to_owned()));
        Ok(member)
    }

    /// More arguments.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// More of an environment.
    pub fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.environment.extend(variables);
        self
    }

    /// Another build of it.
    pub fn program(mut self, path: PathBuf) -> Self {
        self.program = Some(path);
        self
    }

    /// How many files it may have open.
    pub fn open_files(mut self, limit: u32) -> Self {
        self.under = Some(("prlimit", vec![format!("--nofile={limit}:{limit}")]));
        self
    }

    /// Which capabilities it and whatever it starts may have at the most: `NET_ADMIN`, …
    pub fn capabilities(mut self, names: &[&str]) -> Self {
        let names = names
            .iter()
            .map(|name| format!(",+{}", name.to_lowercase()));
        let bound = format!("--bounding-set=-all{}", names.collect::<String>());
        let arguments = vec![bound, "--inh-caps=-all".to_owned()];
        self.under = Some(("setpriv", arguments));
        self
    }

    /// What it says of its work; everything unless told otherwise.
    pub fn log(mut self, level: &'static str) -> Self {
        self.log = level;
        self
    }

    /// Another manifest directory than its own.
    pub fn manifests_in(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifests = path.into();
        self
    }

    /// Another state directory than its own.
    pub fn state_in(mut self, path: impl Into<PathBuf>) -> Self {
        self.state = path.into();
        self
    }

    /// The manifest directory.
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// The state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A folder of this Fairway's for whatever a test needs; goes with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a manifest in one step, by renaming, as careful people do.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.manifests.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let unfinished = path.with_file_name(format!(
            ".{}.new",
            path.file_name().unwrap_or_default().to_string_lossy()
        ));
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, &path).with_context(|| path.display().to_string())
    }

    /// Removes a manifest.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.manifests.join(name);
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// Starts the process and does not wait.
    pub fn launch(&mut self) -> Result<()> {
        let fairway = match &self.program {
            Some(program) => program,
            None => programs::fairway()?,
        };
        let mut command = match &self.under {
            None => Command::new(fairway),
            Some((program, arguments)) => {
                let mut command = Command::new(programs::find(program)?);
                command.args(arguments).arg(fairway);
                command
            }
        };
        match &self.member {
            None => {
                command.arg("standalone");
                command.arg("--manifests").arg(&self.manifests);
                command.arg("--state").arg(&self.state);
            }
            Some((name, kubeconfig)) => {
                command.arg(name).arg("--kubeconfig").arg(kubeconfig);
            }
        }
        command.args(["--admin", &ADMIN.to_string()]);
        command.args(&self.arguments);
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("FAIRWAY_LOG", self.log)
            .env_remove("RUST_LOG");
        self.process = Some(self.host.spawn(command)?);
        Ok(())
    }

    /// A new process takes over from this one, which ends then.
    pub fn upgrade(&mut self) -> Result<()> {
        let mut old = self.process.take().context("Fairway is not started")?;
        self.arguments.push("--take-over".to_owned());
        let launched = self.launch();
        self.arguments.pop();
        launched?;
        self.logs(&[" taken over c"])?;
        let status = old.wait(wait::SOON)?;
        if !status.success() {
            bail!("the old process ended with {status}");
        }
        self.ready()
    }

    /// The process.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("Fairway is not started")
    }

    /// Waits until `/readyz` says 200. Ends early where the process has ended.
    pub fn ready(&mut self) -> Result<()> {
        self.ready_within(wait::SOON)
    }

    /// [`ready`](Self::ready), with a limit of its own.
    pub fn ready_within(&mut self, limit: Duration) -> Result<()> {
        let mut last = String::new();
        wait::until_some_within(limit, "Fairway is ready", || {
            if let Some(status) = self.process()?.ended()? {
                // Told apart below: no answer will come any more.
                last = format!("it has ended with {status}");
                return Ok(false);
            }
            match self.get("/readyz") {
                Ok(response) if response.status == 200 => Ok(true),
                Ok(response) => bail!("{}: {}", response.status, response.body.trim()),
                Err(e) => Err(e),
            }
        })
        .and_then(|ready| {
            if ready {
                Ok(())
            } else {
                bail!("Fairway is not ready: {last}")
            }
        })
    }

    /// Waits until everything that is on disk now has been taken in and every status is written:
    /// for tests that look at what did not happen. `marker` is written as a Service without
    /// traffic, and waited for.
    pub fn settle(&mut self, marker: &str) -> Result<()> {
        self.write(
            &format!("{marker}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {marker}, namespace: settle}}\n\
                 spec: {{ports: [{{port: 1}}]}}\n"
            ),
        )?;
        wait::until_some(&format!("{marker} is listed"), || {
            self.service(&format!("settle/{marker}")).map(|_| ())
        })?;
        // The controller lists it; the gateway may still be at work on what came with it.
        self.ready()
    }

    /// Asks the admin address.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.host.run(|| clients::http_get(ADMIN, path))
    }

    /// The items of a list of the API: `services`, `endpoints`, `pools`, `gateways`, `listeners`.
    pub fn list(&self, what: &str) -> Result<Vec<Value>> {
        let response = self.get(&format!("/api/v1/{what}"))?;
        if response.status != 200 {
            bail!("/api/v1/{what}: {} {}", response.status, response.body);
        }
        let list: Value = serde_json::from_str(&response.body)?;
        Ok(list
            .get("items")
            .and_then(Value::as_array)
            .context("no items")?
            .clone())
    }

    /// Waits until the endpoint of a Service whose row has `value` in `field` is in that state:
    /// `eligible`, or why not.
    pub fn endpoint_is(
        &self,
        service: &str,
        (field, value): (&str, &str),
        state: &str,
    ) -> Result<()> {
        let what = format!("the endpoint of {service} with the {field} {value} is {state}");
        wait::until_some(&what, || {
            let rows = self.list("endpoints")?;
            let is_it = |row: &&Value| text(row, "service") == service && text(row, field) == value;
            let row = rows.iter().find(is_it).context("it is not listed")?;
            match text(row, "state") {
                is if is == state => Ok(()),
                _ => bail!("{row}"),
            }
        })
    }

    /// The row of one Service, `NAMESPACE/NAME`.
    pub fn service(&self, name: &str) -> Result<Value> {
        self.list("services")?
            .into_iter()
            .find(|row| format!("{}/{}", text(row, "namespace"), text(row, "name")) == name)
            .with_context(|| format!("there is no Service {name}"))
    }

    /// The external addresses of a Service.
    pub fn external_ips(&self, name: &str) -> Result<Vec<String>> {
        let row = self.service(name)?;
        let ips = row.get("externalIps").or_else(|| row.get("externalIPs"));
        let ips = ips
            .and_then(Value::as_array)
            .with_context(|| format!("{row}"))?;
        Ok(ips
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect())
    }

    /// The node ports of a Service in the order of its ports; those that have none left out.
    pub fn node_ports(&self, name: &str) -> Result<Vec<u16>> {
        let row = self.service(name)?;
        let ports = row
            .get("ports")
            .and_then(Value::as_array)
            .context("no ports")?;
        Ok(ports
            .iter()
            .filter_map(|port| port.get("nodePort")?.as_u64())
            .filter_map(|port| u16::try_from(port).ok())
            .collect())
    }

    /// Waits until the Service has an external address, and says which is its first.
    pub fn address(&self, name: &str) -> Result<String> {
        wait::until_some(&format!("{name} has an external address"), || {
            self.external_ips(name)?
                .into_iter()
                .next()
                .context("pending")
        })
    }

    /// Everything that the conditions of a Service say: reasons and messages.
    pub fn conditions(&self, name: &str) -> Result<String> {
        let row = self.service(name)?;
        let conditions = row
            .get("conditions")
            .and_then(Value::as_array)
            .context("no conditions")?;
        Ok(conditions
            .iter()
            .map(|condition| {
                let [kind, status, reason, message] =
                    ["type", "status", "reason", "message"].map(|field| text(condition, field));
                format!("{kind}={status} {reason}: {message}\n")
            })
            .collect())
    }

    /// Waits until the conditions of a Service say each of `words` (in any case).
    pub fn says(&self, name: &str, words: &[&str]) -> Result<()> {
        let what = format!("the conditions of {name} say {words:?}");
        wait::until_some(&what, || holds(&self.conditions(name)?, words))
    }

    /// Waits until `explain` says each of `words` of a Service.
    pub fn explains(&self, name: &str, words: &[&str]) -> Result<()> {
        wait::until_some(&format!("explain {name} says {words:?}"), || {
            // Of what is held back it speaks, and ends with 1.
            let output = self.cli(&["explain", "service", name])?;
            holds(&String::from_utf8_lossy(&output.stdout), words)
        })
    }

    /// Waits until the process's log has each of `words` in one line.
    pub fn logs(&self, words: &[&str]) -> Result<()> {
        let process = self.process.as_ref().context("Fairway is not started")?;
        wait::until_some(&format!("a line of the log has {words:?}"), || {
            let said = process.said();
            match said
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
            {
                true => Ok(()),
                false => bail!("it has not"),
            }
        })
    }

    /// Waits until the API's list of problems says each of `words`.
    pub fn problem(&self, words: &[&str]) -> Result<()> {
        wait::until_some(&format!("the problems say {words:?}"), || {
            holds(&self.get("/api/v1/problems")?.body, words)
        })
    }

    /// The sum of a metric's series that have all of `labels` (each as `name="value"`); 0 where
    /// there is none.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let body = self.get("/metrics")?.body;
        let mut sum = 0.0;
        for line in body.lines() {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            let (series, value) = rest.rsplit_once(' ').unwrap_or((rest, ""));
            let ours = series.is_empty() || series.starts_with('{');
            if ours && labels.iter().all(|label| series.contains(label)) {
                sum += value.parse::<f64>().with_context(|| line.to_owned())?;
            }
        }
        Ok(sum)
    }

    /// Runs another command of `fairway` on the host, against this one's admin address where the
    /// command has one.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(programs::fairway()?);
        command
            .args(arguments)
            .env("FAIRWAY_ADMIN", ADMIN.to_string());
        Ok(self.host.run(|| command.output())?)
    }

    /// Standard output of a command that must succeed.
    pub fn cli_output(&self, arguments: &[&str]) -> Result<String> {
        clients::succeeded("fairway", arguments, &self.cli(arguments)?)
    }

    /// The Service as it stands in the state directory.
    pub fn state_file(&self, name: &str) -> Result<Value> {
        let path = self.state.join("services").join(format!("{name}.yaml"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_saphyr::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Asks it to end (SIGTERM) and waits for that, at most for `limit`.
    pub fn stop_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process()?.signal(Signal::TERM)?;
        let status = self.process()?.wait(limit)?;
        self.process = None;
        Ok(status)
    }

    /// Asks it to end and waits for that: it must be a good end. For when no connection is open.
    pub fn stop(&mut self) -> Result<()> {
        // Less than connections have to drain: nothing is there to be waited for.
        let status = self.stop_within(Duration::from_secs(25))?;
        if !status.success() {
            bail!("Fairway ended with {status}");
        }
        Ok(())
    }

    /// Kills it (SIGKILL) at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        self.launch()?;
        self.ready()
    }
}

/// A field of a JSON object as text; empty where it has none.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Whether `text` has each of `words`, in any case; the error is the text.
fn holds(text: &str, words: &[&str]) -> Result<()> {
    let lower = text.to_lowercase();
    match words
        .iter()
        .find(|word| !lower.contains(&word.to_lowercase()))
    {
        None => Ok(()),
        Some(word) => bail!("'{word}' is not in: {text}"),
    }
}
