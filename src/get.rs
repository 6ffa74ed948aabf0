//! `fairway get`: tables as kubectl prints them.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::ValueEnum as _;
use fairway_config::conditions;
use fairway_config::exchange::{ClaimKind, ListenerState};
use fairway_config::problem::Problem;
use fairway_config::service::ServiceType;
use fairway_config::time::Timestamp;
use fairway_config::view::{
    AddressRow, BgpPeerRow, ConditionRow, EndpointRow, GatewayRow, ListenerRow, PoolRow, PortRow,
    ServiceRow,
};
use hyper::body::Bytes;
use serde::de::IgnoredAny;

use crate::args::{GetArgs, Output, What};
use crate::listing::{self, Listed, Listing};
use crate::outcome::WrongConfiguration;
use crate::table;

/// How often `--watch` asks again.
const EVERY: Duration = Duration::from_secs(1);

/// Asks the process at the admin address and prints.
pub(crate) fn run(args: GetArgs) -> anyhow::Result<ExitCode> {
    let args = GetArgs {
        names: names(&args)?,
        // As for kubectl.
        namespace: args.namespace.filter(|_| !args.all_namespaces),
        ..args
    };
    let body = ask(&args)?;
    let shown = render(&args, &body, now())?;
    if let Some(note) = listing::list::<IgnoredAny>(&args, &body)?.note {
        say(&format!("note: {note}"));
    }
    let code = crate::outcome::print(&shown.text())?;
    if shown.rows.is_empty() && !listing::is_for_machines(&args) && args.names.is_empty() {
        say(match &args.namespace {
            Some(namespace) => format!("No resources found in {namespace} namespace."),
            None => "No resources found.".to_owned(),
        }
        .as_str());
    }
    if matches!(args.what.what, What::Services | What::Pools) && !listing::is_for_machines(&args) {
        let query = match &args.namespace {
            Some(namespace) => format!("?namespace={}", crate::client::encode(namespace)),
            None => String::new(),
        };
        let body = crate::client::get(args.asked.admin, &format!("/api/v1/problems{query}"))?;
        for problem in listing::items::<Problem>(&args, &body)? {
            // An object that can't be read has no row, or one that is older than its file.
            say(&format!("problem: {problem}"));
        }
    }
    let missing = shown.missing;
    if !args.watch {
        return match missing.is_empty() {
            true => Ok(code),
            false => bail!(missing.join("\n")),
        };
    }
    missing.iter().for_each(|it| say(it));
    watch(&args, shown.rows)
}

/// The names that are asked for; where the first is TYPE/NAME all are.
fn names(args: &GetArgs) -> anyhow::Result<Vec<String>> {
    let Some(first) = &args.what.name else {
        return Ok(args.names.clone());
    };
    let mut names = vec![first.clone()];
    for word in &args.names {
        let (kind, name) = word.split_once('/').unwrap_or(("", word));
        let is_alike = What::from_str(kind, false).is_ok_and(|kind| kind == args.what.what);
        if !is_alike {
            let first = format!("{}/{first}", args.what.what.of_one());
            return Err(WrongConfiguration(format!(
                "'{word}' stands after {first}: write all as TYPE/NAME, and one type at a time"
            ))
            .into());
        }
        names.push(name.to_owned());
    }
    if names.iter().any(String::is_empty) {
        return Err(WrongConfiguration("a name is missing after the /".to_owned()).into());
    }
    Ok(names)
}

fn ask(args: &GetArgs) -> anyhow::Result<Bytes> {
    let what = match args.what.what {
        What::Services => "services",
        What::Endpoints => "endpoints",
        What::Pools => "pools",
        What::Gateways => "gateways",
        What::Addresses => "addresses",
        What::Listeners => "listeners",
        What::Peers => "peers",
    };
    crate::client::get(args.asked.admin, &format!("/api/v1/{what}"))
}

/// Prints each row that has changed, as `kubectl get --watch` does; a row that is gone is printed
/// once more.
fn watch(args: &GetArgs, mut before: Vec<Listed>) -> anyhow::Result<ExitCode> {
    loop {
        std::thread::sleep(EVERY);
        let now = render(args, &ask(args)?, now())?.rows;
        let changed = now
            .iter()
            .filter(|row| !before.iter().any(|it| it.value == row.value));
        let gone = before
            .iter()
            .filter(|row| !now.iter().any(|it| it.key == row.key));
        let mut text = String::new();
        for row in changed.chain(gone) {
            text.push_str(&row.line);
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has gone.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            other => other?,
        }
        before = now;
    }
}

