//! Active checks: endpoints are asked whether they work, and get no traffic while they do not.
//!
//! Pure: what is asked when is decided here, with the time and a seed as arguments; the shell asks. Of a port that
//! says how its endpoints are checked each eligible one has a [`CheckProbe`] ([`targets`]). Ports that ask the same of the
//! same address share it, of whatever Service they are. [`schedule`] says when each is made, within a budget;
//! [`rise_fall`] turns outcomes into verdicts; [`EndpointChecks`] holds all of it, and says whom a verdict concerns.
//! [`grpc`] is the one message of gRPC that is needed.

pub mod grpc;
pub mod rise_fall;
pub mod schedule;
pub mod targets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fairway_config::net::EndpointAddr;

use self::rise_fall::{CheckOutcome, RiseFall};
use self::schedule::{CheckId, CheckSchedule};
use self::targets::CheckProbe;
use crate::health::{CheckVerdict, HealthSuccess};
use crate::route::Tick;

/// A port as the caller knows it.
pub type CheckedPortId = u32;

/// What is known anew of an endpoint of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckNews {
    /// Which port.
    pub port: CheckedPortId,
    /// Which endpoint of it.
    pub endpoint: EndpointAddr,
    /// What its check says; none: there is no check, or no probe has ended yet.
    pub verdict: Option<CheckVerdict>,
}

/// What a probe says of the endpoints that it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckEvidence {
    /// What it shows if it passes.
    pub shows: HealthSuccess,
    /// How many have to pass in a row.
    pub rise: u16,
    /// The endpoints, each with its port. One that is asked at another port than its own is not among them.
    pub users: Vec<(CheckedPortId, EndpointAddr)>,
}

/// All probes of a gateway, and what they have shown.
#[derive(Debug)]
pub struct EndpointChecks {
    schedule: CheckSchedule,
    ids: BTreeMap<Arc<CheckProbe>, CheckId>,
    probes: HashMap<CheckId, SharedCheck>,
    ports: BTreeMap<CheckedPortId, BTreeMap<EndpointAddr, CheckId>>,
    last: u64,
}

/// A probe with all that share it.
#[derive(Debug)]
struct SharedCheck {
    probe: Arc<CheckProbe>,
    state: RiseFall,
    users: BTreeSet<(CheckedPortId, EndpointAddr)>,
}

impl EndpointChecks {
    /// Nothing is checked yet. `seed` spreads the probes.
    pub fn new(seed: u64) -> Self {
        Self {
            schedule: CheckSchedule::new(seed),
            ids: BTreeMap::new(),
            probes: HashMap::new(),
            ports: BTreeMap::new(),
            last: 0,
        }
    }

    /// A port has these probes from now on, one for each endpoint; none: it has no checks any more. The budget is shared
    /// by namespaces; a probe that several of them share counts for the first one.
    pub fn set_port(
        &mut self,
        port: CheckedPortId,
        namespace: &Arc<str>,
        wanted: BTreeMap<EndpointAddr, CheckProbe>,
        now: Tick,
    ) -> Vec<CheckNews> {
        let before = self.ports.remove(&port).unwrap_or_default();
        let mut news = Vec::new();
        let mut after = BTreeMap::new();
        for (endpoint, probe) in wanted {
            let id = self.id_of(probe, namespace, now);
            after.insert(endpoint, id);
            let Some(shared) = self.probes.get_mut(&id) else {
                continue;
            };
            // With the new one first: a probe that the port keeps is not left for a moment.
            shared.users.insert((port, endpoint));
            let verdict = shared.state.verdict();
            let is_other = before.get(&endpoint).is_some_and(|it| *it != id);
            let is_new = !before.contains_key(&endpoint) && verdict.is_some();
            if is_other || is_new {
                news.push(CheckNews {
                    port,
                    endpoint,
                    verdict,
                });
            }
        }
        for (endpoint, id) in before {
            match after.get(&endpoint) {
                Some(now) if *now == id => continue,
                Some(_) => {}
                None => news.push(CheckNews {
                    port,
                    endpoint,
                    verdict: None,
                }),
            }
            self.leave(id, (port, endpoint));
        }
        if !after.is_empty() {
            self.ports.insert(port, after);
        }
        news
    }

