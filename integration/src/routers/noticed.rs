//! What a router notices of a gateway.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Bird;
use crate::clients;
use crate::lab::{Host, PacketSocket, Process, Served};
use crate::lan::frames;

/// What BIRD says of its sessions, of BFD, and of all that it has learnt: since when, and how often something was said.
/// Nothing of it changes by itself.
#[derive(Clone, Debug)]
pub struct BirdKnows {
    /// A mark stands for each time.
    text: String,
    /// In milliseconds of the day.
    times: Vec<u64>,
    said: String,
}

/// BIRD reckons a time of day anew each time that it shows it.
const RECKONED: u64 = 10;

impl BirdKnows {
    /// Asks for it.
    pub fn ask(bird: &Bird, sessions: &[&str]) -> Result<Self> {
        let mut said = String::new();
        for session in sessions {
            let answer = bird.ask(&["show", "protocols", "all", session])?;
            let words = [*session, "BGP state", "Import updates", "Import withdraws"];
            let is_meant = |line: &&str| words.iter().any(|it| line.trim_start().starts_with(it));
            let lines = answer.lines().filter(is_meant);
            said.extend(lines.map(|line| format!("{line}\n")));
        }
        said += &bird.ask(&["show", "bfd", "sessions"])?;
        said += &bird.ask(&["show", "route", "all"])?;
        let mut times = Vec::new();
        let words = said
            .split_whitespace()
            .map(|word| match time(word.trim_matches(['[', ']'])) {
                Some(time) => {
                    times.push(time);
                    "TIME"
                }
                None => word,
            });
        let text = words.collect::<Vec<_>>().join(" ");
        Ok(Self { text, times, said })
    }

    /// Fails where it is not the same.
    pub fn same(&self, other: &Self) -> Result<()> {
        let mut times = self.times.iter().zip(&other.times);
        let is_same =
            self.text == other.text && times.all(|(one, other)| one.abs_diff(*other) <= RECKONED);
        ensure!(is_same, "{}\n{}", self.said, other.said);
        Ok(())
    }

    /// The line of the first session, without times.
    pub fn first_session(&self) -> (&str, Option<u64>) {
        let end = self.text.find(" BGP state").unwrap_or_default();
        (&self.text[..end], self.times.first().copied())
    }
}

/// A time of day as BIRD shows it: `18:30:01.123`.
fn time(word: &str) -> Option<u64> {
    let (hour, rest) = word.split_once(':')?;
    let (minute, rest) = rest.split_once(':')?;
    let (second, milli) = rest.split_once('.')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let minutes = number(hour)? * 60 + number(minute)?;
    Some((minutes * 60 + number(second)?) * 1000 + number(milli)?)
}

/// What becomes of a host's routes from now on.
#[derive(Debug)]
pub struct RouteWatch(Process);

impl RouteWatch {
    /// Watches the routes of a host.
    pub fn start(host: &Host) -> Result<Self> {
        let mut command = std::process::Command::new("ip");
        command.args(["monitor", "route"]);
        let watch = Self(host.spawn(command)?);
        // It has begun when it sees this one come and go.
        let mark = "203.0.113.255";
        crate::wait::until_some("routes are watched", || {
            host.ip(&format!("route add {mark} dev lo table 77"))?;
            host.ip(&format!("route del {mark} dev lo table 77"))?;
            ensure!(watch.0.said().contains(mark), "nothing is seen");
            anyhow::Ok(())
        })?;
        Ok(watch)
    }

    /// What has changed of routes to external addresses.
    pub fn changes(&self) -> Vec<String> {
        let said = self.0.said();
        let lines = said.lines().filter(|line| {
            let is_mark = line.contains("203.0.113.255");
            !is_mark && (line.contains("203.0.113.") || line.contains("2001:db8:f:"))
        });
        lines.map(str::to_owned).collect()
    }
}

/// Packets of BFD that come in on an interface.
#[derive(Debug)]
pub struct BfdWatch {
    seen: Arc<Mutex<BfdSeen>>,
    _watching: Served,
}

#[derive(Debug, Default)]
struct BfdSeen {
    last: Option<Instant>,
    longest: Duration,
    count: usize,
    not_up: usize,
}

impl BfdWatch {
    /// Watches an interface of a host.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let seen = Arc::<Mutex<BfdSeen>>::default();
        let (of_thread, interface) = (Arc::clone(&seen), interface.to_owned());
        let watching = host.serve(move || {
            let socket = PacketSocket::open(&interface)?;
            Ok(async move {
                let mut buffer = [0; 2048];
                loop {
                    // The kernel says when it came.
                    while let Ok(Some((frame, at))) = socket.receive(&mut buffer) {
                        if frames::is_udp_to(frame, 3784) {
                            let mut seen = of_thread.lock().unwrap_or_else(PoisonError::into_inner);
                            seen.take(frame, at);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })?;
        Ok(Self {
            seen,
            _watching: watching,
        })
    }

    /// The longest time between two packets since this was asked last, how many there were, and how many of them did not
    /// say that the session is up.
    pub fn take(&self) -> (Duration, usize, usize) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = (seen.longest, seen.count, seen.not_up);
        let last = seen.last;
        *seen = BfdSeen {
            last,
            ..BfdSeen::default()
        };
        taken
    }
}

impl BfdSeen {
    fn take(&mut self, frame: &[u8], at: Instant) {
        if let Some(last) = self.last {
            self.longest = self.longest.max(at.saturating_duration_since(last));
        }
        self.last = Some(at);
        self.count += 1;
        // Behind Ethernet, IPv4 and UDP; the state is the first two bits of the second byte.
        let is_up = frame.get(43).is_some_and(|byte| byte >> 6 == 3);
        self.not_up += usize::from(!is_up);
    }
}

/// What `ip` says of an interface.
pub fn link(host: &Host, name: &str) -> Result<String> {
    host.run(|| clients::output("ip", &["-o", "link", "show", "dev", name]))
}