/// To standard error. An error there is ignored: there is no other place to report it.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", table::printable(text));
}

fn render(args: &GetArgs, body: &[u8], now: Timestamp) -> anyhow::Result<Listing> {
    let view = View {
        wide: args.output == Some(Output::Wide),
        namespaced: args.namespace.is_none(),
        now,
    };
    match args.what.what {
        What::Services => listing::show(args, body, |rows| services(&view, rows)),
        What::Endpoints => listing::show(args, body, |rows| endpoints(&view, rows)),
        What::Listeners => listing::show(args, body, |rows| listeners(&view, rows)),
        What::Pools => listing::show(args, body, |rows| pools(&view, rows)),
        What::Gateways => listing::show(args, body, |rows| gateways(&view, rows)),
        What::Addresses => listing::show(args, body, |rows| addresses(&view, rows)),
        What::Peers => listing::show(args, body, |rows| peers(&view, rows)),
    }
}

/// What decides which columns there are.
struct View {
    wide: bool,
    namespaced: bool,
    now: Timestamp,
}

/// `get services`, as `kubectl get services -A` prints it.
pub(crate) fn services_table(rows: &[ServiceRow], now: Timestamp) -> String {
    services(
        &View {
            wide: false,
            namespaced: true,
            now,
        },
        rows,
    )
}

fn services(view: &View, rows: &[ServiceRow]) -> String {
    let mut heading = vec![
        "NAME",
        "TYPE",
        "CLUSTER-IP",
        "EXTERNAL-IP",
        "PORT(S)",
        "SERVING",
        "ENDPOINTS",
        "AGE",
    ];
    if view.wide {
        heading.extend(["OWNER", "STATUS"]);
    }
    let rows = rows.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            row.kind.as_str().to_owned(),
            none_if_empty(row.cluster_ips.first().cloned().unwrap_or_default()),
            external(row),
            none_if_empty(join(row.ports.iter().map(port))),
            match (row.serving, row.gateways) {
                (Some(serving), Some(gateways)) => format!("{serving}/{gateways}"),
                _ => "-".to_owned(),
            },
            // The endpoints of a Service that Fairway does not serve are not known here.
            row.endpoints
                .map_or_else(|| "-".to_owned(), |count| count.to_string()),
            view.age(&row.created),
        ];
        if view.wide {
            cells.extend([owner(row), status(row)]);
        }
        (row.namespace.clone(), cells)
    });
    view.render(heading, rows)
}

fn endpoints(view: &View, rows: &[EndpointRow]) -> String {
    let mut heading = vec!["SERVICE", "PORT", "ENDPOINT", "STATE", "ACTIVE"];
    if view.wide {
        heading.extend(["NODE", "WHY"]);
    }
    let rows = rows.iter().map(|row| {
        let mut cells = vec![
            row.service.clone(),
            format!("{}/{}", row.port, row.protocol),
            row.endpoint.to_string(),
            row.state.clone(),
            row.active.to_string(),
        ];
        if view.wide {
            cells.push(none_if_empty(row.node.clone().unwrap_or_default()));
            cells.push(row.why.clone());
        }
        (row.namespace.clone(), cells)
    });
    view.render(heading, rows)
}

fn listeners(view: &View, rows: &[ListenerRow]) -> String {
    let mut heading = vec!["SERVICE", "LISTEN", "PROTOCOL", "KIND", "STATE"];
    if view.wide {
        heading.extend(["PORT", "MESSAGE"]);
    }
    let rows = rows.iter().map(|row| {
        let listener = &row.listener;
        let (state, message) = match &listener.state {
            ListenerState::Failed { reason, message } => (reason.clone(), message.clone()),
            ListenerState::Unreachable { message } => {
                ("EndpointsUnreachable".to_owned(), message.clone())
            }
            other => (other.as_str().to_owned(), String::new()),
        };
        let mut cells = vec![
            row.service.clone(),
            listener.listen.to_string(),
            listener.protocol.to_string(),
            match listener.kind {
                ClaimKind::Vip => "vip",
                ClaimKind::NodePort => "node-port",
                ClaimKind::HealthCheck => "health-check",
            }
            .to_owned(),
            state,
        ];
        if view.wide {
            cells.push(listener.port.to_string());
            cells.push(message);
        }
        (row.namespace.clone(), cells)
    });
    view.render(heading, rows)
}

