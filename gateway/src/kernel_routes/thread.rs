//! The thread that makes and removes routes. What it does may wait for others in the kernel, so the keeper is told by
//! another thread that the process goes on. `handover`: the routes go over to another process.

mod handover;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::fence::{Fence, FenceState, KeeperState};
use super::keeper;
use super::shown::{KernelRoutesShown, ShownRoutes};
use super::table::{KernelTable, TableError};
use super::{DEVICE, RoutesCommand};
use crate::announcing::{Announceable, NotAnnounced};
use crate::heartbeat::Heartbeat;
use crate::stalls::WorkerLoops;

/// When what has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often the routes are read: another program may remove them.
const RESYNC: Duration = Duration::from_secs(30);

/// How long the routing daemon has to tell others that the routes are gone.
const TOLD: Duration = Duration::from_millis(500);

/// How long a keeper may take until its first answer.
const START: Duration = Duration::from_secs(5);

/// How long a keeper that hears nothing any more, or was killed, may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far the end of the process has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RoutesStage {
    /// It goes on.
    #[default]
    Announcing,
    /// No route is to be there.
    Withdrawing,
}

/// See the module.
pub(super) struct KernelRoutesThread {
    announceable: watch::Receiver<Arc<Announceable>>,
    stage: watch::Receiver<RoutesStage>,
    shown: Arc<KernelRoutesShown>,
    beat: Heartbeat,
    fence: Fence,
    state: watch::Receiver<FenceState>,
    /// Opened anew after each error.
    table: Option<KernelTable>,
    keeper: Option<RunningKeeper>,
    /// The addresses of pools that ask for routes.
    asked: BTreeMap<IpAddr, Result<(), NotAnnounced>>,
    there: BTreeSet<IpAddr>,
    /// Why not all is as it should be.
    problem: Option<String>,
    logged: Option<String>,
    held: RoutesHeld,
    commands: mpsc::Receiver<RoutesCommand>,
}

/// What the thread is given.
pub(super) struct RoutesInputs {
    pub(super) announceable: watch::Receiver<Arc<Announceable>>,
    pub(super) stage: watch::Receiver<RoutesStage>,
    pub(super) commands: mpsc::Receiver<RoutesCommand>,
    /// The loops that carry traffic.
    pub(super) loops: WorkerLoops,
    pub(super) shown: Arc<KernelRoutesShown>,
}

/// Who has the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoutesHeld {
    /// This process.
    Here,
    /// Another one may have them.
    Frozen,
    /// Another one.
    Elsewhere,
}

/// The keeper's process, and the interface that it has open.
struct RunningKeeper {
    process: Child,
    /// None: it is to be set up.
    device: Option<u32>,
}

impl KernelRoutesThread {
    /// Starts the thread, which goes on with the routes of another process by the socket of its keeper. It ends when the control task is gone.
    ///
    /// # Errors
    /// There are no threads or file descriptors left.
    pub(super) fn start(inputs: RoutesInputs, former: Option<UnixStream>) -> io::Result<()> {
        let RoutesInputs {
            announceable,
            stage,
            commands,
            loops,
            shown,
        } = inputs;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let fence = Fence::start(loops)?;
        let (beat, of_control) = (Heartbeat::default(), shown.clone());
        let thread = Self {
            announceable,
            stage,
            shown,
            beat: beat.clone(),
            state: fence.state(),
            fence,
            table: None,
            keeper: None,
            asked: BTreeMap::new(),
            there: BTreeSet::new(),
            problem: None,
            logged: None,
            held: RoutesHeld::Here,
            commands,
        };
        std::thread::Builder::new()
            .name("fairway-routes".to_owned())
            .spawn(move || runtime.block_on(thread.run(former)))?;
        // Nobody else sets it.
        let _ = of_control.beat.set(beat);
        Ok(())
    }

