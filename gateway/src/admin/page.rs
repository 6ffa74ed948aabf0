//! The status page: one HTML document without scripts or anything to load.

use std::fmt::{Display, Write};
use std::net::IpAddr;

use fairway_config::conditions;
use fairway_config::exchange::{AddressState, ListenerState};
use fairway_config::problem::Problem;
use fairway_config::view::{
    AddressRow, BgpPeerRow, ConditionRow, EndpointRow, GatewayRow, ListenerRow, PoolRow, Readiness,
    ServiceRow,
};

use super::views::Views;

const STYLE: &str = include_str!("page.css");
/// The most rows of a table: the page is loaded every 5 s, and must not have megabytes.
const ROWS: usize = 1000;

/// The page as it is now.
pub(super) fn render(views: &dyn Views) -> String {
    let (services, endpoints) = (views.services(), views.endpoints());
    let (pools, listeners, gateways) = (views.pools(), views.listeners(), views.gateways());
    let readiness = views.readiness();
    let mut page = Page(String::new());
    page.head(&views.version(), &readiness);
    page.problems(&readiness, &views.problems());
    page.services(&services);
    page.pools(&pools);
    page.listeners(&listeners);
    page.endpoints(&endpoints);
    page.addresses(&views.addresses());
    page.gateways(&gateways);
    page.peers(&views.peers());
    page.0 += "</main></body></html>\n";
    page.0
}

/// How good the state of a row is; it decides the colour. The worst comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tone {
    Bad,
    Waiting,
    Plain,
    Good,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Waiting => "waiting",
            Self::Bad => "bad",
            Self::Plain => "plain",
        }
    }
}

/// HTML under construction. Whatever is not a literal of this module goes through [`Escaped`].
struct Page(String);

/// Shown as HTML: escapes what HTML would read as a tag.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

impl Page {
    fn add(&mut self, html: std::fmt::Arguments<'_>) {
        // Writing to a String can't fail.
        let _ = self.0.write_fmt(html);
    }

