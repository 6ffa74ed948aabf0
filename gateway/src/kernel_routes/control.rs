//! The control task's end: it starts the thread with the first pool that wants routes, and has them removed before
//! the process stops.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::RoutesCommand;
use super::shown::KernelRoutesShown;
use super::thread::{KernelRoutesThread, RoutesInputs, RoutesStage};
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
    /// The socket of another process's keeper, for the thread to go on with.
    former: Option<UnixStream>,
    /// To the thread, once it runs.
    commands: Option<mpsc::Sender<RoutesCommand>>,
}

/// How many commands may wait: the thread is told three in a take-over.
const COMMANDS: usize = 8;

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
            former: None,
            commands: None,
        }
    }

    /// Starts the thread where a pool wants routes.
    pub(crate) fn settle(&mut self) {
        let announceable = self.announceable.clone();
        let is_wanted = announceable.borrow().wants_kernel_routes();
        if !is_wanted || self.commands.is_some() {
            return;
        }
        let (commands, of_thread) = mpsc::channel(COMMANDS);
        let inputs = RoutesInputs {
            announceable,
            stage: self.stage.subscribe(),
            commands: of_thread,
            loops: self.loops.clone(),
            shown: self.shown.clone(),
        };
        match KernelRoutesThread::start(inputs, self.former.take()) {
            Ok(()) => self.commands = Some(commands),
            // The next change of a pool tries again.
            Err(error) => tracing::error!(%error, "no thread for routes: none are made"),
        }
    }

    /// Goes on with the routes of another process, whose keeper is heard by this socket. To be followed by
    /// [`Self::settle`]. Where no pool wants routes any more, that keeper hears nobody, and removes them.
    pub(crate) fn begin(&mut self, former: Option<UnixStream>) {
        self.former = former;
        self.settle();
        self.former = None;
    }

    /// Changes nothing until [`Self::thaw`] or [`Self::leave`], and gives what another process needs to go on.
    pub(crate) fn freeze(&self, reply: Sender<Option<UnixStream>>) {
        match &self.commands {
            Some(_) => self.command(RoutesCommand::Freeze(reply)),
            // Whoever has asked may be gone.
            None => _ = reply.send(None),
        }
    }

    /// Goes on with the routes.
    pub(crate) fn thaw(&self) {
        self.command(RoutesCommand::Thaw);
    }

    /// Another process has the routes.
    pub(crate) fn leave(&self) {
        self.command(RoutesCommand::Leave);
    }

    fn command(&self, command: RoutesCommand) {
        if let Some(commands) = &self.commands
            && let Err(error) = commands.try_send(command)
        {
            tracing::error!(%error, "the thread of the kernel's routes does not listen");
        }
    }

    /// Has all routes removed. Returns when the routing daemon has had time to tell others.
    pub(crate) async fn withdraw(&self) {
        self.stage
            .send_modify(|stage| *stage = RoutesStage::Withdrawing);
        if self.commands.is_some() {
            let mut withdrawn = self.shown.withdrawn().subscribe();
            let gone = withdrawn.wait_for(|it| *it);
            if tokio::time::timeout(WITHDRAWN, gone).await.is_err() {
                tracing::warn!("the kernel's routes could not be removed in time");
            }
        }
    }
}
