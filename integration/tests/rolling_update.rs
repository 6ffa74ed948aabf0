//! A rolling update of the backends under 500 requests in a second: which requests notice. `cargo xtask bench rolling`
//! does the same in five rounds, with HAProxy and nginx beside Fairway.
//!
//! `FAIRWAY_ROUNDS` says how often all backends are replaced (once).

use std::env;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::rolling::{BackendEnd, CALM, RequestCounts, RequestWay, RollingWay, roll};
use fairway_integration::tests;

tests![
    backends_that_serve_on_for_a_second_cost_no_request,
    backends_that_end_at_once_cost_no_connection_and_no_request_that_may_be_repeated,
];

fn backends_that_serve_on_for_a_second_cost_no_request() -> Result<()> {
    rolls(BackendEnd::After(Duration::from_secs(1)), |_, counts| {
        counts.unconnected + counts.unanswered == 0
    })
}

fn backends_that_end_at_once_cost_no_connection_and_no_request_that_may_be_repeated() -> Result<()>
{
    rolls(BackendEnd::AtOnce, |way, counts| {
        counts.unconnected == 0 && (way != RequestWay::Get || counts.unanswered == 0)
    })
}

/// Replaces the backends of a plain TCP port, and of one that is balanced by request.
fn rolls(end: BackendEnd, is_well: impl Fn(RequestWay, &RequestCounts) -> bool) -> Result<()> {
    let rounds = match env::var("FAIRWAY_ROUNDS") {
        Ok(rounds) => rounds.parse().context("FAIRWAY_ROUNDS")?,
        Err(_) => 1,
    };
    for is_http in [false, true] {
        for (way, counts) in roll(RollingWay::Fairway, is_http, end, rounds)? {
            println!("{way:?}, {end:?}: {counts}");
            ensure!(counts.good > CALM && is_well(way, &counts), "{counts}");
        }
    }
    Ok(())
}
