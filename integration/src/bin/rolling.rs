//! Measures what clients notice while all backends of a Service are replaced, one after the other: behind Fairway, behind
//! HAProxy, which is told by its runtime API, and behind nginx, which is told by reloads. Prints a page in Markdown. Run
//! it by `cargo xtask bench rolling`. By hand: the number of rounds.

use std::env;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fairway_integration::rolling::{BACKENDS, BackendEnd, RequestWay, RollingWay, roll};
use fairway_integration::{figures, harness};

/// How often all backends are replaced.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    harness::prepare()?;
    let rounds = match env::args().nth(1) {
        Some(text) => text.parse().context("the number of rounds")?,
        None => ROUNDS,
    };
    let mut text = format!(
        "# Rolling update\n\nMeasured by `cargo xtask bench rolling` on {}. {BACKENDS} backends are replaced, one after the \
         other, {rounds} times, under 500 requests a second, each on a connection of its own. The backends are Go programs that \
         end by `http.Server.Shutdown` (or, of lines over plain TCP, close their listener and finish what they have). A \
         backend is listed as terminating, and ends a second later or at that same moment. Fairway is told by its \
         EndpointSlice, HAProxy by its runtime API (`set server … state ready`, `drain`, `maint`), nginx by a reload. HAProxy \
         and Fairway try a request again elsewhere where it may be repeated (HAProxy: `retry-on all-retryable-errors`, not \
         for POST); nginx does by default. HAProxy reuses no connection for a client's first request (`http-reuse safe`).\n\n\
         | backends end | request | who | requests | not connected | not answered |\n|---|---|---|---|---|---|\n",
        figures::today_here(),
    );
    let ends = [
        ("after a second", BackendEnd::After(Duration::from_secs(1))),
        ("at once", BackendEnd::AtOnce),
    ];
    for (name, end) in ends {
        for is_http in [false, true] {
            for who in RollingWay::ALL {
                for (way, counts) in roll(who, is_http, end, rounds)? {
                    eprintln!("{name}, {way:?}, {who}: {counts}");
                    let all = counts.good + counts.unconnected + counts.unanswered;
                    let _ = writeln!(
                        text,
                        "| {name} | {} | {who} | {all} | {} | {} |",
                        label(way),
                        counts.unconnected,
                        counts.unanswered,
                    );
                }
            }
        }
    }
    print!("{text}");
    Ok(())
}

fn label(way: RequestWay) -> &'static str {
    match way {
        RequestWay::Line => "a line over TCP",
        RequestWay::Get => "GET",
        RequestWay::Post => "POST",
    }
}