    fn head(&mut self, version: &str, readiness: &Readiness) {
        let (tone, word) = if readiness.ready {
            (Tone::Good, "ready")
        } else {
            (Tone::Waiting, "not ready")
        };
        self.add(format_args!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta http-equiv=\"refresh\" content=\"5\"><title>Fairway: {word}</title>\
             <style>{STYLE}</style></head><body><header><h1>Fairway</h1>\
             <span class=\"version\">{}</span><span class=\"pill {}\">{word}</span><nav>\
             <a href=\"#services\">Services</a><a href=\"#pools\">Pools</a>\
             <a href=\"#listeners\">Listeners</a><a href=\"#endpoints\">Endpoints</a>\
             <a href=\"#addresses\">Addresses</a><a href=\"#gateways\">Gateways</a><a href=\"/metrics\">Metrics</a></nav></header><main>",
            Escaped(version),
            tone.class(),
        ));
    }

    fn problems(&mut self, readiness: &Readiness, problems: &[Problem]) {
        if readiness.missing.is_empty() && problems.is_empty() {
            return;
        }
        self.0 += "<section class=\"problems\"><h2>To be mended</h2><ul>";
        for sentence in &readiness.missing {
            self.add(format_args!(
                "<li class=\"waiting\">{}</li>",
                Escaped(sentence)
            ));
        }
        for problem in problems {
            self.add(format_args!("<li class=\"bad\">{}</li>", Escaped(problem)));
        }
        self.0 += "</ul></section>";
    }

    fn table<T>(
        &mut self,
        (id, title, columns): (&str, &str, &[&str]),
        rows: &[T],
        cells: impl Fn(&T) -> Cells,
    ) {
        self.add(format_args!(
            "<section id=\"{id}\"><h2>{title} <small>{}</small></h2>",
            rows.len()
        ));
        if rows.is_empty() {
            self.0 += "<p class=\"none\">None.</p></section>";
            return;
        }
        self.0 += "<div class=\"scroll\"><table><thead><tr>";
        for column in columns {
            self.add(format_args!("<th>{column}</th>"));
        }
        self.0 += "</tr></thead><tbody>";
        let shown = if rows.len() > ROWS {
            foremost(rows, &cells)
        } else {
            all(rows, &cells)
        };
        for (tone, cells) in shown {
            self.add(format_args!("<tr class=\"{}\">", tone.class()));
            for cell in cells {
                self.add(format_args!("<td>{}</td>", Escaped(cell)));
            }
            self.0 += "</tr>";
        }
        self.0 += "</tbody></table></div>";
        if rows.len() > ROWS {
            self.add(format_args!(
                "<p class=\"none\">Shown are {ROWS} of {}, those in trouble first; \
                 <code>fairway get {id}</code> shows all.</p>",
                rows.len()
            ));
        }
        self.0 += "</section>";
    }

    fn services(&mut self, rows: &[ServiceRow]) {
        let columns = &[
            "Namespace",
            "Name",
            "Type",
            "External",
            "Ports",
            "Endpoints",
            "State",
            "Source",
        ];
        self.table(("services", "Services", columns), rows, |row| {
            let (tone, state) = summary(&row.conditions);
            let (tone, state) = match &row.source_problem {
                Some(problem) => (Tone::Bad, join([state, problem.clone()])),
                None => (tone, join([state, row.refused.clone().unwrap_or_default()])),
            };
            let owner = |address: &IpAddr| {
                let mut owners = row.owners.iter();
                owners.find(|it| it.address == *address)?.owner.as_ref()
            };
            let external = row.external_ips.iter().map(|it| match owner(it) {
                Some(owner) => format!("{it} on {owner}"),
                None => it.to_string(),
            });
            let external: Vec<String> = external.collect();
            let ports = row.ports.iter().map(|port| match port.node_port {
                Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
                None => format!("{}/{}", port.port, port.protocol),
            });
            let cells = vec![
                row.namespace.clone(),
                row.name.clone(),
                row.kind.as_str().to_owned(),
                row.external_name
                    .clone()
                    .unwrap_or_else(|| external.join(", ")),
                ports.collect::<Vec<_>>().join(", "),
                row.endpoints
                    .map_or_else(|| "-".to_owned(), |count| count.to_string()),
                state,
                row.source.clone().unwrap_or_default(),
            ];
            (tone, cells)
        });
    }

    fn pools(&mut self, rows: &[PoolRow]) {
        let columns = &[
            "Name",
            "Addresses",
            "Priority",
            "Auto-assign",
            "Used",
            "State",
        ];
        self.table(("pools", "Pools", columns), rows, |row| {
            let used = row
                .counts
                .iter()
                .map(|(family, count)| format!("{family} {} of {}", count.used, count.total));
            let (tone, state) = summary(&row.conditions);
            let full = row
                .counts
                .values()
                .any(|count| count.total > 0 && count.available == 0);
            let tone = if full && matches!(tone, Tone::Good) {
                Tone::Waiting
            } else {
                tone
            };
            let cells = vec![
                row.name.clone(),
                row.addresses.join(", "),
                row.priority.to_string(),
                if row.auto_assign { "yes" } else { "no" }.to_owned(),
                used.collect::<Vec<_>>().join(", "),
                state,
            ];
            (tone, cells)
        });
    }

    fn listeners(&mut self, rows: &[ListenerRow]) {
        let columns = &[
            "Address",
            "Protocol",
            "For",
            "Namespace",
            "Service",
            "Port",
            "State",
        ];
        self.table(("listeners", "Listeners", columns), rows, |row| {
            let listener = &row.listener;
            let (tone, state) = match &listener.state {
                ListenerState::Listening => (Tone::Good, "listening".to_owned()),
                ListenerState::Forwarded => {
                    (Tone::Good, "forwarded by the node's kube-proxy".to_owned())
                }
                ListenerState::Refusing => (
                    Tone::Waiting,
                    "refusing: the Service has no endpoint".to_owned(),
                ),
                ListenerState::Unreachable { message } => {
                    (Tone::Bad, format!("EndpointsUnreachable: {message}"))
                }
                ListenerState::Failed { reason, message } => {
                    (Tone::Bad, format!("{reason}: {message}"))
                }
            };
            let kind = match listener.kind {
                fairway_config::exchange::ClaimKind::Vip => "address",
                fairway_config::exchange::ClaimKind::NodePort => "node port",
                fairway_config::exchange::ClaimKind::HealthCheck => "health check",
            };
            let cells = vec![
                listener.listen.to_string(),
                listener.protocol.to_string(),
                kind.to_owned(),
                row.namespace.clone(),
                row.service.clone(),
                listener.port.to_string(),
                state,
            ];
            (tone, cells)
        });
    }

    /// Only where there are routers.
    fn peers(&mut self, rows: &[BgpPeerRow]) {
        if rows.is_empty() {
            return;
        }
        let columns = &[
            "Name", "Gateway", "Address", "AS", "Since", "Prefixes", "BFD", "State",
        ];
        self.table(("peers", "BGP peers", columns), rows, |row| {
            let bfd = row.bfd.clone().unwrap_or_default();
            let tone = match row.is_established() {
                true if bfd == "Down" => Tone::Waiting,
                true => Tone::Good,
                false => Tone::Bad,
            };
            let cells = vec![
                row.name.clone(),
                row.gateway.clone(),
                row.address.clone(),
                row.asn.clone(),
                row.since.clone(),
                row.prefixes.to_string(),
                bfd,
                join([row.state.clone(), row.why.clone()]),
            ];
            (tone, cells)
        });
    }

    fn endpoints(&mut self, rows: &[EndpointRow]) {
        let columns = &[
            "Namespace",
            "Service",
            "Port",
            "Endpoint",
            "Node",
            "Active",
            "State",
            "Why",
        ];
        self.table(("endpoints", "Endpoints", columns), rows, |row| {
            let tone = match row.state.as_str() {
                "eligible" => Tone::Good,
                "refused" | "unreachable" | "failing-checks" => Tone::Bad,
                "not-ready" | "terminating" => Tone::Waiting,
                _ => Tone::Plain,
            };
            let cells = vec![
                row.namespace.clone(),
                row.service.clone(),
                format!("{}/{}", row.port, row.protocol),
                row.endpoint.to_string(),
                row.node.clone().unwrap_or_default(),
                row.active.to_string(),
                row.state.clone(),
                row.why.clone(),
            ];
            (tone, cells)
        });
    }

    fn addresses(&mut self, rows: &[AddressRow]) {
        let columns = &[
            "Address",
            "Gateway",
            "State",
            "Owner",
            "Since",
            "Interfaces",
            "Why",
        ];
        self.table(("addresses", "Addresses", columns), rows, |row| {
            let report = &row.report;
            let tone = match report.state {
                _ if report.conflict.is_some() => Tone::Bad,
                AddressState::Owned => Tone::Good,
                AddressState::Elsewhere | AddressState::Free => Tone::Plain,
                AddressState::Unowned | AddressState::Conflict => Tone::Bad,
            };
            let conflict = report.conflict.as_ref();
            let conflict = conflict.map(|it| format!("also answers: {}", it.hardware_address));
            let cells = vec![
                row.address.to_string(),
                row.gateway.clone(),
                report.state.to_string(),
                report.owner_by(&row.gateway).unwrap_or_default().to_owned(),
                report.since.to_string(),
                report.interfaces.join(", "),
                join([report.why.to_string(), conflict.unwrap_or_default()]),
            ];
            (tone, cells)
        });
    }

    fn gateways(&mut self, rows: &[GatewayRow]) {
        let columns = &[
            "Name",
            "Version",
            "Hears",
            "Addresses",
            "Listening",
            "Failed",
            "Connections",
            "Flows",
            "Started",
            "State",
        ];
        self.table(("gateways", "Gateways", columns), rows, |row| {
            let (tone, state) = match (row.ready, &row.draining) {
                (true, None) => (Tone::Good, "ready".to_owned()),
                (true, Some(why)) => (Tone::Waiting, format!("ready; drains, because {why}")),
                (false, _) => (
                    Tone::Waiting,
                    join(["not ready".to_owned(), row.why.clone()]),
                ),
            };
            let cells = vec![
                row.name.clone(),
                row.version.clone(),
                match row.members {
                    0 => "-".to_owned(),
                    members => format!("{}/{members}", row.heard),
                },
                row.addresses.to_string(),
                row.listening.to_string(),
                row.failed.to_string(),
                row.connections.to_string(),
                row.flows.to_string(),
                row.started.clone(),
                state,
            ];
            (tone, cells)
        });
    }
}

