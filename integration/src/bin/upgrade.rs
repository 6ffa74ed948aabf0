//! Measures upgrades of a standalone Fairway under traffic, and kills of either process while one takes over from the
//! other. Prints a page in Markdown. Run it by `cargo xtask bench upgrade`. By hand: the number of upgrades and of kills.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fairway_integration::hostile::Random;
use fairway_integration::load::{Load, Tally};
use fairway_integration::site::{EDGE, at, vip};
use fairway_integration::upgrade::kills::{Killed, Since};
use fairway_integration::upgrade::pulse::Pulse;
use fairway_integration::upgrade::{
    CheckedStreams, ECHO, LINES, NODE_PORT, OldClients, UpgradedEdge,
};
use fairway_integration::{figures, harness};

/// Upgrades in a row, and kills.
const UPGRADES: usize = 20;
const KILLS: usize = 200;
/// Connections and UDP flows that are older than all upgrades.
const CONNECTIONS: usize = 2000;
const FLOWS: usize = 500;
/// Streams of which each byte is checked.
const STREAMS: u64 = 32;
/// How often a new connection is made, to an external address and to a node port.
const EVERY: Duration = Duration::from_millis(4);
/// The same where processes are killed, so that much goes over and a kill meets it.
const CONNECTIONS_WITH_KILLS: usize = 400;
const FLOWS_WITH_KILLS: usize = 100;
/// A kill that is not aimed at the handing over comes at most so many microseconds after the new process was started; every
/// fourth is not.
const KILL_WITHIN: usize = 150_000;
const NOT_AIMED: usize = 4;

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let mut number = |usual: usize| -> Result<usize> {
        let given = arguments.next().map(|it| it.parse());
        let given = given.transpose().context("no number")?;
        Ok(given.unwrap_or(usual))
    };
    let (upgrades, kills) = (number(UPGRADES)?, number(KILLS)?);
    harness::prepare()?;
    let rows = [
        ("with steering", &[][..]),
        ("without", &["--no-steering"][..]),
    ];
    let pulses = rows.map(|(name, arguments)| (name, pulses(arguments, upgrades)));
    let rows = rows.map(|(name, arguments)| (name, in_a_row(arguments, upgrades)));
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    eprintln!("seed {seed}");
    let outcomes = killed(kills, seed)?;
    let mut text = format!(
        "# Upgrade\n\nMeasured by `cargo xtask bench upgrade` on {}. A client, the edge and a server are network namespaces on \
         the same cores. A new process takes over from the old one, {upgrades} times in a row. {CONNECTIONS} TCP connections \
         (every fourth by a node port) and {FLOWS} UDP flows are older than all of it: after each upgrade each is asked \
         how its endpoint sees it, which has to be as at the start. Meanwhile {STREAMS} streams are echoed, every byte of \
         which is checked, and every {} ms a new connection is made to an external address and to a node port each. \
         «Handing over» is the time from the moment at which the old process accepts nothing any more until all has gone \
         over, as that process says. «Pause» is the longest time in which a stream that is always written to got \
         nothing, during an upgrade. The streams share a thread and pause by themselves: «Calm» is the longest in two seconds \
         without an upgrade. What an upgrade costs one client alone is below.\n\n\
         | | upgrades | connections changed | flows changed | new connections | of them failed | streams' bytes | wrong | \
         handing over, p50 ms | max ms | pause, p50 ms | max ms | calm, ms | descriptors after the first | after the last |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        figures::today_here(),
        EVERY.as_millis(),
    );
    for (name, row) in rows {
        let row = row?;
        let _ = writeln!(
            text,
            "| {name} | {upgrades} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.changed.0,
            row.changed.1,
            row.tally.good + row.tally.bad.len(),
            row.tally.bad.len(),
            row.bytes,
            row.wrong.len(),
            middle(&row.took),
            most(&row.took),
            middle(&row.pauses),
            most(&row.pauses),
            row.calm.as_millis(),
            row.descriptors.first().copied().unwrap_or_default(),
            row.descriptors.last().copied().unwrap_or_default(),
        );
        for wrong in row.tally.bad.iter().chain(&row.wrong).take(3) {
            let _ = writeln!(text, "\n{wrong}\n");
        }
    }
    let _ = writeln!(
        text,
        "\n## What one client waits for\n\nThe same upgrades without any other traffic: {CONNECTIONS} connections are there and \
         idle, and on one more a message goes to and fro all the time. The longest that it took in each upgrade, beside the \
         longest in a second without one.\n\n\
         | | upgrades | messages | longest, p50 ms | max ms | without an upgrade, ms |\n|---|---|---|---|---|---|"
    );
    for (name, row) in pulses {
        let row = row?;
        let _ = writeln!(
            text,
            "| {name} | {upgrades} | {} | {} | {} | {} |",
            row.messages,
            tenths(middle_of(&row.longest)),
            tenths(row.longest.iter().max().copied()),
            tenths(Some(row.calm)),
        );
    }
    text += &kills_section(kills, seed, &outcomes);
    print!("{text}");
    Ok(())
}

