//! A Fairway that runs, and its commands.

use std::net::SocketAddr;
use std::process::{Command, Output};

use anyhow::Result;
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice};
use fairway_integration::programs;
use fairway_integration::servers::named;
use fairway_integration::site::{Site, server, vip};

/// Runs a command to its end.
pub(crate) fn fairway(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(programs::fairway()?)
        .args(arguments)
        .output()?)
}

/// What it printed.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An edge with one Service whose endpoint answers.
pub(crate) fn edge(arguments: &[&str]) -> Result<(Fairway, Site, Served)> {
    let site = Site::new()?;
    let served = named(&site.farm, &[("a", SocketAddr::new(server(0), 8080))])?;
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[server(0)]),
    ]);
    fairway.write("shop.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    Ok((fairway, site, served))
}
