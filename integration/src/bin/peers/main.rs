//! Measures Fairway beside its peers: the same client, the same servers, the same machine, in turns.
//! Prints a page in Markdown and writes all figures as JSON to the file that is named as argument.
//! Run it by `cargo xtask bench peers`. By hand the number of rounds may follow, and which groups of
//! figures alone are measured: http, requests, connections, latency, streams, datagrams, memory, services.
//!
//! ```text
//!   client ──── edge ──── farm
//!               direct, Fairway, HAProxy, nginx, nftables: an address each, all up, one asked
//! ```
//!
//! What client and servers cost is in every figure: `direct` shows it, and the processor time that a
//! way adds is that of the whole machine less that of `direct`.

mod http;
mod paths;
mod reload;
mod report;
mod rounds;
mod services;
mod syscalls;
mod web_servers;

use std::env;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use fairway_integration::bench::backend::BenchServers;
use fairway_integration::bench::least;
use fairway_integration::harness;
use fairway_integration::site::{Site, server};

use paths::{Paths, SERVERS};
use rounds::Figures;

/// Rounds: each figure is the median of as many.
const ROUNDS: usize = 6;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let json = arguments.next();
    if json.as_deref() == Some(paths::LEAST) {
        let addresses: Result<Vec<IpAddr>, _> = arguments.map(|text| text.parse()).collect();
        let addresses = addresses?;
        let (at, servers) = addresses.split_first().context("no address to listen at")?;
        return least::run(*at, servers);
    }
    harness::prepare()?;
    let rounds = match arguments.next() {
        Some(text) => text.parse()?,
        None => ROUNDS,
    };
    let groups: Vec<String> = arguments.collect();
    let is_wanted = |group: &str| groups.is_empty() || groups.iter().any(|wanted| wanted == group);
    let figures = beside(rounds, &is_wanted)?;
    let services = match is_wanted("services") {
        true => Some(services::measure(rounds)?),
        false => None,
    };
    println!("{}", report::page(&figures, services.as_ref(), rounds)?);
    if let Some(path) = json {
        fs::write(path, report::json(&figures, services.as_ref(), rounds)?)?;
    }
    Ok(())
}

/// Fairway beside the others.
fn beside(rounds: usize, is_wanted: &dyn Fn(&str) -> bool) -> Result<Figures> {
    let site = Site::new()?;
    let addresses: Vec<_> = (0..SERVERS).map(server).collect();
    let _backend = BenchServers::start(&site.farm, &addresses)?;
    let _web = web_servers::servers(&site.farm)?;
    let mut paths = Paths::start(&site)?;
    rounds::measure(&site, &mut paths, rounds, is_wanted)
}