/// Upgrades in a row.
struct UpgradesInARow {
    changed: (usize, usize),
    tally: Tally,
    bytes: u64,
    wrong: Vec<String>,
    took: Vec<Duration>,
    pauses: Vec<Duration>,
    /// The longest pause in two seconds without an upgrade.
    calm: Duration,
    descriptors: Vec<usize>,
}

fn in_a_row(arguments: &[&str], upgrades: usize) -> Result<UpgradesInARow> {
    let mut edge = UpgradedEdge::start(arguments)?;
    let mut old = OldClients::open(&edge.site, CONNECTIONS, FLOWS)?;
    let streams = CheckedStreams::start(&edge.site.client, at(vip(1), ECHO), STREAMS)?;
    let loads = [at(vip(1), LINES), at(EDGE, NODE_PORT)];
    let loads = loads.map(|to| Load::start(&edge.site.client, to, EVERY));
    let mut row = UpgradesInARow {
        changed: (0, 0),
        tally: Tally::default(),
        bytes: 0,
        wrong: Vec::new(),
        took: Vec::new(),
        pauses: Vec::new(),
        calm: Duration::ZERO,
        descriptors: Vec::new(),
    };
    streams.longest_pause();
    std::thread::sleep(Duration::from_secs(2));
    row.calm = streams.longest_pause();
    for number in 0..upgrades {
        streams.longest_pause();
        let upgrade = edge.upgrade()?;
        row.took.push(upgrade.handing_over);
        row.pauses.push(streams.longest_pause());
        let changed = old.changed();
        row.changed.0 += changed.0;
        row.changed.1 += changed.1;
        row.descriptors.push(edge.descriptors()?);
        eprintln!("upgrade {number}: {upgrade:?}, {changed:?} changed");
    }
    if let Err(error) = streams.end() {
        row.wrong.push(format!("{error:#}"));
    }
    row.bytes = streams.bytes();
    for load in loads {
        let load = load?;
        load.settle()?;
        let tally = load.take();
        row.tally.good += tally.good;
        row.tally.bad.extend(tally.bad);
    }
    Ok(row)
}

/// What one client waited for.
struct Pulses {
    longest: Vec<Duration>,
    calm: Duration,
    messages: u64,
}

fn pulses(arguments: &[&str], upgrades: usize) -> Result<Pulses> {
    let mut edge = UpgradedEdge::start(arguments)?;
    let mut old = OldClients::open(&edge.site, CONNECTIONS, 0)?;
    let pulse = Pulse::start(&edge.site.client, at(vip(1), ECHO))?;
    std::thread::sleep(Duration::from_secs(1));
    let calm = pulse.longest();
    let mut longest = Vec::new();
    for number in 0..upgrades {
        pulse.longest();
        let upgrade = edge.upgrade()?;
        let waited = pulse.longest();
        longest.push(waited);
        eprintln!("upgrade {number}: {upgrade:?}, a message took {waited:?}");
    }
    anyhow::ensure!(old.changed() == (0, 0), "some have changed");
    Ok(Pulses {
        longest,
        calm,
        messages: pulse.end()?,
    })
}

