//! `routes: kernel`: addresses as routes of a kernel table, for a routing daemon on the same host that holds the
//! sessions with routers.
//!
//! A route must not outlive this gateway's ability to serve its address, and the kernel keeps routes whatever becomes of
//! the process that made them. So two things take them back:
//!
//! - A second process, the *keeper*, hears this one every 50 ms. After 300 ms of silence it removes the routes: this
//!   process is dead, or stopped, or does not get to run, or its workers do not turn. It answers what it hears. There
//!   is no route before its first answer, and one that has not answered for a second is killed and replaced. One that is
//!   stopped while this process dies goes on then (`PR_SET_PDEATHSIG`).
//! - The routes go by an interface of their own, which exists as long as the keeper has it open (tuntap). Where both
//!   processes end at once, the kernel removes the interface, and the routes with it. So nothing is ever left behind for
//!   the next start either.
//!
//! Removing the routes one by one, as the keeper does, is more than a tidy end: FRR 8 does not notice that routes
//! which it has imported are gone where only their interface goes. What nothing takes back are the routes of two
//! processes that are stopped together (a cgroup that is frozen).
//!
//! Nobody looks the table up, unless a rule says so, so its routes carry no packet; local delivery is by table `local`.
//! They are plain routes by an interface, because routing daemons leave routes of type `local` alone.
//!
//! When another process takes over, the routes stay: see `thread/handover`.
//!
//! Reading order: `table`, the routes; `device`, the interface; `keeper`, the second process; `fence`, the thread
//! that it hears; `thread`, what is decided; `control`, the control task's end; `shown`.

pub(crate) mod control;
mod device;
mod fence;
pub mod keeper;
pub(crate) mod shown;
mod table;
mod thread;

use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;

/// What the thread is told when another process takes over.
#[derive(Debug)]
enum RoutesCommand {
    /// Change nothing from now on, and give the socket by which the keeper hears this process, if there is one.
    Freeze(Sender<Option<UnixStream>>),
    /// Nobody goes on with the routes: go on.
    Thaw,
    /// Another process has the routes.
    Leave,
}

/// The table. Those from 253 on are the kernel's, FRR imports none that is 252 or more, Calico has those up to 250 and
/// kube-vip 198 by default.
pub const TABLE: u8 = 251;

/// The interface that the routes go by.
pub const DEVICE: &str = "fairway-routes";
