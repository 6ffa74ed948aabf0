//! The endpoints, of which one fails.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fairway_integration::servers::{
    Dnsmasq, GracefulServer, Nginx, SlowAnswer, resetting, slow_http,
};
use fairway_integration::site::{Site, at, server};
use rustix::process::Signal;

/// Where endpoints listen.
pub(crate) const PORT: u16 = 8080;
/// How many there are, and the one that fails.
pub(crate) const SERVERS: u8 = 3;
pub(crate) const FAILING: u8 = 1;
/// How long a fault lasts.
pub(crate) const FAULT: Duration = Duration::from_secs(10);
/// How long a slow endpoint thinks: longer than a check waits.
const THINKS: Duration = Duration::from_secs(3);

/// How a port is balanced, and what serves there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortKind {
    /// By connection; nginx.
    Tcp,
    /// By request; a Go server.
    Http,
    /// By UDP flow; dnsmasq.
    Dns,
}

impl PortKind {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Http, Self::Dns];

    /// What may happen to its endpoints.
    pub(crate) fn faults(self) -> &'static [EndpointFault] {
        use EndpointFault::{BlackHoled, Ended, Flapping, Killed, Resetting, Slow, Stopped};
        match self {
            Self::Tcp => &[Killed, Stopped, Resetting, BlackHoled, Slow, Flapping],
            Self::Http => &[
                Ended, Killed, Stopped, Resetting, BlackHoled, Slow, Flapping,
            ],
            Self::Dns => &[Killed, Stopped, BlackHoled],
        }
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP (nginx)",
            Self::Http => "HTTP (Go)",
            Self::Dns => "UDP (dnsmasq)",
        })
    }
}

/// What happens to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointFault {
    /// It is told to end, finishes what it has, and the host refuses then.
    Ended,
    /// It is killed, and the host refuses.
    Killed,
    /// It is stopped. The kernel goes on accepting for it.
    Stopped,
    Resetting,
    BlackHoled,
    /// It answers after three seconds.
    Slow,
    /// It is killed and started again every half second.
    Flapping,
}

impl fmt::Display for EndpointFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "SIGTERM, refuses then",
            Self::Killed => "killed, refuses then",
            Self::Stopped => "SIGSTOP",
            Self::Resetting => "resets",
            Self::BlackHoled => "black hole",
            Self::Slow => "answers after 3 s",
            Self::Flapping => "flaps (1 s)",
        })
    }
}

enum EndpointServer {
    Nginx(Nginx),
    Go(GracefulServer),
    Dns(Dnsmasq),
}

impl EndpointServer {
    fn start(site: &Site, kind: PortKind, number: u8) -> Result<Self> {
        let (place, name) = (at(server(number), PORT), name(number));
        Ok(match kind {
            PortKind::Tcp => {
                let nginx = Nginx::start(&site.farm, place)?;
                fs::write(nginx.file("name"), name)?;
                Self::Nginx(nginx)
            }
            PortKind::Http => Self::Go(GracefulServer::http(&site.farm, &name, place)?),
            PortKind::Dns => {
                let records = [("a.test", IpAddr::from([10, 0, 0, number]))];
                Self::Dns(Dnsmasq::start(&site.farm, place, 1, &records)?)
            }
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match self {
            Self::Nginx(it) => it.signal(signal),
            Self::Go(it) => it.signal(signal),
            Self::Dns(it) => it.signal(signal),
        }
    }
}

/// What an endpoint calls itself.
pub(crate) fn name(number: u8) -> String {
    format!("server-{number}")
}

/// The endpoints. Dropping one kills it.
pub(crate) struct Endpoints<'a> {
    site: &'a Site,
    kind: PortKind,
    failing: Option<EndpointServer>,
    _others: Vec<EndpointServer>,
}

impl<'a> Endpoints<'a> {
    pub(crate) fn start(site: &'a Site, kind: PortKind) -> Result<Self> {
        let others = (0..SERVERS).filter(|number| *number != FAILING);
        let others = others.map(|number| EndpointServer::start(site, kind, number));
        let mut endpoints = Self {
            site,
            kind,
            failing: None,
            _others: others.collect::<Result<_>>()?,
        };
        endpoints.mend()?;
        Ok(endpoints)
    }

    fn mend(&mut self) -> Result<()> {
        self.failing = Some(EndpointServer::start(self.site, self.kind, FAILING)?);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let failing = self.failing.as_ref();
        failing.context("it does not run")?.signal(signal)
    }

    /// Has the fault for its time, and mends it.
    pub(crate) fn suffer(&mut self, fault: EndpointFault) -> Result<()> {
        let site = self.site;
        let place = at(server(FAILING), PORT);
        match fault {
            EndpointFault::Ended => {
                if let Some(EndpointServer::Go(server)) = self.failing.take() {
                    server.end()?;
                }
                thread::sleep(FAULT);
            }
            EndpointFault::Killed => {
                self.failing = None;
                thread::sleep(FAULT);
            }
            EndpointFault::Stopped => {
                self.signal(Signal::STOP)?;
                thread::sleep(FAULT);
                return self.signal(Signal::CONT);
            }
            EndpointFault::Resetting => {
                self.failing = None;
                let _resetting = resetting(&site.farm, place)?;
                thread::sleep(FAULT);
            }
            EndpointFault::BlackHoled => {
                vanish(site, true)?;
                thread::sleep(FAULT);
                return vanish(site, false);
            }
            EndpointFault::Slow => {
                self.failing = None;
                let answer = SlowAnswer {
                    thinks: THINKS,
                    parts: 1,
                    part: 4,
                    every: Duration::ZERO,
                };
                let _slow = slow_http(&site.farm, place, answer)?;
                thread::sleep(FAULT);
            }
            EndpointFault::Flapping => {
                let began = Instant::now();
                while began.elapsed() < FAULT {
                    self.failing = None;
                    thread::sleep(Duration::from_millis(500));
                    self.mend()?;
                    thread::sleep(Duration::from_millis(500));
                }
                return Ok(());
            }
        }
        self.mend()
    }
}

/// The failing endpoint's host is gone, or back: what is sent there goes nowhere.
pub(crate) fn vanish(site: &Site, is_gone: bool) -> Result<()> {
    let last = if is_gone { "98" } else { "99" };
    site.edge.ip(&format!(
        "neighbour replace {} lladdr 02:00:00:00:00:{last} dev back nud permanent",
        server(FAILING)
    ))
}
