//! The thread that the keeper hears. It waits for nobody, and for no lock of the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::watch;

use crate::clock;
use crate::stalls::{Stalls, WorkerLoops, turns};

/// How often the keeper hears something.
const BEAT: Duration = Duration::from_millis(50);

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FenceState {
    /// Why the routes must not be there now.
    pub(super) inability: Option<String>,
    /// How many keepers have been lost: they have ended, or take nothing.
    pub(super) lost: u64,
}

/// See the module. The thread ends with the value.
#[derive(Debug)]
pub(super) struct Fence {
    keeper: Arc<Mutex<Option<OwnedFd>>>,
    state: watch::Receiver<FenceState>,
}

impl Fence {
    /// Starts the thread.
    pub(super) fn start(loops: WorkerLoops) -> io::Result<Self> {
        let keeper = Arc::<Mutex<Option<OwnedFd>>>::default();
        let (sender, state) = watch::channel(FenceState::default());
        let of_thread = Arc::downgrade(&keeper);
        std::thread::Builder::new()
            .name("fairway-fence".to_owned())
            .spawn(move || beat(&of_thread, &loops, &sender))?;
        Ok(Self { keeper, state })
    }

    /// How it stands, now and from now on.
    pub(super) fn state(&self) -> watch::Receiver<FenceState> {
        self.state.clone()
    }

    /// The keeper hears us by this; none: there is no keeper.
    pub(super) fn set_keeper(&self, keeper: Option<OwnedFd>) {
        let mut place = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        *place = keeper;
    }
}

fn beat(
    keeper: &Weak<Mutex<Option<OwnedFd>>>,
    loops: &WorkerLoops,
    state: &watch::Sender<FenceState>,
) {
    let mut stalls = Stalls::default();
    while let Some(keeper) = keeper.upgrade() {
        let stalled = stalls.look(clock::boot_time(), turns(loops));
        let inability = stalled.map(|name| format!("{name} has not turned for a second"));
        let mut lost = 0;
        if inability.is_none() {
            let mut place = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = place.as_ref().map(|pipe| rustix::io::write(pipe, &[0]));
            // A pipe that is full is that of a keeper which is stopped.
            if let Some(Err(error)) = answer
                && error != Errno::INTR
            {
                *place = None;
                lost = 1;
            }
        }
        state.send_if_modified(|state| {
            let is_changed = state.inability != inability || lost > 0;
            state.inability = inability;
            state.lost += lost;
            is_changed
        });
        drop(keeper);
        std::thread::sleep(BEAT);
    }
}
