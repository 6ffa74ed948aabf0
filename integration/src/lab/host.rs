//! One host: a network namespace and who works in it.

use std::fs::{self, File};
use std::future::Future;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::process::Process;
use super::sys;
use crate::{clients, programs, wait};

/// A host of the lab. Copies stand for the same host, which goes with the last of them.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: File,
    path: PathBuf,
    jobs: Option<Sender<Job>>,
    keeper: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Host {
    /// A host with nothing but a loopback interface, which is up.
    pub fn new(name: &str) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (report, reported) = mpsc::channel();
        // The keeper makes the namespace, and starts every program of the host: the kernel ties a
        // program to the thread that started it, so that thread has to live as long as the host.
        let keeper = thread::Builder::new()
            .name(format!("host {name}"))
            .spawn(move || {
                if report.send(new_namespace()).is_ok() {
                    todo.into_iter().for_each(|job| job());
                }
            })?;
        let (namespace, path) = reported.recv().context("the host's thread ended")??;
        let host = Self(Arc::new(Inner {
            name: name.to_owned(),
            namespace,
            path,
            jobs: Some(jobs),
            keeper: Some(keeper),
        }));
        // Addresses count at once: duplicate address detection takes a second.
        for (setting, value) in [("all/accept_dad", "0"), ("default/accept_dad", "0")] {
            host.sysctl(&format!("ipv6/conf/{setting}"), value)?;
        }
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `work` on a thread inside the host. A panic in it goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.move_in();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with each line of `script`.
    pub fn ip(&self, script: &str) -> Result<()> {
        let ip = programs::find("ip")?;
        self.run(|| batch(Command::new(ip), script))
            .with_context(|| format!("ip in {}: {script}", self.name()))
    }

    /// Gives the interface addresses with their prefix lengths.
    pub fn addresses(&self, interface: &str, addresses: &[(IpAddr, u8)]) -> Result<()> {
        let lines: Vec<String> = addresses
            .iter()
            .map(|(address, length)| {
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                format!("address add {address}/{length} dev {interface}{nodad}")
            })
            .collect();
        self.ip(&lines.join("\n"))
    }

    /// Sets `/proc/sys/net/NAME`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| fs::write(&path, value))
            .with_context(|| format!("{path} in {}", self.name()))
    }

    /// Starts a program inside the host.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let (report, reported) = mpsc::channel();
        let label = format!(
            "{} on {}",
            command.get_program().to_string_lossy(),
            self.name()
        );
        let mut command = command;
        sys::die_with_parent(&mut command);
        let job: Job = Box::new(move || {
            // Who asked may be gone by now; then the handle, dropped here, ends the program.
            let _ = report.send(Process::start(command, label));
        });
        let jobs = self
            .0
            .jobs
            .as_ref()
            .ok_or_else(|| anyhow!("the host is going"))?;
        jobs.send(job)
            .map_err(|_| anyhow!("the host's thread ended"))?;
        reported.recv().context("the host's thread ended")?
    }

    /// Runs what `bind` makes inside the host until the handle is dropped, on a thread and a runtime
    /// of its own. When this returns, `bind` has returned: its sockets are bound.
    pub fn serve<F>(&self, bind: impl FnOnce() -> Result<F> + Send + 'static) -> Result<Served>
    where
        F: Future<Output = ()>,
    {
        let host = self.clone();
        let (report, reported) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("server on {}", self.name()))
            .spawn(move || {
                host.move_in();
                let runtime = match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                {
                    Ok(runtime) => runtime,
                    Err(e) => return drop(report.send(Err(e.into()))),
                };
                let _inside = runtime.enter();
                match bind() {
                    Ok(serve) => {
                        let _ = report.send(Ok(()));
                        runtime.block_on(async {
                            tokio::select! {
                                () = serve => {}
                                _ = stopped => {}
                            }
                        });
                    }
                    Err(e) => drop(report.send(Err(e))),
                }
            })?;
        reported.recv().context("the server's thread ended")??;
        Ok(Served {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Moves the calling thread into the host.
    #[allow(clippy::panic)]
    fn move_in(&self) {
        let kind = Some(LinkNameSpaceType::Network);
        if let Err(e) = move_into_link_name_space(self.0.namespace.as_fd(), kind) {
            // To go on would be to work on another host.
            panic!("can't enter host {}: {e}", self.name());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(keeper) = self.keeper.take()
            && keeper.thread().id() != thread::current().id()
        {
            let _ = keeper.join();
        }
    }
}

/// A server that runs in this process, inside a host, until this handle is dropped.
#[derive(Debug)]
pub struct Served {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Waits until what it runs has ended by itself.
    pub fn ended(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Lays a wire between two hosts: an interface of the given name on each, both up and carrying.
pub fn wire(one: (&Host, &str), other: (&Host, &str)) -> Result<()> {
    let ((host, interface), (peer, peer_interface)) = (one, other);
    let script = format!(
        "link add name {interface} netns {} type veth peer name {peer_interface} netns {}",
        host.0.path.display(),
        peer.0.path.display()
    );
    batch(Command::new(programs::find("ip")?), &script).with_context(|| script.clone())?;
    host.ip(&format!("link set dev {interface} up"))?;
    peer.ip(&format!("link set dev {peer_interface} up"))?;
    // The end that was up first learns of the other by a work item of the kernel, and drops what it
    // is to send until then (linkwatch_do_dev in net/core/link_watch.c): a first SYN would be
    // repeated after a second.
    for (host, interface) in [one, other] {
        let arguments = ["-oneline", "link", "show", "dev", interface];
        wait::until_some(&format!("{interface} of {} is up", host.name()), || {
            let link = host.run(|| clients::output("ip", &arguments))?;
            if link.contains(" state UP ") {
                Ok(())
            } else {
                Err(anyhow!("{link}"))
            }
        })?;
    }
    Ok(())
}

fn new_namespace() -> Result<(File, PathBuf)> {
    sys::unshare(UnshareFlags::NEWNET).context("no network namespace")?;
    // A name that other programs can open as long as this thread lives.
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let path = PathBuf::from(format!("/proc/{}/task/{thread}/ns/net", std::process::id()));
    let namespace = File::open(&path).with_context(|| path.display().to_string())?;
    Ok((namespace, path))
}

/// Runs `ip -batch` on the network namespace of the calling thread.
fn batch(mut ip: Command, script: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
        stdin.write_all(b"\n")?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