/// What became of kills that met the take-over at the same stage.
#[derive(Default)]
struct KillsOfAStage {
    count: usize,
    /// Connections and flows, of all of them.
    alone: (usize, usize),
    lost: (usize, usize),
    /// Kills that lost more than the killed process alone had.
    unexpected: usize,
}

fn killed(
    kills: usize,
    seed: u64,
) -> Result<BTreeMap<(&'static str, &'static str), KillsOfAStage>> {
    let mut edge = UpgradedEdge::start(&[])?;
    let (connections, flows) = (CONNECTIONS_WITH_KILLS, FLOWS_WITH_KILLS);
    let mut old = OldClients::open(&edge.site, connections, flows)?;
    let mut random = Random::new(seed);
    let mut outcomes = BTreeMap::<_, KillsOfAStage>::new();
    // How long it takes here to hand all of that over.
    edge.upgrade()?;
    let takes = usize::try_from(edge.upgrade()?.handing_over.as_micros())?.max(1000);
    eprintln!("handing over takes {takes} µs");
    for number in 0..kills {
        let (which, name) = match number % 2 {
            0 => (Killed::Predecessor, "the old one"),
            _ => (Killed::Successor, "the new one"),
        };
        let (since, within) = match number / 2 % NOT_AIMED {
            0 => (Since::Start, KILL_WITHIN),
            _ => (Since::Serving, takes),
        };
        let after = u64::try_from(random.below(within))?;
        let outcome = edge.kill(which, (since, Duration::from_micros(after)), &mut old);
        let outcome = outcome.with_context(|| format!("kill {number}, {name} after {after} µs"))?;
        eprintln!("kill {number}, {name} after {after} µs: {outcome:?}");
        let (lost, alone) = (outcome.lost, outcome.alone);
        let all = outcomes.entry((name, outcome.stage)).or_default();
        all.count += 1;
        all.alone = (all.alone.0 + alone.0, all.alone.1 + alone.1);
        all.lost = (all.lost.0 + lost.0, all.lost.1 + lost.1);
        all.unexpected += usize::from(lost.0 > alone.0 || lost.1 > alone.1);
    }
    Ok(outcomes)
}

fn kills_section(
    kills: usize,
    seed: u64,
    outcomes: &BTreeMap<(&str, &str), KillsOfAStage>,
) -> String {
    let mut text = format!(
        "\n## Kills\n\n{kills} times (seed {seed}) one of the two processes is killed (SIGKILL) at a random time: of four kills \
         three while the old one hands over (from the moment at which it says so, at most as long as that takes), and one at \
         most {} ms after the new one was started, with {CONNECTIONS_WITH_KILLS} connections and {FLOWS_WITH_KILLS} flows. What a \
         process alone carried when it was killed ends with it; nothing else may. Then the other one serves.\n\n\
         | killed | stage | kills | carried alone (TCP, UDP) | lost (TCP, UDP) | kills that lost more |\n\
         |---|---|---|---|---|---|\n",
        KILL_WITHIN / 1000,
    );
    for ((name, stage), all) in outcomes {
        let _ = writeln!(
            text,
            "| {name} | {stage} | {} | {}, {} | {}, {} | {} |",
            all.count, all.alone.0, all.alone.1, all.lost.0, all.lost.1, all.unexpected,
        );
    }
    text
}

fn middle(times: &[Duration]) -> String {
    millis(middle_of(times))
}

fn middle_of(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

fn tenths(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| {
        format!("{:.1}", time.as_secs_f64() * 1000.0)
    })
}

fn most(times: &[Duration]) -> String {
    millis(times.iter().max().copied())
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| time.as_millis().to_string())
}
