//! The gateway as the rest of the program sees it: started, looked at, waited for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::{Batch, ListenerState, Report};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::time::Timestamp;
use fairway_config::view::{EndpointRow, GatewayRow, ListenerRow, Section};
use fairway_gateway_core::reachability::FailedDials;
use fairway_gateway_core::route::Tick;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::beat::Beat;
use crate::clock::Clock;
use crate::control::Control;
use crate::engine::Mailbox;
use crate::port::Port;
use crate::published::{Published, Shown};
use crate::reports::ReportSink;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::worker::WorkerThreads;

/// A gateway that runs.
#[derive(Clone, Debug)]
pub struct Gateway {
    name: ClusterName,
    started: Timestamp,
    drain_timeout: Duration,
    shared: Arc<Shared>,
    published: Arc<Published>,
    /// Of each worker: what wakes it, and its runtime.
    loops: Arc<[(Arc<Mailbox>, Beat)]>,
    /// That of the control task.
    control: Beat,
    /// Cancelled when the last connection and every thread is gone.
    ended: CancellationToken,
    /// Cancelled when connections are not to have their time to drain.
    cut: CancellationToken,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be had.
    #[error("{what} could not be started: {source}")]
    Thread {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Gateway {
    /// Starts the workers and the control task. Objects come in by `objects`, reports go out to
    /// `reports` (those of Services for which there is something new to say), until `shutdown`.
    ///
    /// # Errors
    /// The system has no threads or file descriptors for it. Whatever is wrong with one listener
    /// is no error here but the state of that listener.
    pub fn start(
        settings: Settings,
        objects: mpsc::Receiver<Batch>,
        reports: ReportSink,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let shared = Arc::new(Shared::new(&settings, shutdown.child_token()));
        shared.icmp_sockets.say_what_is_lacking();
        let published = Arc::new(Published::default());
        let (ended, cut) = (CancellationToken::new(), CancellationToken::new());
        let count = settings.workers.max(1);
        let workers: io::Result<Vec<WorkerThreads>> = (0..count)
            .map(|number| WorkerThreads::start(number, shared.clone()))
            .collect();
        let workers = workers.map_err(|source| StartError::Thread {
            what: "a worker",
            source,
        })?;
        let wakers = workers.iter().map(|worker| {
            let mailbox = worker.mailbox().clone();
            Box::new(move || mailbox.wake()) as _
        });
        shared.descriptors.wake(wakers.collect());
        let loops = workers.iter();
        let loops = loops.map(|worker| (worker.mailbox().clone(), worker.beat().clone()));
        let beat = Beat::default();
        let gateway = Self {
            name: settings.name.clone(),
            started: now(),
            drain_timeout: settings.drain_timeout,
            shared: shared.clone(),
            published: published.clone(),
            loops: loops.collect(),
            control: beat.clone(),
            ended: ended.clone(),
            cut: cut.clone(),
        };
        let failed = |source| StartError::Thread {
            what: "the control task",
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("fairway-control".to_owned())
            .spawn(move || {
                // Also where the task panics: whoever waits must learn that it is over.
                let _ended = ended.drop_guard();
                runtime.spawn(beat.answer());
                runtime.block_on(async {
                    let control = Control::new(settings, shared, published, workers, cut).await;
                    control.run(objects, reports, shutdown).await;
                });
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(gateway)
    }

    /// Waits for the end: after `shutdown`, the last connection, or the time to drain.
    pub async fn finished(self) {
        self.ended.cancelled().await;
    }

    /// Ends connections that drain after `shutdown` at once. What the gateway has made on this host goes all
    /// the same: [`Self::finished`] says when.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// How often each loop of the gateway has turned; asked, each turns once more. One whose count is still
    /// the same after a while is stuck.
    pub fn turns(&self) -> Vec<(String, u64)> {
        let workers = self
            .loops
            .iter()
            .enumerate()
            .flat_map(|(n, (mailbox, beat))| {
                [
                    (format!("worker {n}"), mailbox.turns()),
                    (format!("the runtime of worker {n}"), beat.ask()),
                ]
            });
        let control = ("the gateway's control task".to_owned(), self.control.ask());
        workers.chain([control]).collect()
    }

    /// How long connections may go on after `shutdown`.
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    /// Every listener, in the order of Services.
    pub fn listeners(&self) -> Vec<ListenerRow> {
        let rows = self
            .published
            .all()
            .into_iter()
            .flat_map(|(service, shown)| {
                let row = move |listener| ListenerRow {
                    namespace: service.namespace.to_string(),
                    service: service.name.to_string(),
                    listener,
                };
                shown
                    .report
                    .listeners
                    .clone()
                    .into_iter()
                    .map(row)
                    .collect::<Vec<_>>()
            });
        rows.collect()
    }

    /// Every endpoint of every port, those that get no traffic included, in the order of Services.
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        self.published
            .all()
            .iter()
            .flat_map(|(service, shown)| endpoints(service, shown, &self.shared.clock))
            .collect()
    }

    /// What there is to say about the traffic of one Service: `Listeners` and `Endpoints`. Empty
    /// where the gateway does not serve it.
    pub fn explain(&self, service: &ServiceName) -> Vec<Section> {
        let Some(shown) = self.published.get(service) else {
            return Vec::new();
        };
        let listeners = shown.report.listeners.iter().map(|listener| {
            let (listen, protocol) = (listener.listen, listener.protocol);
            match &listener.state {
                ListenerState::Listening => format!("{listen} ({protocol}) takes traffic."),
                ListenerState::Refusing => {
                    format!("{listen} ({protocol}) refuses connections: there is no endpoint.")
                }
                ListenerState::Unreachable { message } => {
                    format!("{listen} ({protocol}) takes connections, but {message}.")
                }
                ListenerState::Failed { message, .. } => {
                    format!("{listen} ({protocol}) does not stand: {message}.")
                }
            }
        });
        let endpoints = endpoints(service, &shown, &self.shared.clock);
        let mut sentences: Vec<String> = endpoints
            .iter()
            .map(|row| {
                let (port, protocol) = (row.port, row.protocol);
                format!("{} (for port {port}/{protocol}) {}.", row.endpoint, row.why)
            })
            .collect();
        if sentences.is_empty() {
            sentences.push("There are none.".to_owned());
        }
        sentences.extend(
            shown
                .route
                .notices
                .iter()
                .map(|notice| notice.message.clone()),
        );
        vec![
            Section {
                title: "Listeners".to_owned(),
                sentences: listeners.collect(),
            },
            Section {
                title: "Endpoints".to_owned(),
                sentences,
            },
        ]
    }

    /// What there is to say of a Service; nothing where the gateway does not serve it.
    pub fn report(&self, service: &ServiceName) -> Option<Arc<Report>> {
        Some(self.published.get(service)?.report.clone())
    }

    /// The ports that are served, each with its Service, for metrics.
    pub fn ports(&self) -> Vec<(ServiceName, Arc<Port>)> {
        let all = self.published.all();
        let ports = all.iter().flat_map(|(service, shown)| {
            shown
                .ports
                .iter()
                .map(|(_, port)| (service.clone(), port.clone()))
        });
        ports.collect()
    }

    /// The `sequence` of the last batch that is programmed and reported.
    pub fn done(&self) -> u64 {
        self.published.done()
    }

    /// What keeps the gateway from being ready, a sentence each. A listener that can't stand does
    /// not: it is tried again and again, and shown.
    pub fn missing(&self) -> Vec<String> {
        if self.shared.stopping.is_cancelled() {
            vec!["The gateway is stopping.".to_owned()]
        } else if !self.published.is_synced() {
            vec!["Services and their listeners are still being set up.".to_owned()]
        } else {
            Vec::new()
        }
    }

    /// The row of `get gateways`.
    pub fn row(&self) -> GatewayRow {
        let missing = self.missing();
        let all = self.published.all();
        let listeners = || all.iter().flat_map(|(_, shown)| &shown.report.listeners);
        let is_failed = |state: &ListenerState| matches!(state, ListenerState::Failed { .. });
        let failed = listeners()
            .filter(|listener| is_failed(&listener.state))
            .count();
        let stands = |state: &ListenerState| {
            matches!(
                state,
                ListenerState::Listening | ListenerState::Unreachable { .. }
            )
        };
        let listening = listeners()
            .filter(|listener| stands(&listener.state))
            .count();
        let counters = || {
            all.iter()
                .flat_map(|(_, shown)| shown.ports.iter())
                .map(|(_, port)| &port.counters)
        };
        GatewayRow {
            name: self.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: missing.is_empty(),
            why: missing.join(" "),
            listening,
            failed,
            connections: counters().map(|counters| counters.active.get()).sum(),
            flows: counters().map(|counters| counters.flows.get()).sum(),
            started: self.started.to_string(),
            omitted: 0,
        }
    }

    /// Brings those metrics up to date that nobody counts as things happen.
    pub fn observe(&self) {
        self.shared.descriptors.observe();
        if let Some(refusals) = self.shared.refusals.get() {
            refusals.collect();
        }
    }

    /// How often accepting paused because the process or a port had no file descriptors left.
    pub fn accept_pauses(&self) -> u64 {
        self.shared.descriptors.pauses.get()
    }

    /// Bytes that passed from socket to socket without entering this process.
    pub fn spliced_bytes(&self) -> u64 {
        crate::engine::spliced()
    }

    /// Connections that were looked at because a port, an endpoint or an address had had its time, over the
    /// whole process. (Those of HTTP are told each by itself.)
    pub fn examined_connections(&self) -> u64 {
        crate::engine::examined()
    }

    /// Messages that were written together with others.
    pub fn exchanged_messages(&self) -> u64 {
        crate::engine::exchanged()
    }
}

fn endpoints(service: &ServiceName, shown: &Shown, clock: &Clock) -> Vec<EndpointRow> {
    let mut rows = Vec::new();
    let now = clock.now();
    for (key, port) in shown.ports.iter() {
        let route = port.route().clone();
        let states: BTreeMap<_, _> = port.endpoints().into_iter().collect();
        let row = |endpoint, node: &Option<ClusterName>, state: &str, why: String| EndpointRow {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            port: key.port,
            protocol: key.protocol,
            endpoint,
            state: state.to_owned(),
            why,
            node: node.as_ref().map(ToString::to_string),
            active: states.get(&endpoint).map_or(0, |state| state.active.get()),
        };
        rows.extend(route.endpoints.eligible.iter().map(|endpoint| {
            let failed = states
                .get(&endpoint.addr)
                .and_then(|state| state.failed_dials());
            let (state, why) = match failed {
                None => ("eligible", "gets traffic".to_owned()),
                Some(failed) => dialled(&failed, now, clock),
            };
            row(endpoint.addr, &endpoint.node, state, why)
        }));
        rows.extend(route.endpoints.excluded.iter().map(|excluded| {
            row(
                excluded.addr,
                &excluded.node,
                excluded.why.state(),
                excluded.why.to_string(),
            )
        }));
    }
    rows
}

/// The state of an eligible endpoint whose last dials failed, and the end of a sentence about it.
fn dialled(failed: &FailedDials, now: Tick, clock: &Clock) -> (&'static str, String) {
    let FailedDials {
        count, since, why, ..
    } = failed;
    let times = match count {
        1 => "once".to_owned(),
        _ => format!("{count} times"),
    };
    let (since, last) = (clock.timestamp(*since), clock.timestamp(failed.last));
    if failed.is_unreachable(now) {
        let why = format!("is unreachable since {since}: {why}, {times}; it still gets its share");
        ("unreachable", why)
    } else if failed.is_old(now) {
        let why = format!("gets traffic; when it was last dialled, at {last}, it failed: {why}");
        ("eligible", why)
    } else {
        let why = format!("gets traffic; its last dial failed at {last}: {why}, {times}");
        ("eligible", why)
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(
        since
            .ok()
            .and_then(|since| i64::try_from(since.as_secs()).ok())
            .unwrap_or_default(),
    )
}
