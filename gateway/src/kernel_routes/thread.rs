//! The thread that makes and removes routes. What it does may wait for others in the kernel, so the keeper is told by
//! another thread that the process goes on.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::fence::{Fence, FenceState};
use super::keeper;
use super::shown::{KernelRoutesShown, ShownRoutes};
use super::table::KernelTable;
use crate::announcing::Announceable;
use crate::heartbeat::Heartbeat;
use crate::stalls::WorkerLoops;

/// When what has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often the routes are read: another program may remove them.
const RESYNC: Duration = Duration::from_secs(30);

/// How long the routing daemon has to tell others that the routes are gone.
const TOLD: Duration = Duration::from_millis(500);

/// How long a keeper that hears nothing any more may take to end.
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
    fence: Fence,
    state: watch::Receiver<FenceState>,
    table: Option<KernelTable>,
    keeper: Option<RunningKeeper>,
    /// The count of lost keepers that has been taken in.
    lost: u64,
    there: BTreeSet<IpAddr>,
    /// Why not all is as it should be.
    problem: Option<String>,
    logged: Option<String>,
}

/// The keeper's process, and the interface that it has open.
struct RunningKeeper {
    process: Child,
    device: u32,
}

impl KernelRoutesThread {
    /// Starts the thread. It ends when the control task is gone.
    ///
    /// # Errors
    /// There are no threads or file descriptors left.
    pub(super) fn start(
        announceable: watch::Receiver<Arc<Announceable>>,
        stage: watch::Receiver<RoutesStage>,
        loops: WorkerLoops,
        shown: Arc<KernelRoutesShown>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let fence = Fence::start(loops)?;
        let (beat, of_control) = (Heartbeat::default(), shown.clone());
        let of_thread = beat.clone();
        let thread = Self {
            announceable,
            stage,
            shown,
            state: fence.state(),
            fence,
            table: None,
            keeper: None,
            lost: 0,
            there: BTreeSet::new(),
            problem: None,
            logged: None,
        };
        std::thread::Builder::new()
            .name("fairway-routes".to_owned())
            .spawn(move || {
                runtime.spawn(of_thread.answer());
                runtime.block_on(thread.run());
            })?;
        // Nobody else sets it.
        let _ = of_control.beat.set(beat);
        Ok(())
    }

    async fn run(mut self) {
        let mut looks_at = tokio::time::Instant::now() + RESYNC;
        loop {
            let stage = *self.stage.borrow_and_update();
            let (is_used, wanted) = self.wanted(stage);
            let had_any = !self.there.is_empty();
            self.settle(is_used, &wanted).await;
            self.publish(wanted);
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
            tokio::select! {
                Ok(()) = self.announceable.changed() => {}
                Ok(()) = self.state.changed() => self.heed_fence().await,
                changed = self.stage.changed() => if changed.is_err() {
                    return self.end_keeper().await;
                },
                () = tokio::time::sleep(pause) => {}
            }
            if looks_at <= tokio::time::Instant::now() {
                looks_at = tokio::time::Instant::now() + RESYNC;
                self.look().await;
            }
        }
    }

    /// Whether any pool wants routes, and to which addresses there are to be some now.
    fn wanted(&mut self, stage: RoutesStage) -> (bool, BTreeSet<IpAddr>) {
        let announceable = self.announceable.borrow_and_update().clone();
        let is_used = stage == RoutesStage::Announcing && announceable.wants_kernel_routes();
        let wanted = match is_used {
            true => announceable.kernel_routes().collect(),
            false => BTreeSet::new(),
        };
        (is_used, wanted)
    }

    /// Takes in what the fence says.
    async fn heed_fence(&mut self) {
        let state = self.state.borrow_and_update().clone();
        let is_lost = std::mem::replace(&mut self.lost, state.lost) != state.lost;
        if is_lost || state.inability.is_some() {
            self.end_keeper().await;
        }
    }

    /// Ends the keeper's process, and the routes with it.
    async fn end_keeper(&mut self) {
        self.fence.set_keeper(None);
        self.there.clear();
        if let Some(keeper) = self.keeper.take() {
            end(keeper.process).await;
        }
    }

    async fn settle(&mut self, is_used: bool, wanted: &BTreeSet<IpAddr>) {
        self.problem = None;
        let inability = self.state.borrow().inability.clone();
        if !is_used && self.there.is_empty() && self.keeper.is_none() {
            return;
        }
        if inability.is_some() {
            self.problem = inability;
        } else if let Err(problem) = self.program(wanted).await {
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
        if self.table.is_none() {
            let table =
                KernelTable::open().map_err(|error| format!("there is no netlink: {error}"))?;
            self.table = Some(table);
        }
        if self.keeper.is_none() && !wanted.is_empty() {
            self.start_keeper().await?;
        }
        let (Some(table), Some(keeper)) = (&self.table, &self.keeper) else {
            return Ok(());
        };
        let mut result = Ok(());
        for address in &self.there - wanted {
            match table.remove(address).await {
                Ok(()) => _ = self.there.remove(&address),
                Err(error) => result = Err(format!("the route to {address} stays: {error}")),
            }
        }
        for address in wanted - &self.there {
            match table.add(address, keeper.device).await {
                Ok(()) => _ = self.there.insert(address),
                Err(error) => result = Err(format!("there is no route to {address}: {error}")),
            }
        }
        result
    }

    async fn start_keeper(&mut self) -> Result<(), String> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        let (process, pipe) = keeper::start()?;
        self.fence.set_keeper(Some(pipe));
        match table.set_up().await {
            Ok(device) => {
                self.keeper = Some(RunningKeeper { process, device });
                Ok(())
            }
            Err(error) => {
                self.fence.set_keeper(None);
                end(process).await;
                Err(format!("the interface of the routes is not up: {error}"))
            }
        }
    }

    /// Reads which routes are still there.
    async fn look(&mut self) {
        if let Some(table) = &self.table
            && let Ok(there) = table.list().await
        {
            self.there = there;
        }
    }

    fn publish(&self, wanted: BTreeSet<IpAddr>) {
        self.shown.set(ShownRoutes {
            wanted,
            there: self.there.clone(),
            why: self.problem.clone().unwrap_or_default(),
        });
    }
}

/// Waits for the end of a keeper that hears nothing any more. One that is stopped is killed.
async fn end(mut process: Child) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Ok(None) = process.try_wait() {
        if tokio::time::Instant::now() >= until {
            let _ = process.kill();
            let _ = process.wait();
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
