//! Measures how clients fare while one of three endpoints fails: behind Fairway, and behind HAProxy with the same settings
//! of checks. Prints a page in Markdown. Run it by `cargo xtask bench health`. By hand: words, of which one at least must
//! be in a group's name (`TCP (nginx): SIGSTOP`; `streams`) for it to be measured.
//!
//! - `endpoints`: the servers, and what happens to one of them.
//! - `balancer`: who balances, with which checks.
//! - `clients`: who asks.
//! - `streams`: the part about iperf3.

mod balancer;
mod clients;
mod endpoints;
mod streams;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use fairway_integration::site::Site;
use fairway_integration::{figures, harness, wait};

use balancer::HealthWay;
use clients::{Clients, EVERY, PATIENCE, SLOW, ServedClient};
use endpoints::{EndpointFault, Endpoints, FAULT, PortKind, SERVERS};

/// How long there is no fault at first, and by how much longer in each group than in the one before, up to an interval of
/// checks. Else all faults would end at the same moment between two checks of HAProxy, whose checks have no jitter.
const CALM: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_millis(700);
const INTERVAL: Duration = Duration::from_secs(2);

/// What one fault did.
#[derive(Debug)]
struct FaultFigures {
    clients: usize,
    failed: usize,
    slow: usize,
    /// The last client that failed or was slow, after the fault began.
    left_alone: Option<Duration>,
    /// The first client that the endpoint served well, after it was mended.
    back: Option<Duration>,
}

fn measure(
    way: HealthWay,
    kind: PortKind,
    fault: EndpointFault,
    calm: Duration,
) -> Result<FaultFigures> {
    let site = Site::new()?;
    let mut endpoints = Endpoints::start(&site, kind)?;
    let balancer = way.start(&site, kind)?;
    let clients = Clients::start(&site.client, balancer.address(), kind)?;
    wait::until("all serve", || {
        let records = clients.records();
        let by: BTreeSet<&String> = records.iter().filter_map(|it| it.by.as_ref()).collect();
        by.len() == usize::from(SERVERS)
    })?;
    thread::sleep(calm);
    let hurt = clients.start.elapsed();
    endpoints.suffer(fault)?;
    let mended = clients.start.elapsed();
    wait::until("it serves again", || {
        let records = clients.records();
        let mut after = records.iter().filter(|it| it.began > mended);
        after.any(|it| it.is_by_failing() && it.is_well())
    })?;
    let records = clients.end()?;
    balancer.stop();
    let during = |it: &&ServedClient| it.began + it.took > hurt && it.began < mended;
    let during: Vec<&ServedClient> = records.iter().filter(during).collect();
    let bad = during.iter().filter(|it| !it.is_well());
    let back = records
        .iter()
        .find(|it| it.began > mended && it.is_by_failing() && it.is_well());
    Ok(FaultFigures {
        clients: during.len(),
        failed: during.iter().filter(|it| it.by.is_none()).count(),
        slow: during
            .iter()
            .filter(|it| it.by.is_some() && !it.is_well())
            .count(),
        left_alone: bad.map(|it| it.began.saturating_sub(hurt)).max(),
        back: back.map(|it| it.began.saturating_sub(mended)),
    })
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("–".to_owned(), |time| {
        format!("{:.1}", time.as_secs_f64())
    })
}

/// The same fault behind each balancer, at the same time: each has hosts of its own, and little to do.
fn rows(kind: PortKind, fault: EndpointFault, calm: Duration) -> Result<String> {
    let ways = HealthWay::of(kind);
    let found: Vec<Result<FaultFigures>> = thread::scope(|scope| {
        let running = ways
            .iter()
            .map(|way| scope.spawn(move || measure(*way, kind, fault, calm)));
        let running: Vec<_> = running.collect();
        let ended = running.into_iter().map(|it| {
            it.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    let mut text = String::new();
    for (way, found) in ways.iter().zip(found) {
        let it = found.with_context(|| format!("{way}, {kind}: {fault}"))?;
        eprintln!("{way}, {kind}: {fault}: {it:?}");
        let _ = writeln!(
            text,
            "| {kind} | {fault} | {way} | {} | {} | {} | {} | {} |",
            it.clients,
            it.failed,
            it.slow,
            seconds(it.left_alone),
            seconds(it.back),
        );
    }
    Ok(text)
}

fn main() -> Result<()> {
    harness::prepare()?;
    let words: Vec<String> = env::args().skip(1).collect();
    let is_wanted =
        |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut text = format!(
        "# Health\n\nMeasured by `cargo xtask bench health` on {}. There are three endpoints, and one of them fails for {} s: \
         nginx at a plain TCP port, a Go server at a port that is balanced by request, dnsmasq at a UDP port (HAProxy carries \
         no UDP). A client begins every {} ms, on a connection or flow of its own, waits {} s for its answer, and is slow \
         from {} s on. Checks (TCP: a text is sent and one expected; HTTP: a request; DNS: a question over TCP) are made every \
         2 s, every second while an endpoint changes, with a time-out of 1 s; three that fail take an endpoint out, and two \
         that pass bring it back. HAProxy tries another server when one does not accept within 1.5 s (`option redispatch`) \
         and, by request, when it is cut off before the answer (`retry-on all-retryable-errors`), as Fairway does. Left alone \
         is the time from the fault to the beginning of the last client that failed or was slow, back the time from its end \
         to the first client that the endpoint serves. Times are in seconds. The balancers are measured at the same time, each \
         with hosts of its own.\n\n\
         | port | fault | who | clients | failed | slow | left alone | back |\n|---|---|---|---|---|---|---|---|\n",
        figures::today_here(),
        FAULT.as_secs(),
        EVERY.as_millis(),
        PATIENCE.as_secs(),
        SLOW.as_secs(),
    );
    let mut calm = CALM;
    for kind in PortKind::ALL {
        for fault in kind.faults() {
            if is_wanted(&format!("{kind}: {fault}")) {
                text += &rows(kind, *fault, calm)?;
                calm += LATER;
                if calm >= CALM + INTERVAL {
                    calm -= INTERVAL;
                }
            }
        }
    }
    if is_wanted("streams") {
        text += &streams::section()?;
    }
    print!("{text}");
    Ok(())
}
