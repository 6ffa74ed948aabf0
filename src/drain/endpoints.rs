//! `fairway drain --endpoint`, `--endpoints-on`: new connections are kept away from endpoints of a gateway without a
//! cluster. What is printed is what the gateway says after it was asked.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fairway_config::drained::DrainTarget;
use fairway_config::net::Protocol;
use fairway_config::view::{EndpointRow, List};
use serde_json::Value;

use super::words::{EVERY, complain, say};
use crate::client;

/// What is to be done with endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointWish {
    Drain,
    /// Drains them, and waits until they have no connection left, for so long at most.
    DrainAndWait(Option<Duration>),
    Undo,
}

/// Does it. Ends with 1 where endpoints go on getting connections, or have some left.
pub(super) fn run(
    target: &DrainTarget,
    wish: EndpointWish,
    admin: SocketAddr,
) -> anyhow::Result<ExitCode> {
    let mut request = serde_json::to_value(target)?;
    if let Value::Object(fields) = &mut request {
        fields.insert("drain".to_owned(), (wish != EndpointWish::Undo).into());
    }
    client::post(admin, "/api/v1/drain", &request)?;
    let rows = look(target, admin)?;
    if rows.is_empty() {
        say(&format!("No Service has an {target} now."));
    }
    let mut is_done = true;
    for row in &rows {
        let name = name(row);
        match (wish, row.draining) {
            (EndpointWish::Undo, None) => say(&format!("{name} may get new connections.")),
            (EndpointWish::Undo, Some(since)) => {
                is_done = false;
                say(&format!(
                    "{name} is drained still, since {since}: by its address, its port or its node."
                ));
            }
            (_, _) if gets_traffic(row) => {
                is_done = false;
                complain(&format!(
                    "{name} gets new connections all the same: no other endpoint of that port is ready"
                ));
            }
            (_, _) => say(&format!("{name} gets no new connections: {}.", left(row))),
        }
    }
    match (wish, is_done) {
        (EndpointWish::DrainAndWait(limit), true) => wait(target, limit, admin, rows),
        (_, true) => Ok(ExitCode::SUCCESS),
        (_, false) => Ok(ExitCode::FAILURE),
    }
}

/// Waits until no endpoint has a connection left.
fn wait(
    target: &DrainTarget,
    limit: Option<Duration>,
    admin: SocketAddr,
    mut rows: Vec<EndpointRow>,
) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let mut said = None;
    loop {
        if let Some(row) = rows.iter().find(|row| row.draining.is_none()) {
            complain(&format!("{} is drained no more", name(row)));
            return Ok(ExitCode::FAILURE);
        }
        if let Some(row) = rows.iter().find(|row| gets_traffic(row)) {
            complain(&format!(
                "{} gets new connections again: no other endpoint of that port is ready",
                name(row)
            ));
            return Ok(ExitCode::FAILURE);
        }
        let count: u64 = rows.iter().map(|row| row.active).sum();
        if count == 0 {
            say("No connection is left.");
            return Ok(ExitCode::SUCCESS);
        }
        if said.is_some_and(|before| before != count) {
            for row in rows.iter().filter(|row| row.active > 0) {
                say(&format!("{}: {}.", name(row), left(row)));
            }
        }
        said = Some(count);
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            complain(&format!("connections and flows left: {count}"));
            return Ok(ExitCode::FAILURE);
        }
        std::thread::sleep(EVERY);
        rows = look(target, admin)?;
    }
}

/// What the gateway says of the endpoints.
fn look(target: &DrainTarget, admin: SocketAddr) -> anyhow::Result<Vec<EndpointRow>> {
    let body = client::get(admin, "/api/v1/endpoints")?;
    let rows: List<EndpointRow> = serde_json::from_slice(&body)
        .with_context(|| format!("{admin} did not answer as Fairway does"))?;
    let mut rows = rows.items;
    rows.retain(|row| target.covers(row.endpoint, row.node.as_deref()));
    Ok(rows)
}

fn name(row: &EndpointRow) -> String {
    let EndpointRow {
        namespace,
        service,
        port,
        protocol,
        endpoint,
        ..
    } = row;
    format!("{endpoint} of {namespace}/{service} ({port}/{protocol})")
}

fn gets_traffic(row: &EndpointRow) -> bool {
    matches!(&*row.state, "eligible" | "unreachable" | "failing-checks")
}

fn left(row: &EndpointRow) -> String {
    let (one, more) = match row.protocol {
        Protocol::Udp => ("flow", "flows"),
        _ => ("connection", "connections"),
    };
    match row.active {
        1 => format!("1 {one} is left"),
        count => format!("{count} {more} are left"),
    }
}
