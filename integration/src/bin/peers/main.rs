//! Measures Fairway beside its peers: the same client, the same servers, the same machine, in turns.
//! Prints a page in Markdown and writes all figures as JSON to the file that is named as argument.
//! Run it by `cargo xtask bench peers`. By hand the number of rounds may follow, and which groups of
//! figures alone are measured: requests, connections, latency, streams, datagrams, memory.
//!
//! ```text
//!   client ──── edge ──── farm
//!               direct, Fairway, HAProxy, nginx, nftables: an address each, all up, one asked
//! ```
//!
//! What client and servers cost is in every figure: `direct` shows it, and the processor time that a
//! way adds is that of the whole machine less that of `direct`.

mod cpu;
mod paths;
mod report;
mod rounds;

use std::env;
use std::fs;

use anyhow::Result;
use fairway_integration::bench::backend::Backend;
use fairway_integration::harness;
use fairway_integration::site::{Site, server};

use paths::{Paths, SERVERS};

/// Rounds: each figure is the median of as many.
const ROUNDS: usize = 7;

fn main() -> Result<()> {
    harness::prepare()?;
    let mut arguments = env::args().skip(1);
    let json = arguments.next();
    let rounds = match arguments.next() {
        Some(text) => text.parse()?,
        None => ROUNDS,
    };
    let groups: Vec<String> = arguments.collect();
    let site = Site::new()?;
    let addresses: Vec<_> = (0..SERVERS).map(server).collect();
    let _backend = Backend::start(&site.farm, &addresses)?;
    let mut paths = Paths::start(&site)?;
    let figures = rounds::measure(&site, &mut paths, rounds, &groups)?;
    println!("{}", report::page(&figures, rounds));
    if let Some(path) = json {
        fs::write(path, report::json(&figures, rounds)?)?;
    }
    Ok(())
}
