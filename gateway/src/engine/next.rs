//! What a connection works with, and what the worker does with it afterwards.

use super::direction::Tools;
use super::poll::Epoll;
use super::timer::Timer;
use crate::shared::GatewayShared;
use crate::source_address::SourceFallback;

/// What the worker does with a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: its timer goes on.
    Stay,
    /// It starts this timer, in place of the one before.
    Wait(Timer),
    /// It stops the timer: the connection waits for its sockets alone.
    Rest,
    /// It lets the connection go on in the next round, after the others.
    More,
    /// It hands the connection to the tasks of the worker.
    Hand,
    /// It removes the connection.
    Over,
}

/// What a connection works with.
pub(super) struct Environment<'a> {
    pub(super) shared: &'a GatewayShared,
    pub(super) poll: &'a Epoll,
    pub(super) source_fallback: &'a mut SourceFallback,
    pub(super) tools: Tools<'a>,
    /// The number of the connection.
    pub(super) number: u32,
}
