//! Taking over from a running process, and handing over to another one: the parts that are of the process as a whole.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_config::view::Readiness;
use fairway_controller::{DirectoryStore, KubernetesStore, StateOwner, state_owner};
use fairway_gateway::Gateway;
use fairway_gateway::admin::Views as _;
use fairway_gateway::take_over::predecessor::{self, HandsOver};
use fairway_gateway::take_over::successor::{HandingProcess, TakeOverError};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::launch::Anew;
use crate::outcome::WrongConfiguration;
use crate::pods::OwnPod;
use crate::probe::ProbeSocket;
use crate::signals::StopSignal;
use crate::systemd;
use crate::views::ProcessViews;

/// The names of descriptors that are handed over.
pub(crate) const ADMIN: &str = "admin";
pub(crate) const METRICS: &str = "metrics";

/// How a process takes over, and hands over.
#[derive(Clone, Debug)]
pub(crate) struct TakeOverPlan {
    /// The state directory, where both processes meet.
    pub(crate) state: PathBuf,
    /// Whether this process takes over from one that runs.
    pub(crate) takes_over: bool,
    /// What both have to agree about, by name.
    pub(crate) agreed: BTreeMap<String, String>,
    /// The Pod of this process. Where another one has taken over from it, this one stands by.
    pub(crate) pod: Option<Arc<OwnPod>>,
    /// Whether this process is handing over just now.
    pub(crate) is_handing: Arc<AtomicBool>,
}

/// What a process that is to take over finds.
pub(crate) enum FoundProcess {
    /// A process that hands over.
    Process(Box<HandingProcess>),
    /// Nobody: this one starts as usual.
    Nobody,
    /// It was told to stop while it stood by.
    Stop,
}

/// How often a process that stands by asks.
const ASKS: Duration = Duration::from_secs(1);

/// How long nobody may serve until a process that stands by does. A container that has crashed for the first time is
/// started again within a second or two, and what is newer goes before what stands by.
const AWAY: Duration = Duration::from_secs(10);

impl TakeOverPlan {
    /// Who has the state directory, where that process may stand in the way of this one: the end of a sentence.
    pub(crate) fn other(&self) -> Option<String> {
        let StateOwner { pid, command } = state_owner(&self.state)?;
        Some(format!(
            "; process {pid} ({command}) serves from the same state directory {}: stop it first, or take over from it without \
             a gap by --take-over",
            self.state.display()
        ))
    }

    /// Asks the process that runs to hand over, where that is wanted and there is one. Stands by while that one does not.
    pub(crate) async fn ask(
        &self,
        signals: &mut StopSignal,
        probe: Option<&ProbeSocket>,
    ) -> anyhow::Result<FoundProcess> {
        if !self.takes_over {
            return Ok(FoundProcess::Nobody);
        }
        let says = |readiness: Readiness| {
            if let Some(probe) = probe {
                probe.set(move || readiness.clone());
            }
        };
        let (mut heard, mut is_alone) = (Instant::now(), false);
        let mut stands_by = match Anew::told() {
            // The other one may not have written down that it serves.
            Some(Anew::StandsBy) => true,
            told => {
                is_alone = told == Some(Anew::IsAlone);
                self.pod.as_ref().is_some_and(|pod| pod.is_followed())
            }
        };
        let mut said = String::new();
        loop {
            let pod = self.pod.as_ref().map(|pod| pod.uid().to_owned());
            match HandingProcess::ask(&self.state, self.agreed.clone(), pod) {
                Ok(Some(process)) => return Ok(FoundProcess::Process(Box::new(process))),
                Ok(None) if !stands_by || is_alone || heard.elapsed() >= AWAY => break,
                Ok(None) => says(lacks(NOBODY)),
                Err(TakeOverError::StandBy { why, readiness }) => {
                    (heard, stands_by, is_alone) = (Instant::now(), true, false);
                    says(of_other(readiness));
                    if said != why {
                        tracing::info!(why, "it stands by");
                        said = why;
                    }
                }
                Err(error @ TakeOverError::Refused(_)) => {
                    return Err(WrongConfiguration(error.to_string()).into());
                }
                Err(error) if stands_by => {
                    // Whoever has the socket is there.
                    heard = Instant::now();
                    says(lacks(SILENT));
                    tracing::warn!(%error, "the process that serves does not answer");
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = signals.recv() => return Ok(FoundProcess::Stop),
                () = tokio::time::sleep(ASKS) => {}
            }
        }
        tracing::info!(
            state = %self.state.display(),
            stands_by,
            "there is no process to take over from: starting as usual"
        );
        says(lacks("The process starts."));
        Ok(FoundProcess::Nobody)
    }
}

/// What a process lacks that does not serve itself.
const NOBODY: &str = "It stands by, and no newer process serves.";
const SILENT: &str = "It stands by, and the newer process does not answer.";

fn lacks(what: &str) -> Readiness {
    Readiness {
        ready: false,
        missing: vec![what.to_owned()],
    }
}

/// How a process is that stands by: as the one that serves.
fn of_other(mut serves: Readiness) -> Readiness {
    for missing in &mut serves.missing {
        missing.insert_str(0, "The newer process: ");
    }
    serves
}

/// What a process that has handed over knows of its successor. It is as ready as that one.
#[derive(Debug)]
pub(crate) struct SucceededBy(Mutex<Readiness>);

impl Default for SucceededBy {
    fn default() -> Self {
        // It has just said that it has everything.
        Self(Mutex::new(Readiness {
            ready: true,
            missing: Vec::new(),
        }))
    }
}

impl SucceededBy {
    /// How that one was when it was asked last.
    pub(crate) fn readiness(&self) -> Readiness {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }

