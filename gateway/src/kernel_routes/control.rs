//! The control task's end: it starts the thread with the first pool that wants routes, and has them removed before
//! the process stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::shown::KernelRoutesShown;
use super::thread::{KernelRoutesThread, RoutesStage};
use crate::announcing::Announceable;
use crate::stalls::WorkerLoops;

/// How long a stop waits until the routes are gone, and the routing daemon has told others.
const WITHDRAWN: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(crate) struct KernelRoutesControl {
    announceable: watch::Receiver<Arc<Announceable>>,
    loops: WorkerLoops,
    shown: Arc<KernelRoutesShown>,
    stage: watch::Sender<RoutesStage>,
    is_started: bool,
}

impl KernelRoutesControl {
    pub(crate) fn new(
        announceable: watch::Receiver<Arc<Announceable>>,
        loops: WorkerLoops,
        shown: Arc<KernelRoutesShown>,
    ) -> Self {
        Self {
            announceable,
            loops,
            shown,
            stage: watch::Sender::default(),
            is_started: false,
        }
    }

    /// Starts the thread where a pool wants routes.
    pub(crate) fn settle(&mut self) {
        let announceable = self.announceable.clone();
        let is_wanted = !self.is_started && announceable.borrow().wants_kernel_routes();
        if !is_wanted {
            return;
        }
        let stage = self.stage.subscribe();
        let loops = self.loops.clone();
        match KernelRoutesThread::start(announceable, stage, loops, self.shown.clone()) {
            Ok(()) => self.is_started = true,
            // The next change of a pool tries again.
            Err(error) => tracing::error!(%error, "no thread for routes: none are made"),
        }
    }

    /// Has all routes removed. Returns when the routing daemon has had time to tell others.
    pub(crate) async fn withdraw(&self) {
        self.stage
            .send_modify(|stage| *stage = RoutesStage::Withdrawing);
        if self.is_started {
            let mut withdrawn = self.shown.withdrawn().subscribe();
            let gone = withdrawn.wait_for(|it| *it);
            if tokio::time::timeout(WITHDRAWN, gone).await.is_err() {
                tracing::warn!("the kernel's routes could not be removed in time");
            }
        }
    }
}