    /// When [`Self::take_due`] has something to do; none: not before [`Self::finished`] or [`Self::set_port`].
    pub fn next_due(&self, now: Tick) -> Option<Tick> {
        self.schedule.next_due(now)
    }

    /// The probes to make now. [`Self::finished`] has to follow for each.
    pub fn take_due(&mut self, now: Tick) -> Vec<(CheckId, Arc<CheckProbe>)> {
        let due = self.schedule.take_due(now).into_iter();
        let probes = due.filter_map(|id| Some((id, self.probes.get(&id)?.probe.clone())));
        probes.collect()
    }

    /// A port that the probe is for; none: it is for none any more.
    pub fn user(&self, id: CheckId) -> Option<CheckedPortId> {
        let (port, _) = self.probes.get(&id)?.users.first()?;
        Some(*port)
    }

    /// The ports and endpoints that a probe is for, where nothing is known by it yet.
    pub fn unknown(&self, id: CheckId) -> Vec<(CheckedPortId, EndpointAddr)> {
        let shared = self.probes.get(&id);
        let shared = shared.filter(|shared| shared.state.verdict().is_none());
        let users = shared.into_iter().flat_map(|shared| &shared.users);
        users.copied().collect()
    }

    /// Goes on with what the same probe of another process has shown, where nothing is known by it yet.
    pub fn go_on(&mut self, id: CheckId, verdict: CheckVerdict) {
        if let Some(shared) = self.probes.get_mut(&id) {
            shared.state.go_on(verdict);
        }
    }

    /// A probe has ended. Says of all who share it what is new.
    pub fn finished(&mut self, id: CheckId, outcome: &CheckOutcome, now: Tick) -> Vec<CheckNews> {
        let Some(shared) = self.probes.get_mut(&id) else {
            self.schedule.finished(id, false, now);
            return Vec::new();
        };
        let has_changed = shared.state.record(outcome, &shared.probe.check, now);
        self.schedule.finished(id, shared.state.is_changing(), now);
        if !has_changed {
            return Vec::new();
        }
        let verdict = shared.state.verdict();
        let users = shared.users.iter();
        let news = users.map(|(port, endpoint)| CheckNews {
            port: *port,
            endpoint: *endpoint,
            verdict: verdict.clone(),
        });
        news.collect()
    }

    /// What a probe that has passed has shown of the endpoints that it was sent to itself, and how many have to pass in a row.
    pub fn evidence(&self, id: CheckId) -> Option<CheckEvidence> {
        let shared = self.probes.get(&id)?;
        let asked = shared.probe.addr;
        let users = shared.users.iter().copied();
        Some(CheckEvidence {
            shows: shared.probe.shows(),
            rise: shared.probe.check.rise,
            users: users.filter(|(_, endpoint)| *endpoint == asked).collect(),
        })
    }

    /// How many probes there are.
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Whether nothing is checked.
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// By how much intervals are stretched because more is asked for than the budget has, in thousandths; 1,000 where it is
    /// enough.
    pub fn stretch(&self) -> u64 {
        self.schedule.stretch()
    }

    fn id_of(&mut self, probe: CheckProbe, namespace: &Arc<str>, now: Tick) -> CheckId {
        if let Some(id) = self.ids.get(&probe) {
            return *id;
        }
        self.last += 1;
        let id = CheckId(self.last);
        let probe = Arc::new(probe);
        self.schedule.add(id, namespace, probe.check.interval, now);
        self.ids.insert(probe.clone(), id);
        let shared = SharedCheck {
            probe,
            state: RiseFall::default(),
            users: BTreeSet::new(),
        };
        self.probes.insert(id, shared);
        id
    }

    fn leave(&mut self, id: CheckId, user: (CheckedPortId, EndpointAddr)) {
        let Some(shared) = self.probes.get_mut(&id) else {
            return;
        };
        shared.users.remove(&user);
        if shared.users.is_empty() {
            self.ids.remove(&shared.probe);
            self.probes.remove(&id);
            self.schedule.remove(id);
        }
    }
}
