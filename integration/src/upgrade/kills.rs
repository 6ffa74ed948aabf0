//! One of the two processes is killed or frozen while one takes over from the other.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{LINES, OldClients, UPGRADE, UpgradedEdge};
use crate::fairway::Fairway;
use crate::site::{at, vip};
use crate::{clients, wait};

/// A process that is killed while one takes over from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// The one that runs.
    Predecessor,
    /// The new one.
    Successor,
}

/// From when on the time until a kill counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The start of the new process.
    Start,
    /// The new one has asked to take over, as the old one says.
    Asked,
    /// The new one can serve, and the old one begins to hand connections over.
    Serving,
}

impl Since {
    /// What the old process says in its log then.
    fn words(self) -> Option<&'static str> {
        match self {
            Self::Start => None,
            Self::Asked => Some("another process takes over"),
            Self::Serving => Some("the other process can serve"),
        }
    }
}

/// How a kill ended.
#[derive(Debug)]
pub struct KillOutcome {
    /// Connections and flows that ended with the killed process.
    pub lost: (usize, usize),
    /// How many the killed process alone carried.
    pub alone: (usize, usize),
    /// How the take-over stood.
    pub stage: &'static str,
}

impl UpgradedEdge {
    /// A new process begins to take over, and is frozen before it is through.
    pub fn freeze_successor(&mut self) -> Result<Fairway> {
        for _ in 0..50 {
            let mut successor = self.successor(&[])?;
            let before = self.fairway.process()?.said().len();
            successor.launch()?;
            let began = Instant::now();
            while !self.fairway.process()?.said()[before..].contains("another process takes") {
                ensure!(began.elapsed() < UPGRADE, "it does not begin");
                // It is over within a moment.
                std::thread::yield_now();
            }
            successor.process()?.signal(rustix::process::Signal::STOP)?;
            let is_frozen = wait::until_some("the old process knows", || {
                let said = self.fairway.process()?.said();
                let new = said.get(before..).unwrap_or_default();
                match (
                    new.contains("goes on with all"),
                    new.contains(" handed over: what"),
                ) {
                    (true, _) => Ok(true),
                    (false, true) => Ok(false),
                    (false, false) => Err(anyhow::anyhow!("{new}")),
                }
            })?;
            if is_frozen {
                return Ok(successor);
            }
            successor.process()?.signal(rustix::process::Signal::CONT)?;
            self.fairway.process()?.wait(UPGRADE)?;
            successor.ready()?;
            self.fairway = successor;
        }
        bail!("it is always through before it can be frozen")
    }

    /// Starts a new process, and waits until the old one says that it is so far.
    pub fn begin(&mut self, since: Since) -> Result<Fairway> {
        let mut successor = self.successor(&[])?;
        let before = self.fairway.process()?.said().len();
        successor.launch()?;
        let Some(words) = since.words() else {
            return Ok(successor);
        };
        let began = Instant::now();
        while !self.fairway.process()?.said()[before..].contains(words) {
            ensure!(began.elapsed() < UPGRADE, "it does not say {words:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(successor)
    }

    /// A new process takes over, and one of both is killed so long after something. Returns how many connections and
    /// flows were lost by it; those are opened anew.
    pub fn kill(
        &mut self,
        which: Killed,
        (since, after): (Since, Duration),
        old: &mut OldClients,
    ) -> Result<KillOutcome> {
        // Of what the clients have, and of flows that they have left.
        let active =
            |metric: &str| -> Result<usize> { Ok(self.fairway.metric(metric, &[])? as usize) };
        let count = (
            active("fairway_connections_active")?,
            active("fairway_flows_active")?,
        );
        let mut successor = self.begin(since)?;
        std::thread::sleep(after);
        let killed = match which {
            Killed::Predecessor => self.fairway.process()?,
            Killed::Successor => successor.process()?,
        };
        killed.signal(rustix::process::Signal::KILL)?;
        killed.wait(UPGRADE)?;
        let (alone, stage) = match which {
            Killed::Predecessor => {
                wait::until_some_within(UPGRADE, "the new process serves", || {
                    let said = successor.process()?.said();
                    let has_begun = [" taken over c", "starting as usual", "has ended with"];
                    ensure!(has_begun.iter().any(|it| said.contains(it)), "{said}");
                    Ok(())
                })?;
                if successor.process()?.ended()?.is_some() {
                    // It was told that it can't: the process that was killed had the lock for a moment still.
                    bail!("it has ended: {}", successor.process()?.said());
                }
                let said = successor.process()?.said();
                let kept = numbers(&said, " taken over c");
                let stage = match kept {
                    None => "before the new process had asked",
                    Some(_) if said.contains("has ended before it") => "while it handed over",
                    Some(_) => "when it had handed over",
                };
                let kept = kept.unwrap_or_default();
                (
                    (count.0 - kept.0.min(count.0), count.1 - kept.1.min(count.1)),
                    stage,
                )
            }
            Killed::Successor => {
                let mut said = String::new();
                let has_gone = wait::until_some_within(UPGRADE, "the old process goes on", || {
                    said = self.fairway.process()?.said();
                    let asked = said.matches("another process takes over").count();
                    let went_on = said.matches("goes on with all").count();
                    if self.fairway.process()?.ended()?.is_some()
                        || said.contains(" handed over: what")
                    {
                        return Ok(true);
                    }
                    ensure!(asked == went_on, "{said}");
                    Ok(false)
                })?;
                if has_gone {
                    // All had gone, and nobody is left: as after any crash.
                    self.fairway = Self::prepared(&self.site.edge, &self.first, &self.arguments)?;
                    self.fairway.launch()?;
                    (count, "when it had taken over")
                } else {
                    let mut lines = said.lines().filter(|it| it.contains("goes on with all"));
                    let last = lines
                        .next_back()
                        .filter(|_| said.contains("another process"));
                    let gone = last
                        .and_then(|it| numbers(it, "goes on"))
                        .unwrap_or_default();
                    let stage = match gone {
                        (0, 0) => "before it had taken anything",
                        _ => "while it took over",
                    };
                    (gone, stage)
                }
            }
        };
        if which == Killed::Predecessor {
            self.fairway = successor;
        } else {
            drop(successor);
        }
        wait::until_some("the Service answers", || {
            self.site.client.run(|| clients::who(at(vip(1), LINES)))
        })?;
        self.fairway.ready()?;
        let lost = old.renew(&self.site)?;
        Ok(KillOutcome { lost, alone, stage })
    }
}

/// The numbers of connections and of flows in the last line of a log that has these words.
fn numbers(said: &str, words: &str) -> Option<(usize, usize)> {
    let line = said.lines().rfind(|line| line.contains(words))?;
    let number = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((number("connections=")?, number("flows=")?))
}
