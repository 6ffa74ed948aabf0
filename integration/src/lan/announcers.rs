//! What announces addresses on the edges of a LAN.

use anyhow::{Result, bail};
use rustix::process::Signal;

use super::network::LanEdge;

/// The programs of one kind on the edges of a LAN, one on each.
pub trait Announcers {
    /// Sends a signal to the program on an edge, and to all that belongs to it. After SIGKILL it is gone.
    fn signal(&mut self, edge: &LanEdge, signal: Signal) -> Result<()>;

    /// Has an edge hand over what it owns, and go on without; `is_over`: it may take addresses again.
    fn drain(&mut self, edge: &LanEdge, _is_over: bool) -> Result<()> {
        bail!("what announces on {} does not drain", edge.name)
    }

    /// Starts the program on an edge again, whose end has been asked for or has come, and waits until it is ready.
    fn revive(&mut self, edge: &LanEdge) -> Result<()>;

    /// Whether this edge served an attempt that was answered with that line.
    fn has_served(&self, edge: &LanEdge, line: &str) -> bool;
}
