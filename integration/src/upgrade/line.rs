//! Processes of one gateway that take over from each other, of which one is killed now and then: what they announce stays
//! where somebody is left that has it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use super::UPGRADE;
use crate::fairway::Fairway;
use crate::lab::Host;
use crate::wait;

/// Processes of one gateway, of which each takes over from the one before.
pub struct ProcessLine<'a> {
    host: &'a Host,
    /// It has their state, and is never started.
    first: Fairway,
}

impl<'a> ProcessLine<'a> {
    /// Of the gateway `edge-1` on that host.
    pub fn new(host: &'a Host) -> Result<Self> {
        let first = Fairway::prepare(host)?;
        Ok(Self { host, first })
    }

    /// A process that reads these manifests; not started.
    pub fn next(&self, manifests: &Path) -> Result<Fairway> {
        Ok(Fairway::prepare(self.host)?
            .manifests_in(manifests)
            .state_in(self.first.state())
            .arguments(&["--node-name", "edge-1", "--take-over"])
            .log("info"))
    }

    /// The same, started and ready.
    pub fn started(&self, manifests: &Path) -> Result<Fairway> {
        let mut next = self.next(manifests)?;
        next.launch()?;
        next.ready()?;
        Ok(next)
    }
}

/// How an upgrade ended in which one of both processes was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnnouncedAfter {
    /// What was announced is still announced by who has it, as if nothing had been.
    Stays,
    /// The killed process alone had it.
    Anew,
}

/// Kills the process of these names so long after the old one has heard that another one takes over. `goes_on`: what a
/// new one says that goes on with what is announced. Returns who serves then, when all is announced (`settle`).
pub fn kill(
    line: &ProcessLine<'_>,
    mut old: Fairway,
    (kills_old, after): (bool, Duration),
    goes_on: &str,
    settle: impl Fn(&mut Fairway) -> Result<()>,
) -> Result<(Fairway, AnnouncedAfter)> {
    let folder = old.manifests().to_owned();
    let mut new = line.next(&folder)?;
    let before = old.process()?.said().len();
    new.launch()?;
    let began = Instant::now();
    while !old.process()?.said()[before..].contains("another process takes over") {
        ensure!(began.elapsed() < UPGRADE, "it does not begin");
        std::thread::yield_now();
    }
    let heard = Instant::now();
    while heard.elapsed() < after {
        std::thread::yield_now();
    }
    let (killed, other) = match kills_old {
        true => (&mut old, &mut new),
        false => (&mut new, &mut old),
    };
    killed.process()?.signal(Signal::KILL)?;
    killed.process()?.wait(UPGRADE)?;
    if kills_old {
        other.ready()?;
        settle(other)?;
        let outcome = match other.process()?.said().contains(goes_on) {
            true => AnnouncedAfter::Stays,
            false => AnnouncedAfter::Anew,
        };
        return Ok((new, outcome));
    }
    let has_gone = wait::until_some_within(UPGRADE, "the old process knows", || {
        let said = other.process()?.said();
        let said = said.get(before..).unwrap_or_default();
        match (
            said.contains(" handed over: what"),
            said.contains("goes on with all"),
        ) {
            (true, _) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => bail!("{said}"),
        }
    })?;
    if !has_gone {
        settle(&mut old)?;
        return Ok((old, AnnouncedAfter::Stays));
    }
    old.process()?.wait(UPGRADE)?;
    let mut anew = line.started(&folder)?;
    settle(&mut anew)?;
    Ok((anew, AnnouncedAfter::Anew))
}

/// Which one is killed, and when: mostly about when it hands over what it announces.
pub fn moment(random: u64) -> (bool, Duration) {
    let (from, span) = match random % 4 {
        0 => (0, 80_000),
        _ => (20_000, 30_000),
    };
    let after = Duration::from_micros(from + (random >> 16) % span);
    ((random >> 8).is_multiple_of(2), after)
}

/// Prints how often each end was.
pub fn counted(outcomes: &[(bool, AnnouncedAfter)]) {
    for kills_old in [true, false] {
        for outcome in [AnnouncedAfter::Stays, AnnouncedAfter::Anew] {
            let count = outcomes
                .iter()
                .filter(|it| **it == (kills_old, outcome))
                .count();
            println!("old {kills_old}: {outcome:?} {count}");
        }
    }
}

/// How many kills there are: 24, or as many as the environment says.
pub fn rounds() -> u64 {
    let given = std::env::var("FAIRWAY_ROUNDS").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or(24)
}

/// A number that differs from run to run, or that of the environment: what a failure has printed.
pub fn seed() -> u64 {
    let given = std::env::var("FAIRWAY_TEST_SEED").ok();
    given.and_then(|it| it.parse().ok()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(1, |since| since.as_secs())
    })
}

/// Bits that look random (SplitMix64).
pub fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