type Cells = (Tone, Vec<String>);

fn all<T>(rows: &[T], cells: impl Fn(&T) -> Cells) -> Vec<Cells> {
    rows.iter().map(cells).collect()
}

/// As many as a table may have, the worst first, else in their order.
fn foremost<T>(rows: &[T], cells: impl Fn(&T) -> Cells) -> Vec<Cells> {
    let mut all = all(rows, cells);
    all.sort_by_key(|(tone, _)| *tone);
    all.truncate(ROWS);
    all
}

/// The tone and the words for the conditions of an object: every condition that reports a problem.
fn summary(conditions: &[ConditionRow]) -> (Tone, String) {
    if conditions.is_empty() {
        return (Tone::Plain, String::new());
    }
    let troubles = conditions
        .iter()
        .filter(|it| conditions::is_trouble(&it.kind, it.status == "True"));
    let waits = troubles
        .clone()
        .all(|it| WAITING.contains(&it.reason.as_str()));
    let tone = if waits { Tone::Waiting } else { Tone::Bad };
    let wanting: Vec<String> = troubles
        .map(|condition| format!("{}: {}", condition.reason, condition.message))
        .collect();
    match wanting.is_empty() {
        true => (Tone::Good, "ready".to_owned()),
        false => (tone, wanting.join(" ")),
    }
}

/// Reasons that do not need an administrator of Fairway: a Service whose Pods do not run yet, or a gateway that is
/// still catching up.
const WAITING: [&str; 2] = ["NoEndpoints", "GatewayBehind"];

fn join(parts: [String; 2]) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn condition(status: bool, reason: &str) -> ConditionRow {
        ConditionRow {
            kind: conditions::PROGRAMMED.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: "So it is.".to_owned(),
            last_transition_time: String::new(),
        }
    }

    #[test]
    fn what_waits_for_its_endpoints_is_amber_and_what_fails_is_red() {
        for (conditions, wanted) in [
            (vec![], Tone::Plain),
            (vec![condition(true, "Programmed")], Tone::Good),
            (vec![condition(false, "NoEndpoints")], Tone::Waiting),
            (vec![condition(false, "GatewayBehind")], Tone::Waiting),
            (vec![condition(false, "EndpointsUnreachable")], Tone::Bad),
            (vec![condition(false, "NoGateway")], Tone::Bad),
            (
                vec![
                    condition(false, "NoEndpoints"),
                    condition(false, "PortInUse"),
                ],
                Tone::Bad,
            ),
        ] {
            let (tone, words) = summary(&conditions);
            assert!(tone == wanted, "{conditions:?}: {}", tone.class());
            for condition in &conditions {
                assert!(condition.status == "True" || words.contains(&condition.reason));
            }
        }
    }
}