    async fn run(mut self, former: Option<UnixStream>) {
        if let Some(former) = former {
            self.go_on(former).await;
        }
        let mut looks_at = tokio::time::Instant::now() + RESYNC;
        loop {
            let stage = *self.stage.borrow_and_update();
            let had_any = !self.there.is_empty();
            if self.is_quiet() {
                if stage == RoutesStage::Withdrawing {
                    // Whoever has the routes besides goes on with them.
                    self.let_go();
                }
            } else {
                self.heed_fence().await;
                self.settle(stage).await;
            }
            self.publish();
            if stage == RoutesStage::Withdrawing && self.there.is_empty() {
                if had_any {
                    tokio::time::sleep(TOLD).await;
                }
                self.end_keeper().await;
                self.shown.withdrawn().send_replace(true);
            }
            let pause = match self.problem {
                Some(_) => RETRY,
                None => RESYNC,
            };
            let wakes_at = tokio::time::Instant::now() + pause;
            loop {
                tokio::select! {
                    () = self.beat.answer_once() => continue,
                    Ok(()) = self.announceable.changed() => {}
                    Ok(()) = self.state.changed() => {}
                    Some(command) = self.commands.recv() => self.obey(command),
                    changed = self.stage.changed() => if changed.is_err() {
                        if !self.is_quiet() {
                            self.end_keeper().await;
                        }
                        return;
                    },
                    () = tokio::time::sleep_until(wakes_at) => {}
                }
                break;
            }
            if looks_at <= tokio::time::Instant::now() && !self.is_quiet() {
                looks_at = tokio::time::Instant::now() + RESYNC;
                self.look().await;
            }
        }
    }

    /// Ends a keeper that must not go on, or can't.
    async fn heed_fence(&mut self) {
        if self.keeper.is_none() {
            return;
        }
        let state = self.state.borrow_and_update().clone();
        if let KeeperState::Lost(why) = state.keeper {
            tracing::error!(%why, "the process that removes the kernel's routes is lost, and replaced");
            self.problem = Some(format!(
                "the process that is to remove the routes is replaced: {why}"
            ));
            self.replace_keeper().await;
        } else if state.inability.is_some() {
            self.end_keeper().await;
        }
    }

    /// Removes the routes in place of a keeper that is lost, and ends its process.
    async fn replace_keeper(&mut self) {
        // One by one, for not every routing daemon notices it where their interface alone goes.
        if let Some(table) = &self.table {
            for address in std::mem::take(&mut self.there) {
                if table.remove(address).await.is_err() {
                    self.table = None;
                    break;
                }
            }
        }
        self.there.clear();
        self.publish();
        if let Some(keeper) = &mut self.keeper {
            let _ = keeper.process.kill();
        }
        self.end_keeper().await;
    }

    /// Ends the keeper's process, and the routes with it.
    async fn end_keeper(&mut self) {
        self.fence.set_keeper(None);
        self.there.clear();
        if let Some(keeper) = self.keeper.take() {
            end(keeper.process).await;
        }
    }

    async fn settle(&mut self, stage: RoutesStage) {
        let announceable = self.announceable.borrow_and_update().clone();
        let is_used = stage == RoutesStage::Announcing && announceable.wants_kernel_routes();
        self.asked = match is_used {
            true => announceable.kernel_routes().collect(),
            false => BTreeMap::new(),
        };
        let wanted = self.asked.iter().filter(|(_, it)| it.is_ok());
        let wanted: BTreeSet<IpAddr> = wanted.map(|(address, _)| *address).collect();
        self.problem = None;
        if !is_used && self.there.is_empty() && self.keeper.is_none() {
            return;
        }
        let inability = self.state.borrow().inability.clone();
        if inability.is_some() {
            self.problem = inability;
        } else if let Err(problem) = self.program(&wanted).await {
            self.table = None;
            self.problem = Some(problem);
        }
        if self.logged != self.problem {
            match &self.problem {
                Some(why) => tracing::error!(%why, "addresses are not put into the kernel's table"),
                None => tracing::info!("addresses are put into the kernel's table"),
            }
            self.logged.clone_from(&self.problem);
        }
    }

    /// Makes the routes that are missing, and removes those that are not wanted.
    async fn program(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), String> {
        if self.keeper.is_none() && !wanted.is_empty() {
            self.start_keeper().await?;
        }
        if self.keeper.is_none() {
            return Ok(());
        }
        self.remove(wanted).await?;
        self.add(wanted).await
    }

