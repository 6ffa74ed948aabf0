//! The thread that makes the probes.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fairway_config::names::ServiceName;
use fairway_gateway_core::checks::rise_fall::CheckOutcome;
use fairway_gateway_core::checks::schedule::{BUDGET, CheckId};
use fairway_gateway_core::checks::targets::{CheckProbe, targets};
use fairway_gateway_core::checks::{CheckNews, EndpointChecks};
use fairway_gateway_core::fleet::EndpointReach;
use fairway_gateway_core::route::Tick;
use futures::FutureExt as _;
use tokio::task::JoinSet;

use super::log::CheckLog;
use super::outbox::PortsToCheck;
use super::probe;
use super::reach::port_reach;
use super::tls::AnyServer;
use crate::descriptors::Permit;
use crate::dial_changes::DialChanges;
use crate::metrics::{CHECK_PROBES, CHECK_STRETCH, CHECKS};
use crate::port::Port;
use crate::shared::GatewayShared;
use crate::source_address::SourceFallback;

/// How often the log says again that intervals are stretched.
const SAY_AGAIN: Duration = Duration::from_mins(10);

/// How often it is looked what checks say of all endpoints of a port together, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the thread when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct CheckThread {
    ports: Arc<PortsToCheck>,
    /// The Services with a port of whose endpoints together checks say something else now.
    changes: Arc<DialChanges>,
    is_started: bool,
}

impl CheckThread {
    /// A port has a new route. `before`: it was checked until now.
    pub(crate) fn set(&mut self, port: &Arc<Port>, before: bool, shared: &Arc<GatewayShared>) {
        let is_checked = port.route().options.health_check.is_some();
        if is_checked {
            self.ports.set(port);
        } else if before {
            self.ports.remove(port);
        }
        if is_checked && !self.is_started {
            match start(shared.clone(), self.ports.clone(), self.changes.clone()) {
                Ok(()) => self.is_started = true,
                Err(error) => tracing::error!(
                    %error,
                    "endpoints can't be checked: the thread does not start; it is tried again with the next change"
                ),
            }
        }
    }

    /// Waits until checks say something else of the endpoints of a port together.
    pub(crate) async fn told(&self) {
        self.changes.told().await;
    }

    /// The Services where that is so.
    pub(crate) fn take_changes(&self) -> BTreeSet<ServiceName> {
        self.changes.take()
    }

    /// All that another process knew is here: probes are made from now on.
    pub(crate) fn begin(&self) {
        self.ports.tell();
    }

    /// A port is gone.
    pub(crate) fn remove(&mut self, port: &Port) {
        if port.route().options.health_check.is_some() {
            self.ports.remove(port);
        }
    }
}

fn start(
    shared: Arc<GatewayShared>,
    ports: Arc<PortsToCheck>,
    changes: Arc<DialChanges>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let seed = RandomState::new().hash_one(0);
    let stopped = shared.draining.clone();
    let checking = Checking {
        checks: EndpointChecks::new(seed),
        ports: HashMap::new(),
        running: JoinSet::new(),
        tls: AnyServer::new(),
        fallback: SourceFallback::default(),
        log: CheckLog::default(),
        said_stretched: None,
        changes,
        touched: BTreeSet::new(),
        reach: HashMap::new(),
        looked: Tick(0),
        shared,
    };
    std::thread::Builder::new()
        .name("fairway-checks".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = checking.run(&ports) => {}
                }
            });
            runtime.shutdown_background();
        })?;
    Ok(())
}

/// The state of the thread.
struct Checking {
    shared: Arc<GatewayShared>,
    checks: EndpointChecks,
    ports: HashMap<u32, Arc<Port>>,
    running: JoinSet<(CheckId, CheckOutcome)>,
    tls: AnyServer,
    fallback: SourceFallback,
    log: CheckLog,
    /// When the log said last that intervals are stretched.
    said_stretched: Option<Tick>,
    changes: Arc<DialChanges>,
    /// The ports of which something is new since it was looked what checks say of all of their endpoints together.
    touched: BTreeSet<u32>,
    /// What was found then.
    reach: HashMap<u32, EndpointReach>,
    looked: Tick,
}

impl Checking {
    async fn run(mut self, ports: &PortsToCheck) {
        loop {
            let now = self.shared.clock.now();
            // Another process probes until it has handed over, and knows more: one probe alone says less than its verdict.
            let is_waiting = self.shared.taking_over.load(Ordering::Acquire);
            let due = match is_waiting {
                true => Vec::new(),
                false => self.checks.take_due(now),
            };
            for (id, probe) in due {
                self.make(id, probe);
            }
            let look = self.look(now);
            let next = self.checks.next_due(now).filter(|_| !is_waiting);
            let due = next.into_iter().chain(look).min();
            tokio::select! {
                () = ports.told() => self.take(ports),
                Some(ended) = self.running.join_next() => {
                    self.ended(ended.ok());
                    while let Some(ended) = self.running.try_join_next() {
                        self.ended(ended.ok());
                    }
                }
                () = sleep_until(due, now) => {}
            }
        }
    }

    /// Takes in what has changed of ports.
    fn take(&mut self, ports: &PortsToCheck) {
        let now = self.shared.clock.now();
        for (number, port) in ports.take() {
            let Some(port) = port else {
                let nobody = Arc::from("");
                let news = self
                    .checks
                    .set_port(number, &nobody, Default::default(), now);
                self.tell(news, now);
                self.ports.remove(&number);
                self.touched.remove(&number);
                self.reach.remove(&number);
                continue;
            };
            let route = port.route().clone();
            self.ports.insert(number, port);
            self.touched.insert(number);
            let namespace = &route.service.namespace;
            let news = self
                .checks
                .set_port(number, namespace, targets(&route), now);
            self.tell(news, now);
        }
        metrics::gauge!(CHECK_PROBES).set(self.checks.len() as f64);
        let stretch = self.checks.stretch();
        metrics::gauge!(CHECK_STRETCH).set(stretch as f64 / 1000.0);
        self.say_stretched(stretch, now);
    }

