//! The figures as people read them, and as programs do.

use std::fmt::Write as _;

use anyhow::Result;
use fairway_integration::figures;
use serde_json::json;

use crate::paths::Way;
use crate::reload::Reloaded;
use crate::rounds::{Figure, Figures, congestion_control};
use crate::services::{COUNTS, Services, Who};

/// A median, and the smallest and the largest beside it.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

fn spread(values: &[f64]) -> Option<Spread> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        1 => *values.get(middle)?,
        _ => (values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0,
    };
    Some(Spread {
        median,
        least: *values.first()?,
        most: *values.last()?,
    })
}

/// Fairway's value against that of the better of HAProxy and nginx, of each round: a ratio.
fn against(figures: &Figures, figure: Figure) -> Option<Spread> {
    let of = |way: Way| figures.values.get(&(figure.name, way));
    let peers: Vec<_> = [Way::HaProxy, Way::Nginx]
        .into_iter()
        .filter_map(of)
        .collect();
    // The best is the one with the better median, so that every round has the same peer.
    let best = peers.into_iter().reduce(|one, other| {
        let (left, right) = (spread(one), spread(other));
        let better = left
            .zip(right)
            .is_some_and(|(left, right)| (left.median >= right.median) == figure.more);
        if better { one } else { other }
    })?;
    let ratios: Vec<f64> = of(Way::Fairway)?
        .iter()
        .zip(best)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    spread(&ratios)
}

