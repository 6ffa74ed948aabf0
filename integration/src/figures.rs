//! Tables of figures in Markdown, for the measuring programs.

use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_config::time::Timestamp;

/// One figure: what it is, what was reached, what is wanted (empty where nothing is).
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    reached: String,
    wanted: String,
}

impl Row {
    /// A figure as it is to be shown.
    pub fn new(what: &str, reached: String, wanted: &str) -> Self {
        Self {
            what: what.to_owned(),
            reached,
            wanted: wanted.to_owned(),
        }
    }

    /// The `quantile` of `times`, with the smallest and the largest beside it.
    pub fn times(what: &str, times: &mut [Duration], quantile: f64, wanted: &str) -> Self {
        times.sort();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        // The nearest rank: no value is made up between two that were measured.
        let rank = ((times.len() as f64 * quantile).ceil() as usize).clamp(1, times.len().max(1));
        let at = |n: usize| times.get(n).copied().map_or(f64::NAN, millis);
        let reached = format!(
            "{:.1} ms ({:.1}–{:.1}, n = {})",
            at(rank - 1),
            at(0),
            at(times.len().saturating_sub(1)),
            times.len()
        );
        Self::new(what, reached, wanted)
    }

    /// Kilobytes (1,024 bytes) as MB (10⁶ bytes).
    pub fn memory(what: &str, kilobytes: u64, wanted: &str) -> Self {
        let megabytes = kilobytes as f64 * 1024.0 / 1e6;
        Self::new(what, format!("{megabytes:.1} MB"), wanted)
    }
}

/// All of them, a line each.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from("| figure | reached | wanted |\n|---|---|---|\n");
    for row in rows {
        let _ = writeln!(text, "| {} | {} | {} |", row.what, row.reached, row.wanted);
    }
    text
}

/// Today's date, and the machine: `2026-11-21: Linux 6.18, 2 cores, 24 GiB`.
pub fn today_here() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('.').take(2).collect::<Vec<_>>().join(".");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            let kilobytes = line.strip_prefix("MemTotal:")?.trim();
            kilobytes.strip_suffix(" kB")?.parse().ok()
        })
        .unwrap_or(0_u64);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = Timestamp(since.map_or(0, |since| since.as_secs().cast_signed())).to_string();
    let date = now.split('T').next().unwrap_or_default();
    let memory = memory.div_ceil(1 << 20);
    format!("{date}: Linux {kernel}, {cores} cores, {memory} GiB")
}