    fn note(&self, readiness: Readiness) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = readiness;
    }

    /// Asks that one how it is, again and again, while this process carries what is left to its end. Returns when this
    /// one is to come back: that one is to stop, or has been gone for long.
    pub(crate) async fn watch(&self, plan: &TakeOverPlan) -> Anew {
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(ASKS).await;
            let pod = plan.pod.as_ref().map(|pod| pod.uid().to_owned());
            let state = plan.state.clone();
            let looked = tokio::task::spawn_blocking(move || HandingProcess::look(&state, pod));
            match looked.await {
                Ok(Ok(Some(serves))) => {
                    heard = Instant::now();
                    self.note(of_other(serves.readiness));
                    if serves.gives_way {
                        return Anew::StandsBy;
                    }
                }
                Ok(Ok(None)) => {
                    self.note(lacks(NOBODY));
                    if heard.elapsed() >= AWAY {
                        return Anew::IsAlone;
                    }
                }
                // Whoever has the socket is there.
                Ok(Err(_)) | Err(_) => {
                    heard = Instant::now();
                    self.note(lacks(SILENT));
                }
            }
        }
    }
}

/// How long it may take until the kernel has ended a process that was killed, and how often it is looked.
const ENDING: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(5);

/// Tries for a moment what a process that is just ending may stand in the way of: what it had is closed one after the
/// other. `is_late`: whether this process was to take over, and there was nobody to hand over.
pub(crate) fn after_another<T, E>(
    is_late: bool,
    is_in_the_way: impl Fn(&E) -> bool,
    attempt: impl Fn() -> Result<T, E>,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_late && is_in_the_way(&error) && began.elapsed() < ENDING => {
                std::thread::sleep(LOOK);
            }
            other => return other,
        }
    }
}

/// A listener of the process that hands over, where it listens at this address.
pub(crate) fn inherited(
    handing: Option<&mut HandingProcess>,
    name: &str,
    address: SocketAddr,
) -> Option<TcpListener> {
    let listener = TcpListener::from(handing?.descriptor(name)?);
    let is_same = listener.local_addr().is_ok_and(|at| {
        at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port())
    });
    is_same.then_some(listener)
}

/// Serves once another process has handed over, unless this one stops before.
pub(crate) async fn once(
    taken: CancellationToken,
    stop: CancellationToken,
    serving: impl Future<Output = ()>,
) {
    if stop.run_until_cancelled(taken.cancelled()).await.is_some() {
        serving.await;
    }
}

/// A store whose state directory passes from one process to another.
pub(crate) trait HandedState: Send + Sync {
    /// Writes what is left, and nothing from then on. Returns whether that could be done.
    fn hold(&self) -> bool;
    /// The other process has ended: goes on.
    fn go_on(&self);
    /// The other process has the directory for good.
    fn give_up(&self);
    /// The lock for the other process.
    fn share_lock(&self) -> io::Result<OwnedFd>;
    /// The directory is this process's: with the lock of the other one, or (none) where that has ended.
    fn own(&self, lock: Option<OwnedFd>) -> Result<(), String>;
}

impl HandedState for DirectoryStore {
    fn hold(&self) -> bool {
        self.hold()
    }

    fn go_on(&self) {
        self.go_on();
    }

    fn give_up(&self) {
        self.give_up();
    }

    fn share_lock(&self) -> io::Result<OwnedFd> {
        self.share_lock()
    }

    fn own(&self, lock: Option<OwnedFd>) -> Result<(), String> {
        self.own(lock).map_err(|error| error.to_string())
    }
}

impl HandedState for KubernetesStore {
    fn hold(&self) -> bool {
        self.hold()
    }

    fn go_on(&self) {
        self.go_on();
    }

    fn give_up(&self) {
        self.give_up();
    }

    fn share_lock(&self) -> io::Result<OwnedFd> {
        self.share_lock()
    }

    fn own(&self, lock: Option<OwnedFd>) -> Result<(), String> {
        self.own(lock).map_err(|error| error.to_string())
    }
}

