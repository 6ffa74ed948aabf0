//! The backends, which are replaced one after the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Host;
use crate::servers::GracefulServer;
use crate::site::{at, server};

/// How many backends serve at a time.
pub const BACKENDS: u8 = 4;

/// Where they listen.
pub(super) const PORT: u16 = 8080;

/// How a backend is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListedAs {
    /// It gets traffic.
    Ready,
    /// It ends, and serves still.
    Terminating,
}

/// How a backend ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendEnd {
    /// It serves for so long after it was listed as one that ends.
    After(Duration),
    /// It ends while that is written.
    AtOnce,
}

/// The backends of one balancer.
pub(super) struct Backends<'a> {
    farm: &'a Host,
    start: fn(&Host, &str, SocketAddr) -> Result<GracefulServer>,
    /// By number of the farm's address.
    running: BTreeMap<u8, GracefulServer>,
}

impl<'a> Backends<'a> {
    /// Starts the first ones.
    pub(super) fn start(
        farm: &'a Host,
        start: fn(&Host, &str, SocketAddr) -> Result<GracefulServer>,
    ) -> Result<Self> {
        let mut backends = Self {
            farm,
            start,
            running: BTreeMap::new(),
        };
        for number in 0..BACKENDS {
            backends.add(number)?;
        }
        Ok(backends)
    }

    fn add(&mut self, number: u8) -> Result<()> {
        let name = format!("server-{number}");
        let backend = (self.start)(self.farm, &name, at(server(number), PORT))?;
        self.running.insert(number, backend);
        Ok(())
    }

    /// What is listed now.
    pub(super) fn listed(&self) -> Vec<(IpAddr, ListedAs)> {
        let all = self.running.keys();
        all.map(|number| (server(*number), ListedAs::Ready))
            .collect()
    }

    /// Replaces each by another one, as a rolling update does; `list` says of each change what is listed then.
    pub(super) fn replace(
        &mut self,
        departure: BackendEnd,
        mut list: impl FnMut(&[(IpAddr, ListedAs)]) -> Result<()>,
    ) -> Result<()> {
        let old: Vec<u8> = self.running.keys().copied().collect();
        for number in old {
            let new = (number + BACKENDS) % (2 * BACKENDS);
            self.add(new)?;
            let leaves = self.running.remove(&number).context("it runs")?;
            let mut listed = self.listed();
            listed.push((server(number), ListedAs::Terminating));
            match departure {
                BackendEnd::After(time) => {
                    list(&listed)?;
                    // This is the time that it is about.
                    thread::sleep(time);
                    leaves.end()?;
                }
                BackendEnd::AtOnce => thread::scope(|scope| {
                    let ended = scope.spawn(|| leaves.end());
                    list(&listed)?;
                    let ended = ended.join();
                    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })?,
            }
            list(&self.listed())?;
        }
        Ok(())
    }
}
