//! Routers that gateways announce addresses to: real ones, and one that misbehaves; [`routed`]: gateways behind one.

mod bird;
mod frr;
mod gobgp;
pub mod noticed;
mod rough;
pub mod routed;

pub use bird::Bird;
pub use frr::Frr;
pub use gobgp::GoBgp;
pub use rough::{RoughRouter, Roughness};

use anyhow::Result;

use crate::clients;
use crate::lab::Host;

/// The routes that Fairway has put into a host's table for routing daemons, as `ip` shows them.
pub fn kernel_table(host: &Host) -> Result<Vec<String>> {
    let mut ours = Vec::new();
    for family in ["-4", "-6"] {
        // One that has never had a route is no table, and an error.
        let arguments = [family, "route", "show", "table", "all", "proto", "70"];
        let all = host.run(|| clients::output("ip", &arguments))?;
        let routes = all.lines().filter(|line| line.contains("table 251"));
        ours.extend(routes.map(str::to_owned));
    }
    Ok(ours)
}
