//! What is known of the health of one endpoint: from the traffic that it gets, and from checks.
//!
//! A sans-I/O state machine; [`crate::endpoint_health`] shares it among threads. Which endpoints are left alone in
//! the end is decided for all endpoints of a port together, in [`crate::available`].
//!
//! ```text
//!             failures                      wait is over
//!  healthy ──────────────▶ ejected: waits ───────────────▶ ejected: may be tried ──▶ one connection tries it
//!     ▲                          ▲                                                        │         │
//!     │                          └──────────── failed: waits twice as long ◀──────────────┘         │
//!     └─────────────────────────────────────── worked ◀─────────────────────────────────────────────┘
//! ```
//!
//! The numbers, and where they come from:
//! - A dial that timed out ejects at once. It has cost a client 1.5 s, in which two SYNs were not answered (RFC 6298
//!   repeats the first after a second), and so would the next one. nginx does so by default, too (`max_fails=1`). If
//!   the endpoint has accepted another connection meanwhile, two SYNs were lost on a way that works: then it counts
//!   like a refusal.
//! - So does a machine that acknowledges nothing on an open connection of HTTP: it has cost a client some seconds. Where
//!   the endpoint has answered another request meanwhile, something on the way has forgotten the one connection (as
//!   firewalls do): then it counts like a refusal.
//! - A refusal costs a client nothing, for the next endpoint is tried at once. Three in a row eject (HAProxy's
//!   `fall 3`). A dial that works takes back half of what a refusal counts, so an endpoint that refuses more than a
//!   third of its connections is ejected after a while, and one that refuses fewer is not.
//! - Five connections in a row that are reset before the endpoint's first byte eject (Envoy's `consecutive_5xx` and
//!   `consecutive_local_origin_failure`). More than for a refusal, because a client may bring a reset about by
//!   what it sends; any client that is answered starts the count anew.
//! - A check that passes ends it, too (Envoy's `successful_active_health_check_uneject_host`), if `rise` probes of the
//!   endpoint's own port have passed since the last failure: it costs no client anything. A probe that only connects
//!   says nothing of an endpoint that resets what it has accepted.
//! - What is older than [`WINDOW`] does not count (nginx's `fail_timeout`, 10 s).
//! - The first wait is 2 s (HAProxy's check interval), and a trial that fails doubles it up to a minute, or up to 5 s
//!   where the endpoint refuses: a trial that is refused costs nobody anything, and the server may be back any
//!   moment. An endpoint that is ejected again within a minute begins with twice the wait (Envoy's ejection
//!   time grows in the same way).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dial_failure::DialFailure;
use crate::route::Tick;

/// An endpoint counts as unreachable after this many failures in a row. A single one may be a server that restarts.
pub const UNREACHABLE_AFTER: u32 = 3;

/// This many resets in a row eject.
pub const RESETS: u32 = 5;

/// A failure says nothing of now when it is older than this.
pub const LAPSE: Duration = Duration::from_mins(5);

/// Failures count together when each is at most this long after the one before it.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How long an endpoint is left alone at first.
pub const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The longest time that it is left alone.
pub const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// The same where it refuses.
pub const LONGEST_WAIT_REFUSED: Duration = Duration::from_secs(5);

/// How long a trial may take. Then another one may begin.
pub const TRIAL_TIME: Duration = Duration::from_secs(10);

/// An ejection counts for the next one's wait for so long after it is over.
const REMEMBERED: Duration = Duration::from_mins(1);

/// An endpoint with so many points is ejected.
const EJECTING: u32 = 6;
/// The points of a dial that failed, and those that one that works takes back.
const POINTS_OF_FAILURE: u32 = 2;
const POINTS_OF_SUCCESS: u32 = 1;

/// The count of failures stops here.
const MOST: u32 = 1 << 30;

/// What a check says of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckVerdict {
    /// It passes.
    Passing,
    /// It fails.
    Failing {
        /// Since when.
        since: Tick,
        /// The end of a sentence: `got status 503, wanted 200-399`.
        why: Arc<str>,
    },
}

/// What an endpoint's own history says of it. Those of the others may keep it in nevertheless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthVerdict {
    /// Nothing is known against it.
    Healthy,
    /// It has failed by its traffic.
    Ejected {
        /// Since when.
        since: Tick,
        /// A connection to it costs its client time, not only another try.
        is_slow: bool,
    },
    /// It fails its checks.
    FailsChecks,
}

/// A failure that says something of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthFailure {
    /// A dial failed.
    Dial {
        /// Why.
        why: DialFailure,
        /// The endpoint has accepted another connection since this dial began; or it has answered another request since
        /// the one that met silence.
        alive: bool,
    },
    /// A new connection was reset before the endpoint's first byte.
    Reset,
    /// A datagram was refused.
    Datagram(DialFailure),
}

impl HealthFailure {
    fn why(self) -> DialFailure {
        match self {
            Self::Dial { why, .. } | Self::Datagram(why) => why,
            Self::Reset => DialFailure::Reset,
        }
    }
}