fn pools(view: &View, rows: &[PoolRow]) -> String {
    let mut heading = vec!["NAME", "TOTAL", "USED", "AVAILABLE", "AUTO-ASSIGN", "READY"];
    if view.wide {
        heading.extend(["PRIORITY", "FORWARDING", "ADDRESSES", "MESSAGE"]);
    }
    let rows = rows
        .iter()
        .map(|row| {
            // Both families in one cell, IPv4 first, where a pool has both.
            let count = |pick: fn(&fairway_config::exchange::PoolCount) -> u128| {
                none_if_empty(join(
                    row.counts.values().map(|count| pick(count).to_string()),
                ))
            };
            let ready = row
                .conditions
                .iter()
                .find(|condition| condition.kind == "Ready");
            let mut cells = vec![
                row.name.clone(),
                count(|count| count.total),
                count(|count| count.used),
                count(|count| count.available),
                row.auto_assign.to_string(),
                ready
                    .map_or("Unknown", |ready| ready.status.as_str())
                    .to_owned(),
            ];
            if view.wide {
                cells.push(row.priority.to_string());
                cells.push(format!("{:?}", row.forwarding));
                cells.push(join(row.addresses.iter().cloned()));
                cells.push(
                    row.conditions
                        .iter()
                        .filter(|it| conditions::is_trouble(&it.kind, it.status == "True"))
                        .map(said)
                        .next()
                        .unwrap_or_default(),
                );
            }
            cells
        })
        .collect();
    table::render(&heading, rows)
}

fn gateways(view: &View, rows: &[GatewayRow]) -> String {
    let mut heading = vec![
        "NAME",
        "VERSION",
        "READY",
        "HEARS",
        "ADDRESSES",
        "LISTENING",
        "FAILED",
        "CONNECTIONS",
        "FLOWS",
        "AGE",
    ];
    if view.wide {
        heading.push("MESSAGE");
    }
    let rows = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                row.name.clone(),
                row.version.clone(),
                match (row.ready, &row.draining) {
                    (false, _) => "False".to_owned(),
                    (true, None) => "True".to_owned(),
                    (true, Some(_)) => "True,Draining".to_owned(),
                },
                match row.members {
                    0 => "-".to_owned(),
                    members => format!("{}/{members}", row.heard),
                },
                row.addresses.to_string(),
                row.listening.to_string(),
                row.failed.to_string(),
                row.connections.to_string(),
                row.flows.to_string(),
                view.age(&row.started),
            ];
            if view.wide {
                cells.push(gateway_message(row));
            }
            cells
        })
        .collect();
    table::render(&heading, rows)
}

fn addresses(view: &View, rows: &[AddressRow]) -> String {
    let mut heading = vec!["ADDRESS", "GATEWAY", "STATE", "OWNER", "AGE"];
    if view.wide {
        heading.extend(["INTERFACES", "CONFLICT", "WHY"]);
    }
    let rows = rows
        .iter()
        .map(|row| {
            let report = &row.report;
            let owner = report.owner_by(&row.gateway).unwrap_or_default();
            let mut cells = vec![
                row.address.to_string(),
                row.gateway.clone(),
                report.state.to_string(),
                none_if_empty(owner.to_owned()),
                table::age(view.now.0.saturating_sub(report.since.0)),
            ];
            if view.wide {
                let conflict = report.conflict.as_ref();
                let conflict = conflict.map(|it| it.hardware_address.to_string());
                cells.push(none_if_empty(report.interfaces.join(",")));
                cells.push(none_if_empty(conflict.unwrap_or_default()));
                cells.push(report.why.to_string());
            }
            cells
        })
        .collect();
    table::render(&heading, rows)
}

fn peers(view: &View, rows: &[BgpPeerRow]) -> String {
    let heading = [
        "NAME", "GATEWAY", "ADDRESS", "ASN", "STATE", "SINCE", "PREFIXES", "BFD", "WHY",
    ];
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                row.gateway.clone(),
                row.address.clone(),
                row.asn.clone(),
                row.state.clone(),
                view.age(&row.since),
                row.prefixes.to_string(),
                none_if_empty(row.bfd.clone().unwrap_or_default()),
                row.why.clone(),
            ]
        })
        .collect();
    table::render(&heading, rows)
}