    async fn remove(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), String> {
        for address in &self.there - wanted {
            if let Err(error) = self.table()?.remove(address).await {
                // It must not stay, so it goes with all others.
                self.end_keeper().await;
                return Err(format!(
                    "the route to {address} could not be removed by itself, so all were: {error}"
                ));
            }
            self.there.remove(&address);
        }
        Ok(())
    }

    async fn add(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), String> {
        let missing = wanted - &self.there;
        if missing.is_empty() {
            return Ok(());
        }
        let device = self.device().await?;
        let mut result = Ok(());
        for address in missing {
            match self.table()?.add(address, device).await {
                Ok(()) => _ = self.there.insert(address),
                Err(error) => {
                    result = Err(format!("there is no route to {address}: {error}"));
                    // Somebody may have set the interface down.
                    self.set_device(None);
                    if matches!(error, TableError::Unanswered(_)) {
                        break;
                    }
                }
            }
        }
        result
    }

    /// The interface's index. Sets it up where it is not.
    async fn device(&mut self) -> Result<u32, String> {
        if let Some(device) = self.keeper.as_ref().and_then(|it| it.device) {
            return Ok(device);
        }
        let device = self.table()?.set_up().await;
        let device =
            device.map_err(|error| format!("the interface {DEVICE} is not up: {error}"))?;
        self.set_device(Some(device));
        Ok(device)
    }

    fn set_device(&mut self, device: Option<u32>) {
        if let Some(keeper) = &mut self.keeper {
            keeper.device = device;
        }
    }

    fn table(&mut self) -> Result<&KernelTable, String> {
        let table = match self.table.take() {
            Some(table) => table,
            None => KernelTable::open().map_err(|error| format!("there is no netlink: {error}"))?,
        };
        Ok(self.table.insert(table))
    }

    /// Starts a keeper. There are no routes before it answers.
    async fn start_keeper(&mut self) -> Result<(), String> {
        let (process, socket) = keeper::start()?;
        self.fence.set_keeper(Some(socket));
        if let Err(problem) = self.first_answer().await {
            self.fence.set_keeper(None);
            end(process).await;
            return Err(problem);
        }
        self.keeper = Some(RunningKeeper {
            process,
            device: None,
        });
        Ok(())
    }

    async fn first_answer(&mut self) -> Result<(), String> {
        let is_settled =
            |it: &FenceState| it.inability.is_some() || it.keeper != KeeperState::Starting;
        let state = tokio::time::timeout(START, self.state.wait_for(is_settled)).await;
        let state = match state {
            Ok(Ok(state)) => state.clone(),
            _ => FenceState::default(),
        };
        match (state.inability, state.keeper) {
            (Some(inability), _) => Err(inability),
            (None, KeeperState::Answering) => Ok(()),
            (None, KeeperState::Lost(why)) => Err(format!(
                "the process that is to remove the routes does not run: {why}"
            )),
            (None, KeeperState::Absent | KeeperState::Starting) => {
                Err("the process that is to remove the routes has not answered".to_owned())
            }
        }
    }

    /// Reads which routes are still there.
    async fn look(&mut self) {
        if let Some(table) = &self.table {
            match table.list().await {
                Ok(there) => self.there = there,
                Err(_) => self.table = None,
            }
        }
    }

    fn publish(&self) {
        self.shown.set(ShownRoutes {
            asked: self.asked.clone(),
            there: self.there.clone(),
            why: self.problem.clone().unwrap_or_default(),
        });
    }
}

/// Waits for the end of a keeper. One that does not end by itself is killed.
async fn end(mut process: Child) {
    if !ends(&mut process).await {
        let _ = process.kill();
        if !ends(&mut process).await {
            let id = process.id();
            tracing::error!(
                id,
                "the process that removes the kernel's routes does not end"
            );
        }
    }
}

async fn ends(process: &mut Child) -> bool {
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Ok(None) = process.try_wait() {
        if tokio::time::Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}