/// Something that an endpoint did well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthSuccess {
    /// It accepted a connection.
    Connected,
    /// It said something on a connection of opaque bytes, which may be an old one.
    FirstByte,
    /// It answered a request or a datagram.
    Answer,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRun {
    /// How many.
    pub count: u32,
    /// When the first of them was.
    pub since: Tick,
    /// When the last of them was.
    pub last: Tick,
    /// Why the last of them was.
    pub why: DialFailure,
}

impl FailureRun {
    /// Whether the endpoint is unreachable. One that accepts connections and resets them is not.
    pub fn is_unreachable(&self, now: Tick) -> bool {
        self.count >= UNREACHABLE_AFTER && self.why != DialFailure::Reset && !self.is_old(now)
    }

    /// Whether nobody has tried for so long that it says nothing of now.
    pub fn is_old(&self, now: Tick) -> bool {
        is_after(self.last, LAPSE, now)
    }
}

/// Whether `now` is more than `time` after `then`.
fn is_after(then: Tick, time: Duration, now: Tick) -> bool {
    u128::from(now.0.saturating_sub(then.0)) > time.as_millis()
}

fn after(now: Tick, time: Duration) -> Tick {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Tick(now.0.saturating_add(millis))
}

/// An endpoint is left alone, apart from trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    /// Since when.
    pub since: Tick,
    /// From when on it may be tried.
    pub next_trial: Tick,
    /// How long it was waited for that.
    pub wait: Duration,
    /// Until when the trial that is under way may take.
    trial_until: Option<Tick>,
    /// That a connection is accepted does not end it: what failed came after that.
    needs_answer: bool,
    is_slow: bool,
}

/// What an endpoint has done, as far as it matters. Another process that goes on for this one has it from here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthHistory {
    checked: Option<CheckVerdict>,
    run: Option<FailureRun>,
    /// When the last failure was, whatever worked since.
    last_failure: Tick,
    points: u32,
    resets: u32,
    ejection: Option<Ejection>,
    /// Probes of the endpoint's own port that have passed in a row since the last failure.
    passes: u16,
    /// Ejections one soon after the other, the present one included.
    ejections: u32,
    /// When the last one was over.
    returned: Option<Tick>,
}

impl HealthHistory {
    /// Notes a failure. Returns whether it changes what is to be told or done.
    pub fn failed(&mut self, failure: HealthFailure, now: Tick) -> bool {
        let why = failure.why();
        if !why.is_of_the_endpoint() {
            return false;
        }
        let before = self.state(now);
        if is_after(self.last_failure, WINDOW, now) {
            self.points = 0;
            self.resets = 0;
        }
        self.last_failure = self.last_failure.max(now);
        self.passes = 0;
        let (count, since) = self.run.map_or((0, now), |run| (run.count, run.since));
        self.run = Some(FailureRun {
            count: (count + 1).min(MOST),
            since,
            last: self.last_failure,
            why,
        });
        match failure {
            HealthFailure::Dial {
                why: DialFailure::Timeout | DialFailure::Silent,
                alive: false,
            } => self.points = EJECTING,
            HealthFailure::Reset => self.resets = (self.resets + 1).min(MOST),
            HealthFailure::Dial { .. } | HealthFailure::Datagram(_) => {
                self.points = (self.points + POINTS_OF_FAILURE).min(EJECTING);
            }
        }
        match &mut self.ejection {
            // A trial, or another connection where no other endpoint was left.
            Some(ejection) if now >= ejection.next_trial => {
                ejection.wait = (2 * ejection.wait).min(longest_wait(why));
                ejection.next_trial = after(now, ejection.wait);
                ejection.trial_until = None;
                ejection.is_slow = is_slow(why);
            }
            Some(_) => {}
            None if self.points >= EJECTING || self.resets >= RESETS => self.eject(failure, now),
            None => {}
        }
        before != self.state(now)
    }

    /// Notes a success. Returns whether it changes what is to be told or done.
    pub fn worked(&mut self, success: HealthSuccess, now: Tick) -> bool {
        let before = self.state(now);
        let is_of_resets = |run: &FailureRun| run.why == DialFailure::Reset;
        let ends = match success {
            HealthSuccess::Connected => {
                self.points = self.points.saturating_sub(POINTS_OF_SUCCESS);
                self.run = self.run.filter(is_of_resets);
                self.ejection.is_some_and(|it| !it.needs_answer)
            }
            HealthSuccess::FirstByte => {
                self.resets = 0;
                self.run = self.run.filter(|run| !is_of_resets(run));
                self.ejection.is_some_and(|it| it.needs_answer)
            }
            HealthSuccess::Answer => {
                self.resets = 0;
                self.run = None;
                true
            }
        };
        if ends {
            self.end_ejection(now);
        }
        before != self.state(now)
    }

    /// Notes the outcome of a probe of the endpoint's own port: what it has shown; none: it has failed. Where `rise` of
    /// them have passed in a row since traffic failed last, the endpoint is reached again, as if traffic had
    /// tried it. Returns whether it changes what is to be told or done.
    pub fn probed(&mut self, shown: Option<HealthSuccess>, rise: u16, now: Tick) -> bool {
        let Some(success) = shown else {
            self.passes = 0;
            return false;
        };
        self.passes = self.passes.saturating_add(1);
        self.passes >= rise && self.worked(success, now)
    }