    /// Says in the log that more probes are asked for than are made.
    fn say_stretched(&mut self, stretch: u64, now: Tick) {
        if stretch <= 1000 {
            self.said_stretched = None;
            return;
        }
        let again = |said: Tick| u128::from(now.0.saturating_sub(said.0)) >= SAY_AGAIN.as_millis();
        if self.said_stretched.is_none_or(again) {
            self.said_stretched = Some(now);
            tracing::warn!(
                asked = stretch * BUDGET / 1000,
                made = BUDGET,
                "more checks are asked for in a second than are made: the intervals of the namespaces that ask for most \
                 are stretched"
            );
        }
    }

    /// Begins a probe.
    fn make(&mut self, id: CheckId, probe: Arc<CheckProbe>) {
        let port = self.checks.user(id).and_then(|port| self.ports.get(&port));
        let share = port.map(|port| &port.share);
        let Some(permit) = self.shared.descriptors.take(share, 1) else {
            let outcome = CheckOutcome::NotMade("no file descriptor is left".into());
            return self.finished(id, &outcome);
        };
        let pool = self.shared.source_pool.load();
        let begun = probe::begin(&probe, &mut self.fallback, &pool);
        let tls = self.tls.clone();
        self.running.spawn(run(id, probe, begun, tls, permit));
    }

    fn ended(&mut self, ended: Option<(CheckId, CheckOutcome)>) {
        if let Some((id, outcome)) = ended {
            self.finished(id, &outcome);
        }
    }

    fn finished(&mut self, id: CheckId, outcome: &CheckOutcome) {
        let result = match outcome {
            CheckOutcome::Passed => "passed",
            CheckOutcome::Failed(_) => "failed",
            CheckOutcome::NotMade(_) => "not_made",
        };
        metrics::counter!(CHECKS, "result" => result).increment(1);
        let now = self.shared.clock.now();
        // What another process has handed over of one of them, it was told by the same probe.
        let known = self.checks.unknown(id).into_iter();
        let known = known.filter_map(|(port, endpoint)| self.ports.get(&port)?.checked(endpoint));
        if let Some(verdict) = known.into_iter().next() {
            self.checks.go_on(id, verdict);
        }
        let news = self.checks.finished(id, outcome, now);
        self.tell(news, now);
        self.note_evidence(id, outcome, now);
    }

    /// A probe is evidence for an endpoint that its traffic has failed at, too.
    fn note_evidence(&self, id: CheckId, outcome: &CheckOutcome, now: Tick) {
        let has_passed = match outcome {
            CheckOutcome::Passed => true,
            CheckOutcome::Failed(_) => false,
            CheckOutcome::NotMade(_) => return,
        };
        let Some(evidence) = self.checks.evidence(id) else {
            return;
        };
        let shown = has_passed.then_some(evidence.shows);
        for (port, endpoint) in evidence.users {
            if let Some(port) = self.ports.get(&port) {
                port.probed(endpoint, shown, evidence.rise, now);
            }
        }
    }

    /// Tells ports what is new.
    fn tell(&mut self, news: Vec<CheckNews>, now: Tick) {
        for it in news {
            let Some(port) = self.ports.get(&it.port) else {
                continue;
            };
            let route = port.route();
            self.log.say(&route.service, route.key, &it, now);
            drop(route);
            port.set_checked(it.endpoint, it.verdict, now);
            self.touched.insert(it.port);
        }
    }

    /// Looks what checks say of all endpoints of a port together. Not with each verdict: a port may have thousands of endpoints. Returns
    /// when to look again.
    fn look(&mut self, now: Tick) -> Option<Tick> {
        if self.touched.is_empty() {
            return None;
        }
        let pause = u64::try_from(LOOK.as_millis()).unwrap_or_default();
        let due = Tick(self.looked.0 + pause);
        if now < due {
            return Some(due);
        }
        self.looked = now;
        for number in std::mem::take(&mut self.touched) {
            let Some(port) = self.ports.get(&number) else {
                continue;
            };
            let reach = port_reach(port);
            if self.reach.insert(number, reach) == Some(reach) {
                continue;
            }
            let route = port.route();
            if reach == EndpointReach::Failing {
                self.log.ignored(&route.service, route.key, now);
            }
            self.changes.tell(&route.service);
        }
        None
    }
}

/// Makes one probe. Whatever happens, it ends.
async fn run(
    id: CheckId,
    probe: Arc<CheckProbe>,
    begun: io::Result<OwnedFd>,
    tls: AnyServer,
    permit: Permit,
) -> (CheckId, CheckOutcome) {
    let made = AssertUnwindSafe(probe::make(&probe, begun, &tls)).catch_unwind();
    let outcome = made.await.unwrap_or_else(|_| {
        tracing::error!(endpoint = %probe.addr, check = %probe.check.kind, "a check panicked, which is a bug");
        CheckOutcome::NotMade("the check has a bug".into())
    });
    drop(permit);
    (id, outcome)
}

/// Sleeps until `due`; for ever where that is none.
async fn sleep_until(due: Option<Tick>, now: Tick) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_millis(due.0.saturating_sub(now.0))).await,
        None => std::future::pending().await,
    }
}
