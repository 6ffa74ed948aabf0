//! The figures as people read them, and as programs do.

use std::fmt::Write as _;

use anyhow::Result;
use fairway_integration::figures;
use serde_json::json;

use crate::paths::Way;
use crate::rounds::{Figure, Figures};

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
pub(crate) fn page(figures: &Figures, rounds: usize) -> String {
    let mut text = format!(
        "# Beside its peers\n\nMeasured by `cargo xtask bench peers` on {}. Client, gateway and \
         servers are in three network namespaces on the same cores; the ways take turns, {rounds} \
         rounds, and every figure is the median of them. `direct` is routing alone: what client and \
         servers can do. Added is what is more than that: of processor time, that of the whole \
         machine. Against the best peer: the median of the ratios of the rounds, with the smallest \
         and the largest beside it, to HAProxy or nginx, whichever is better; nftables is the \
         kernel's own way. Fairway is as it is by default. HAProxy has two threads and splices \
         streams, nginx two workers with `reuseport`.\n\n| figure |",
        figures::today_here()
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
        let ratio = against(figures, *figure);
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
    text
}

/// Every value of every round.
pub(crate) fn json(figures: &Figures, rounds: usize) -> Result<String> {
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
        &json!({"rounds": rounds, "figures": all}),
    )?)
}