    /// Notes what a check says; none: no check is made. Returns whether it changes what is to be told or done.
    pub fn set_checked(&mut self, verdict: Option<CheckVerdict>, now: Tick) -> bool {
        let is_news = self.checked != verdict;
        let failed = matches!(self.checked, Some(CheckVerdict::Failing { .. }));
        if failed && verdict == Some(CheckVerdict::Passing) {
            self.returned = Some(now);
        }
        self.checked = verdict;
        is_news
    }

    /// Forgets its traffic: the endpoint may be another server from now on.
    pub fn forget(&mut self) {
        *self = Self {
            checked: self.checked.take(),
            ..Self::default()
        };
    }

    /// Whether the endpoint may have a connection that tries it. That counts as its only one until it works or fails,
    /// or [`TRIAL_TIME`] is over.
    pub fn claim_trial(&mut self, now: Tick) -> bool {
        if matches!(self.checked, Some(CheckVerdict::Failing { .. })) {
            return false;
        }
        let Some(ejection) = &mut self.ejection else {
            // It has come back meanwhile.
            return true;
        };
        if now < ejection.next_trial || ejection.trial_until.is_some_and(|until| now < until) {
            return false;
        }
        if ejection.needs_answer && ejection.trial_until.is_some() {
            // Nothing was reset or refused for so long. Some servers do not speak first, and some never.
            self.end_ejection(now);
            return true;
        }
        ejection.trial_until = Some(after(now, TRIAL_TIME));
        true
    }

    /// Until when no trial can be claimed.
    pub fn next_claim(&self) -> Option<Tick> {
        let ejection = self.ejection?;
        let until = ejection.trial_until.unwrap_or_default();
        Some(until.max(ejection.next_trial))
    }

    /// What it says of the endpoint.
    pub fn verdict(&self) -> HealthVerdict {
        match (&self.checked, self.ejection) {
            (Some(CheckVerdict::Failing { .. }), _) => HealthVerdict::FailsChecks,
            (_, Some(it)) => HealthVerdict::Ejected {
                since: it.since,
                is_slow: it.is_slow,
            },
            (_, None) => HealthVerdict::Healthy,
        }
    }

    /// The failures since the last success.
    pub fn run(&self) -> Option<FailureRun> {
        self.run
    }

    /// Since when it is left alone, and until when.
    pub fn ejection(&self) -> Option<Ejection> {
        self.ejection
    }

    /// What the last check said.
    pub fn checked(&self) -> Option<&CheckVerdict> {
        self.checked.as_ref()
    }

    /// Since when its failures have it left alone; none: they do not.
    pub fn distrusted(&self) -> Option<Tick> {
        let by_check = match self.checked {
            Some(CheckVerdict::Failing { since, .. }) => Some(since),
            _ => None,
        };
        by_check.max(self.ejection.map(|it| it.since))
    }

    /// When it came back after it had been left alone; none: it never was.
    pub fn returned(&self) -> Option<Tick> {
        self.returned
    }

    /// Whether a success could change anything.
    pub fn is_clean(&self) -> bool {
        self.run.is_none() && self.points == 0 && self.resets == 0 && self.ejection.is_none()
    }

    fn eject(&mut self, failure: HealthFailure, now: Tick) {
        let why = failure.why();
        let is_again = self
            .returned
            .is_some_and(|returned| !is_after(returned, REMEMBERED, now));
        self.ejections = if is_again {
            self.ejections.saturating_add(1)
        } else {
            1
        };
        // From the sixth doubling on it is the longest wait in any case.
        let doubled = FIRST_WAIT * (1 << (self.ejections - 1).min(6));
        let wait = doubled.min(longest_wait(why));
        self.ejection = Some(Ejection {
            since: now,
            next_trial: after(now, wait),
            wait,
            trial_until: None,
            needs_answer: !matches!(failure, HealthFailure::Dial { .. }),
            is_slow: is_slow(why),
        });
    }

    fn end_ejection(&mut self, now: Tick) {
        if self.ejection.take().is_some() {
            self.points = 0;
            self.resets = 0;
            self.run = None;
            self.returned = Some(now);
        }
    }

    /// What others are told when it changes.
    fn state(&self, now: Tick) -> (bool, bool) {
        let is_unreachable = self.run.is_some_and(|run| run.is_unreachable(now));
        (self.ejection.is_some(), is_unreachable)
    }
}

fn is_slow(why: DialFailure) -> bool {
    use DialFailure::{Silent, Timeout, Unreachable};
    matches!(why, Timeout | Unreachable | Silent)
}

fn longest_wait(why: DialFailure) -> Duration {
    match why {
        DialFailure::Refused => LONGEST_WAIT_REFUSED,
        _ => LONGEST_WAIT,
    }
}

#[cfg(test)]
mod tests;
