//! What a connection works with, and what is to become of it then.

use super::direction::Tools;
use super::poll::Poll;
use super::source::StandIns;
use super::timer::Timer;
use crate::shared::Shared;

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on waiting for what it waits for.
    Stay,
    /// It is to be looked at after so long.
    Wait(Timer),
    /// It waits for its sockets alone.
    Rest,
    /// It has more to do, when others have had their turn.
    More,
    /// It is over.
    Over,
}

/// What a connection works with.
pub(super) struct Environment<'a> {
    pub(super) shared: &'a Shared,
    pub(super) poll: &'a Poll,
    pub(super) stand_ins: &'a mut StandIns,
    pub(super) tools: Tools<'a>,
    pub(super) number: u32,
}