/// How long a process that is told to stop waits for the end of a hand-over that has begun, and how long for one that
/// stands by to begin.
const FINISHES: Duration = Duration::from_secs(30);
const BEGINS: Duration = Duration::from_secs(5);

/// This process is told to stop: where another one is taking over, or stands by, that one has it all first. Returns
/// whether it has.
pub(crate) async fn let_another_first(
    plan: &TakeOverPlan,
    over: &CancellationToken,
    signals: &mut StopSignal,
) -> bool {
    let began = Instant::now();
    let is_waited_for = plan.pod.as_ref().is_some_and(|it| it.give_way(began));
    while !over.is_cancelled() {
        let is_handing = plan.is_handing.load(Ordering::Acquire);
        let is_due = is_waited_for && began.elapsed() < BEGINS;
        if !(is_due || is_handing && began.elapsed() < FINISHES) {
            return false;
        }
        tokio::select! {
            () = over.cancelled() => {}
            () = signals.recv() => return over.is_cancelled(),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    true
}

/// A process that may hand over.
pub(crate) struct HandingOver {
    pub(crate) plan: TakeOverPlan,
    pub(crate) gateway: Gateway,
    pub(crate) state: Arc<dyn HandedState>,
    /// The listeners of `--admin` and `--metrics`.
    pub(crate) listeners: Vec<(&'static str, TcpListener)>,
    /// Cancelled when this process shows nothing any more.
    pub(crate) admin: CancellationToken,
    /// Cancelled when another process has everything.
    pub(crate) over: CancellationToken,
    /// How this process is.
    pub(crate) views: Arc<ProcessViews>,
}

impl HandingOver {
    /// Waits for a successor from now on.
    fn wait(self) -> io::Result<()> {
        let (state, gateway) = (self.plan.state.clone(), self.gateway.clone());
        predecessor::wait(&state, gateway, Arc::new(self))
    }

    /// The same. That another process can't take over is no reason to end.
    pub(crate) fn begin(self, has_taken_over: bool) {
        if let Some(pod) = &self.plan.pod {
            pod.begin(has_taken_over);
        }
        if let Err(error) = self.wait() {
            tracing::warn!(%error, "no other process can take over from this one");
        }
    }

    /// Takes over from another process, on a thread of its own, and waits for a successor then. What is returned says how
    /// that went; `taken` is cancelled when all is this process's own.
    pub(crate) fn take_over(
        self,
        handing: HandingProcess,
        taken: CancellationToken,
    ) -> io::Result<oneshot::Receiver<anyhow::Result<()>>> {
        let (sender, outcome) = oneshot::channel();
        std::thread::Builder::new()
            .name("fairway-takeover".to_owned())
            .spawn(move || {
                let went = handing.take_over(&self.gateway, |lock| {
                    self.state.own(lock)?;
                    // From here on a stop is this process's own.
                    taken.cancel();
                    Ok(())
                });
                if went.is_ok() {
                    taken.cancel();
                    self.begin(true);
                } else {
                    self.state.give_up();
                }
                // Nobody waits where the process has been told to stop.
                let _ = sender.send(went.map_err(anyhow::Error::from));
            })?;
        Ok(outcome)
    }
}

impl HandsOver for HandingOver {
    fn agreed(&self) -> BTreeMap<String, String> {
        self.plan.agreed.clone()
    }

    fn is_turn_of(&self, pod: Option<&str>) -> bool {
        let own = self.plan.pod.as_ref();
        own.is_none_or(|own| own.is_turn_of(pod, Instant::now()))
    }

    fn gives_way_to(&self, pod: Option<&str>) -> bool {
        let own = self.plan.pod.as_ref();
        own.is_some_and(|own| own.gives_way_to(pod, Instant::now()))
    }

    fn readiness(&self) -> Readiness {
        self.views.readiness()
    }

    fn hold(&self) -> bool {
        // Before: who tells this process to stop meanwhile is to wait.
        self.plan.is_handing.store(true, Ordering::Release);
        let is_held = self.state.hold();
        self.plan.is_handing.store(is_held, Ordering::Release);
        is_held
    }

    fn go_on(&self) {
        self.state.go_on();
        self.plan.is_handing.store(false, Ordering::Release);
    }

    fn descriptors(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let listeners = self.listeners.iter();
        let named = listeners.map(|(name, listener)| {
            let listener = listener.as_fd().try_clone_to_owned()?;
            Ok(((*name).to_owned(), listener))
        });
        named.collect()
    }

    fn lock(&self) -> io::Result<OwnedFd> {
        self.state.share_lock()
    }

    fn succeeded_by(&self, pid: u32) {
        systemd::succeeded_by(pid);
    }

    fn end(&self) {
        self.state.give_up();
        self.admin.cancel();
        self.over.cancel();
        self.plan.is_handing.store(false, Ordering::Release);
    }
}
