//! Where the demo's Services are to be reached.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use fairway_config::view::ServiceRow;

/// The demo's port numbers. All but the last are ports of the demo's own addresses.
pub(super) const WEB: u16 = 8080;
pub(super) const STICKY: u16 = 8081;
pub(super) const CHAT: u16 = 8082;
pub(super) const ECHO: u16 = 5300;

/// Where the demo's Services are to be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    pub(super) web: SocketAddr,
    pub(super) sticky: SocketAddr,
    pub(super) chat: SocketAddr,
    pub(super) echo: SocketAddr,
    pub(super) api: SocketAddr,
}

impl Targets {
    /// As the Services' statuses say.
    pub(super) fn of(services: &[ServiceRow], node: Ipv4Addr) -> anyhow::Result<Self> {
        let named = |name: &str| {
            let row = services.iter().find(|row| row.name == name);
            row.with_context(|| format!("the demo's Service '{name}' is not there"))
        };
        let vip = |name: &str, port: u16| {
            let address = named(name)?.external_ips.first().copied();
            let address = address.with_context(|| format!("'{name}' got no external address"))?;
            anyhow::Ok(SocketAddr::new(address, port))
        };
        let node_port = named("api")?.ports.first().and_then(|port| port.node_port);
        let node_port = node_port.context("'api' got no node port")?;
        Ok(Self {
            web: vip("web", WEB)?,
            sticky: vip("sticky", STICKY)?,
            chat: vip("chat", CHAT)?,
            echo: vip("echo", ECHO)?,
            api: SocketAddr::from((node, node_port)),
        })
    }
}
