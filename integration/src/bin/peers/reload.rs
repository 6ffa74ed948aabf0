//! HAProxy and nginx with many services, and how a change reaches them: a new configuration, and a
//! signal.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fairway_integration::lab::{Host, Process};
use fairway_integration::servers::nginx_stream_module;
use fairway_integration::site::{at, server};
use fairway_integration::{programs, wait};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::paths::{FILES, end};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reloaded {
    HaProxy,
    Nginx,
}

impl Reloaded {
    pub(crate) const ALL: [Self; 2] = [Self::HaProxy, Self::Nginx];

    fn network(self) -> u8 {
        match self {
            Self::HaProxy => 129,
            Self::Nginx => 130,
        }
    }
}

/// One of them, with so many services of two ports each.
pub(crate) struct Reloads {
    pub(crate) which: Reloaded,
    count: usize,
    port: u16,
    process: Process,
    folder: TempDir,
}

impl Reloads {
    /// Starts it; the first service is served at `port` by `server`.
    pub(crate) fn start(
        which: Reloaded,
        edge: &Host,
        count: usize,
        port: u16,
        server: IpAddr,
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-peers-")?;
        edge.ip(&format!(
            "route add local 10.{}.0.0/24 dev lo",
            which.network()
        ))?;
        let file = folder.path().join("configuration");
        fs::write(&file, text(which, &folder, count, (port, server))?)?;
        let mut command;
        match which {
            Reloaded::HaProxy => {
                command = Command::new(programs::find("haproxy")?);
                command.args(["-W", "-db", "-f"]).arg(&file);
            }
            Reloaded::Nginx => {
                command = Command::new(programs::find("nginx")?);
                command.args(["-e", "stderr", "-c"]).arg(&file);
                command.arg("-p").arg(folder.path());
            }
        }
        Ok(Self {
            which,
            count,
            port,
            process: edge.spawn(command)?,
            folder,
        })
    }

    /// Where the first service is.
    pub(crate) fn at(&self) -> SocketAddr {
        at(address(self.which, 0), self.port)
    }

    /// Waits until the last change is all over: while the processes of an earlier configuration go and
    /// those of the next come, another signal may be lost.
    pub(crate) fn settled(&self) -> Result<()> {
        let workers = match self.which {
            Reloaded::HaProxy => 1,
            Reloaded::Nginx => 2,
        };
        let process = self.process.id();
        let (mut last, mut same) = (String::new(), 0);
        wait::until(&format!("{:?} is done with its change", self.which), || {
            let children = format!("/proc/{process}/task/{process}/children");
            let now = fs::read_to_string(children).unwrap_or_default();
            same = if now == last { same + 1 } else { 0 };
            last = now;
            thread::sleep(Duration::from_millis(20));
            same >= 10 && last.split_whitespace().count() == workers
        })
    }

    /// The first service has another server.
    pub(crate) fn change(&self, server: IpAddr) -> Result<()> {
        let text = text(self.which, &self.folder, self.count, (self.port, server))?;
        fs::write(self.folder.path().join("configuration"), text)?;
        self.process.signal(match self.which {
            Reloaded::HaProxy => Signal::USR2,
            Reloaded::Nginx => Signal::HUP,
        })
    }
}

impl Drop for Reloads {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn address(which: Reloaded, n: usize) -> IpAddr {
    Ipv4Addr::new(10, which.network(), 0, (n % 256) as u8).into()
}

fn text(
    which: Reloaded,
    folder: &TempDir,
    count: usize,
    (first, changing): (u16, IpAddr),
) -> Result<String> {
    let mut places = vec![(at(address(which, 0), first), at(changing, first))];
    for n in 0..2 * count - 1 {
        let port = 1000 + (n / 256) as u16;
        places.push((at(address(which, n), port), at(server(0), port)));
    }
    let path = folder.path().display();
    let mut text = match which {
        Reloaded::HaProxy => format!(
            "global\n  nbthread 2\n  maxconn 1000\n  ulimit-n {FILES}\n  no log\ndefaults\n  mode tcp\n  \
             timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n"
        ),
        Reloaded::Nginx => format!(
            "load_module {};\ndaemon off; user root; pid {path}/nginx.pid; error_log stderr \
             crit;\nworker_processes 2; worker_rlimit_nofile {FILES};\nevents {{ worker_connections 8000; \
             }}\nstream {{\n  access_log off;\n",
            nginx_stream_module()?
        ),
    };
    for (n, (listen, server)) in places.into_iter().enumerate() {
        let _ = match which {
            Reloaded::HaProxy => {
                writeln!(text, "listen p{n}\n  bind {listen}\n  server s {server}")
            }
            Reloaded::Nginx => writeln!(
                text,
                "  server {{ listen {listen} reuseport; proxy_pass {server}; }}"
            ),
        };
    }
    if which == Reloaded::Nginx {
        text += "}\n";
    }
    Ok(text)
}
