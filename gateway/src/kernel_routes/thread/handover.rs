//! The routes go over to another process, or come from one. They stay in place meanwhile.
//!
//! What goes over is the socket by which the keeper hears its process. The new process lets it hear that it goes on,
//! asks it for the interface, and starts a keeper of its own with that: one that ends with its parent, and is of the same
//! version. When that one answers, the first one is told to end and to leave the routes alone. So at each moment there is
//! a keeper that removes them if nobody is heard any more.

use std::os::unix::net::UnixStream;

use super::{KernelRoutesThread, RoutesHeld, RunningKeeper};
use crate::kernel_routes::RoutesCommand;
use crate::kernel_routes::keeper::{self, KeeperRequest};

impl KernelRoutesThread {
    /// Whether another process has the routes, or may have them.
    pub(super) fn is_quiet(&self) -> bool {
        self.held != RoutesHeld::Here
    }

    /// Does what the control task asks for.
    pub(super) fn obey(&mut self, command: RoutesCommand) {
        match command {
            RoutesCommand::Freeze(reply) => {
                self.held = RoutesHeld::Frozen;
                let keeper = self.keeper.as_ref();
                let socket = keeper.and_then(|_| self.fence.share());
                // Who does not hear it thaws this thread.
                let _ = reply.send(socket);
            }
            RoutesCommand::Thaw if self.held == RoutesHeld::Frozen => self.held = RoutesHeld::Here,
            RoutesCommand::Thaw => {}
            RoutesCommand::Leave => {
                self.held = RoutesHeld::Elsewhere;
                self.let_go();
            }
        }
    }

    /// Leaves the keeper alone: the other process ends it. Where there is none it hears nobody, and removes the routes.
    pub(super) fn let_go(&mut self) {
        self.fence.set_keeper(None);
        self.there.clear();
        self.keeper = None;
    }

    /// Goes on with the routes of another process, whose keeper is heard by `socket`.
    pub(super) async fn go_on(&mut self, socket: UnixStream) {
        match self.replace_former(&socket).await {
            Ok(()) => {
                tracing::info!(
                    routes = self.there.len(),
                    "goes on with the kernel's routes"
                );
                keeper::request(&socket, KeeperRequest::End);
            }
            // The former keeper hears nobody, and removes the routes. They come again.
            Err(why) => tracing::warn!(%why, "can't go on with the kernel's routes"),
        }
        self.fence.set_former(None);
    }

    async fn replace_former(&mut self, socket: &UnixStream) -> Result<(), String> {
        let no_socket = |error| format!("there is no socket: {error}");
        self.fence
            .set_former(Some(socket.try_clone().map_err(no_socket)?));
        let device = keeper::interface(socket).await?;
        let there = self.table()?.list().await;
        self.there = there.map_err(|error| format!("the routes can't be read: {error}"))?;
        let (process, socket) = keeper::start_with(device)?;
        self.fence.set_keeper(Some(socket));
        if let Err(problem) = self.first_answer().await {
            self.fence.set_keeper(None);
            self.there.clear();
            super::end(process).await;
            return Err(problem);
        }
        self.keeper = Some(RunningKeeper {
            process,
            device: None,
        });
        Ok(())
    }
}