fn short(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{:.0}", value),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The page.
pub(crate) fn page(
    figures: &Figures,
    services: Option<&Services>,
    rounds: usize,
) -> Result<String> {
    let mut text = format!(
        "# Beside its peers\n\nMeasured by `cargo xtask bench peers` on {}. Client, gateway and \
         servers are in three network namespaces on the same cores; the ways take turns, {rounds} \
         rounds, and every figure is the median of them. `direct` is routing alone: what client and \
         servers can do. Added is what is more than that: of processor time, that of the whole \
         machine. Against the best peer: the median of the ratios of the rounds, with the smallest \
         and the largest beside it, to HAProxy or nginx, whichever is better. Fairway is as it is by \
         default. HAProxy has two threads and splices streams, nginx two workers with `reuseport`; \
         nftables is the kernel's own way, whose rules are there in its turns alone. `least` is a \
         forwarder of two threads that accepts, connects, reads, writes and closes, each by a call \
         of its own, and nothing more (`integration/src/bench/least.rs`): what sockets cost who uses \
         them like that. All use the machine's congestion control, {}, streams Reno besides.\n\n| figure |",
        figures::today_here(),
        congestion_control()?.to_uppercase()
    );
    for way in Way::ALL {
        let _ = write!(text, " {way} |");
    }
    text += " against the best peer | wanted |\n|---|";
    text += &"---|".repeat(Way::ALL.len() + 2);
    text.push('\n');
    for figure in &figures.order {
        let _ = write!(text, "| {}, {} |", figure.name, figure.unit);
        for way in Way::ALL {
            let shown = figures
                .values
                .get(&(figure.name, way))
                .and_then(|values| spread(values))
                .map(|it| short(it.median));
            let _ = write!(text, " {} |", shown.unwrap_or_default());
        }
        let ratio = against(figures, *figure).filter(|it| it.median.is_finite());
        let ratio = ratio.map(|it| format!("{:.2} ({:.2}–{:.2})", it.median, it.least, it.most));
        let sign = if figure.more { "≥" } else { "≤" };
        let wanted = figure.wanted.map(|wanted| format!("{sign} {wanted}"));
        let _ = writeln!(
            text,
            " {} | {} |",
            ratio.unwrap_or_default(),
            wanted.unwrap_or_default()
        );
    }
    if let Some(services) = services {
        text += &table_of_services(services);
    }
    Ok(text + include_str!("why.md"))
}

/// Thousands of Services.
fn table_of_services(services: &Services) -> String {
    let mut text = String::from(
        "\n## Thousands of Services\n\nServices of two ports each, on 256 addresses, without node ports. A \
         change gives one of them another server; it counts until a client is served by that. HAProxy \
         and nginx get a new configuration and a signal. Of processor time: the machine's, and \
         Fairway's own, for a request over one of 64 connections and for a new connection. Medians, \
         the smallest and the largest beside them.\n\n| figure |",
    );
    for count in COUNTS {
        let _ = write!(text, " {count} |");
    }
    let (first, last) = (COUNTS[0], COUNTS[COUNTS.len() - 1]);
    let _ = write!(text, " {last} against {first} | wanted |\n|---|");
    text += &"---|".repeat(COUNTS.len() + 2);
    text.push('\n');
    let mut line = |what: &str, wanted: &str, of: &dyn Fn(usize) -> Option<Vec<f64>>| {
        let _ = write!(text, "| {what} |");
        for count in COUNTS {
            let it = of(count).as_deref().and_then(spread);
            let it = it.map(|it| {
                let (least, most) = (short(it.least), short(it.most));
                format!("{} ({least}–{most})", short(it.median))
            });
            let _ = write!(text, " {} |", it.unwrap_or_default());
        }
        let median = |count| Some(spread(&of(count)?)?.median);
        let ratio = median(last).zip(median(first));
        let ratio = ratio.map(|(last, first)| format!("{:.2}", last / first));
        let _ = writeln!(text, " {} | {wanted} |", ratio.unwrap_or_default());
    };
    for (who, name, wanted) in [
        (Who::Fairway, "Fairway", "under 20 ms, ≤ 1.5"),
        (Who::Reloaded(Reloaded::HaProxy), "HAProxy", ""),
        (Who::Reloaded(Reloaded::Nginx), "nginx stream", ""),
    ] {
        line(
            &format!("change to serving, {name}, ms"),
            wanted,
            &|count| services.changes.get(&(who, count)).cloned(),
        );
    }
    for (what, of) in [
        ("request", &services.request),
        ("connection", &services.connection),
    ] {
        line(&format!("CPU of a {what}, µs"), "≤ 1.1", &|count| {
            Some(
                of.get(&count)?
                    .iter()
                    .map(|(machine, _)| *machine)
                    .collect(),
            )
        });
        line(
            &format!("Fairway's own CPU of a {what}, µs"),
            "≤ 1.1",
            &|count| Some(of.get(&count)?.iter().map(|(_, own)| *own).collect()),
        );
    }
    line("files that Fairway has open", "", &|count| {
        Some(vec![*services.files.get(&count)? as f64])
    });
    text
}

fn json_of_services(services: &Services) -> serde_json::Value {
    let changes: Vec<_> = services
        .changes
        .iter()
        .map(|((who, count), values)| {
            json!({"who": format!("{who:?}"), "services": count, "milliseconds": values})
        })
        .collect();
    json!({
        "changes": changes,
        "request": services.request,
        "connection": services.connection,
        "files": services.files,
    })
}

/// Every value of every round.
pub(crate) fn json(
    figures: &Figures,
    services: Option<&Services>,
    rounds: usize,
) -> Result<String> {
    let all: Vec<_> = figures
        .order
        .iter()
        .map(|figure| {
            let ways: serde_json::Map<String, serde_json::Value> = Way::ALL
                .into_iter()
                .filter_map(|way| {
                    let values = figures.values.get(&(figure.name, way))?;
                    Some((way.to_string(), json!(values)))
                })
                .collect();
            let ratio = against(figures, *figure);
            json!({
                "figure": figure.name,
                "unit": figure.unit,
                "better": if figure.more { "more" } else { "less" },
                "wanted": figure.wanted,
                "ratio": ratio.map(|it| [it.median, it.least, it.most]),
                "rounds": ways,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(
        &json!({"rounds": rounds, "figures": all, "services": services.map(json_of_services)}),
    )?)
}
