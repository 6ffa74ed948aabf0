//! Which server answers a client.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

use super::Installed;
use crate::lab::Host;
use crate::site::{at, client};
use crate::{clients, wait};

/// A client's UDP socket: what a gateway knows a flow by.
#[derive(Debug)]
pub struct Flow(UdpSocket);

impl Flow {
    /// Waits until that server answers it, or nobody where there is no name.
    pub fn answers(&self, name: Option<&str>) -> Result<()> {
        wait::until_some(&format!("{name:?} answers the flow"), || {
            let who = clients::who_on(&self.0).ok();
            ensure!(who.as_deref() == name, "{who:?}");
            Ok(())
        })
    }
}

/// Waits until the health check of the Service `shop/NAME` at `to`, asked from `host`, says that so
/// many endpoints are there.
pub fn health_says(host: &Host, to: SocketAddr, name: &str, count: u64) -> Result<()> {
    wait::until_some(&format!("the health check at {to} says {count}"), || {
        let answer = host.run(|| clients::http_get(to, "/"))?;
        let status = if count > 0 { 200 } else { 503 };
        ensure!(answer.status == status, "{answer:?}");
        let weight = answer.header("x-load-balancing-endpoint-weight");
        ensure!(weight == Some(&count.to_string()), "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body)?;
        let service = json!({"namespace": "shop", "name": name});
        ensure!(body["service"] == service, "{body}");
        ensure!(body["localEndpoints"] == count, "{body}");
        Ok(())
    })
}

impl Installed<'_> {
    /// A flow from a client of the site.
    pub fn flow(&self, to: SocketAddr) -> Result<Flow> {
        let socket = self.site.client.run(|| clients::udp(Some(client(0)), to))?;
        Ok(Flow(socket))
    }

    /// What TCP answers to a client of the site; nothing where nobody does.
    pub fn who(&self, to: SocketAddr) -> Option<String> {
        self.site.client.run(|| clients::who(to).ok())
    }

    /// Waits until that server answers there over TCP, or nobody where there is no name.
    pub fn answers(&self, ip: IpAddr, port: u16, name: Option<&str>) -> Result<()> {
        let to = at(ip, port);
        wait::until_some(&format!("{name:?} answers at {to}"), || {
            let who = self.who(to);
            ensure!(who.as_deref() == name, "{who:?}");
            Ok(())
        })
    }

    /// While `act` goes on that server answers every new connection there, and an old one.
    pub fn served_while(
        &self,
        to: SocketAddr,
        name: &str,
        act: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let ends = AtomicBool::new(false);
        let probe = || -> Result<()> {
            let mut open = clients::connect_tcp(to)?;
            while !ends.load(Ordering::Relaxed) {
                let old = clients::ask(&mut open, "who").context("an old connection")?;
                let new = clients::who(to).context("a new connection")?;
                let same = old.split_whitespace().next() == Some(name);
                ensure!(same && new == name, "{old} {new}");
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        thread::scope(|scope| {
            let probing = scope.spawn(|| self.site.client.run(probe));
            let acted = act();
            ends.store(true, Ordering::Relaxed);
            let probed = probing.join().map_err(|_| anyhow!("it panicked"))?;
            acted.and(probed.context("traffic stopped"))
        })
    }

    /// [`answers`](Self::answers) over UDP.
    pub fn answers_udp(&self, ip: IpAddr, port: u16, name: Option<&str>) -> Result<()> {
        let to = at(ip, port);
        wait::until_some(&format!("{name:?} answers at {to} over UDP"), || {
            let who = self.site.client.run(|| clients::who_udp(None, to).ok());
            ensure!(who.as_deref() == name, "{who:?}");
            Ok(())
        })
    }
}