fn gateway_message(row: &GatewayRow) -> String {
    let omitted = (row.omitted > 0).then(|| {
        format!(
            "it has no room to say what is wrong with {} more Services: see its fairway get listeners",
            row.omitted
        )
    });
    let why = (!row.why.is_empty()).then(|| row.why.clone());
    let failed = (row.failed > 0).then(|| {
        format!(
            "{} can't take traffic: its fairway get listeners -o wide says why",
            match row.failed {
                1 => "1 listener".to_owned(),
                more => format!("{more} listeners"),
            }
        )
    });
    let draining = row.draining.as_ref();
    let draining = draining.map(|why| format!("it drains, because {why}"));
    let silent = (row.heard < row.members).then(|| {
        let more = (row.members - row.heard).saturating_sub(row.silent.len());
        let more = (more > 0).then(|| format!("and {more} more"));
        let names = row.silent.iter().map(ToString::to_string).chain(more);
        let names = names.collect::<Vec<_>>().join(", ");
        format!("it and these do not hear each other: {names}")
    });
    let all = why.into_iter().chain(draining).chain(silent);
    let all = all.chain(failed).chain(omitted);
    let all: Vec<String> = all.collect();
    all.join("; ")
}

impl View {
    /// Puts the namespace in front where all namespaces are shown.
    fn render(
        &self,
        mut heading: Vec<&'static str>,
        rows: impl Iterator<Item = (String, Vec<String>)>,
    ) -> String {
        if self.namespaced {
            heading.insert(0, "NAMESPACE");
        }
        let rows = rows
            .map(|(namespace, mut cells)| {
                if self.namespaced {
                    cells.insert(0, namespace);
                }
                cells
            })
            .collect();
        table::render(&heading, rows)
    }

    fn age(&self, since: &str) -> String {
        match since.parse::<Timestamp>() {
            Ok(since) => table::age(self.now.0.saturating_sub(since.0)),
            Err(_) => "<unknown>".to_owned(),
        }
    }
}

fn external(row: &ServiceRow) -> String {
    match row.kind {
        ServiceType::ExternalName => none_if_empty(row.external_name.clone().unwrap_or_default()),
        ServiceType::LoadBalancer if row.external_ips.is_empty() => "<pending>".to_owned(),
        _ => none_if_empty(join(row.external_ips.iter().map(ToString::to_string))),
    }
}

/// The gateways that own its addresses; `-` where none is announced on layer 2.
fn owner(row: &ServiceRow) -> String {
    if row.owners.is_empty() {
        return "-".to_owned();
    }
    let owners = row.owners.iter();
    let owners = owners.map(|it| none_if_empty(it.owner.clone().unwrap_or_default()));
    let mut owners: Vec<String> = owners.collect();
    // In the order of the addresses, and one that owns all of them once.
    owners.dedup();
    join(owners.into_iter())
}

fn port(port: &PortRow) -> String {
    match port.node_port {
        Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
        None => format!("{}/{}", port.port, port.protocol),
    }
}

/// `OK`, with whom it turns away if it does; or the first thing that is wrong.
fn status(row: &ServiceRow) -> String {
    if let Some(problem) = &row.source_problem {
        return format!("SourceUnreadable: {problem}");
    }
    let mut trouble = row.conditions.iter();
    if let Some(condition) =
        trouble.find(|it| conditions::is_trouble(&it.kind, it.status == "True"))
    {
        return said(condition);
    }
    let mut conditions = row.conditions.iter();
    let is_programmed = conditions.any(|it| it.kind == conditions::PROGRAMMED);
    match row.serving {
        Some(0) => "NotServed: no gateway that is known here serves it".to_owned(),
        // No gateway has reported that it serves the Service.
        None if !is_programmed && row.refused.is_none() => "-".to_owned(),
        Some(_) | None => match &row.refused {
            None => "OK".to_owned(),
            Some(refused) => format!("OK, {refused}"),
        },
    }
}

fn said(condition: &ConditionRow) -> String {
    format!("{}: {}", condition.reason, condition.message)
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn none_if_empty(cell: String) -> String {
    if cell.is_empty() {
        "<none>".to_owned()
    } else {
        cell
    }
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
}
