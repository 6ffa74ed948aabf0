//! The thread that the keeper hears, and that hears the keeper. It waits for nobody, and for no lock of the kernel.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use fairway_gateway_core::fleet::BootTime;
use tokio::sync::watch;

use crate::clock;
use crate::stalls::{Stalls, WorkerLoops, turns};
use crate::urgency;

/// How often the keeper hears something.
const BEAT: Duration = Duration::from_millis(50);

/// A keeper that answers nothing for so long is stopped, or stuck.
const UNANSWERED: Duration = Duration::from_secs(1);

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FenceState {
    /// Why the routes must not be there now; the end of a sentence.
    pub(super) inability: Option<String>,
    /// The keeper.
    pub(super) keeper: KeeperState,
}

/// What is known of the keeper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum KeeperState {
    /// There is none.
    #[default]
    Absent,
    /// It has not answered yet.
    Starting,
    /// It answers.
    Answering,
    /// It has ended, or answers no more. Why, as the end of a sentence.
    Lost(&'static str),
}

/// See the module. The thread ends with the value.
#[derive(Debug)]
pub(super) struct Fence(Arc<FenceShared>);

#[derive(Debug, Default)]
struct FenceShared {
    keeper: Mutex<Option<HeardKeeper>>,
    /// That of another process, which goes on until the one of this process answers.
    former: Mutex<Option<UnixStream>>,
    state: watch::Sender<FenceState>,
}

/// A keeper, by its socket.
#[derive(Debug)]
struct HeardKeeper {
    socket: UnixStream,
    /// Since when it is asked without an answer; none: it has never answered.
    answered: Option<BootTime>,
}

impl Fence {
    /// Starts the thread.
    pub(super) fn start(loops: WorkerLoops) -> io::Result<Self> {
        let fence = Arc::<FenceShared>::default();
        let of_thread = Arc::downgrade(&fence);
        std::thread::Builder::new()
            .name("fairway-fence".to_owned())
            .spawn(move || beat(&of_thread, &loops))?;
        Ok(Self(fence))
    }

    /// How it stands, now and from now on.
    pub(super) fn state(&self) -> watch::Receiver<FenceState> {
        self.0.state.subscribe()
    }

    /// The keeper is heard by this socket, which does not block; none: there is no keeper.
    pub(super) fn set_keeper(&self, socket: Option<UnixStream>) {
        let mut place = self.0.keeper();
        *place = socket.map(|socket| HeardKeeper {
            socket,
            answered: None,
        });
        let keeper = match *place {
            Some(_) => KeeperState::Starting,
            None => KeeperState::Absent,
        };
        self.0.state.send_modify(|state| state.keeper = keeper);
    }

    /// The socket of the keeper, for another process, if it answers.
    pub(super) fn share(&self) -> Option<UnixStream> {
        let keeper = self.0.keeper();
        let keeper = keeper.as_ref().filter(|it| it.answered.is_some())?;
        keeper.socket.try_clone().ok()
    }

    /// The keeper of another process hears this one, too; none: it does not any more.
    pub(super) fn set_former(&self, socket: Option<UnixStream>) {
        *self.0.former() = socket;
    }
}

impl FenceShared {
    fn keeper(&self) -> std::sync::MutexGuard<'_, Option<HeardKeeper>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn former(&self) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
        self.former.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the keeper hear that the process goes on, unless `inability` says why the routes must not be there.
    fn turn(&self, now: BootTime, has_slept: bool, inability: Option<String>) {
        if inability.is_none()
            && let Some(former) = &mut *self.former()
        {
            // One that has ended says so when it is asked for something.
            let _ = former.write(&[0]);
        }
        let mut place = self.keeper();
        let keeper = place
            .as_mut()
            .map(|it| it.turn(now, has_slept, inability.is_none()));
        if matches!(keeper, Some(KeeperState::Lost(_))) {
            *place = None;
        }
        // Under the lock: what `set_keeper` says comes before or after.
        self.state.send_if_modified(|state| {
            // One that is lost stays so until it is replaced.
            let now = FenceState {
                inability,
                keeper: keeper.unwrap_or(state.keeper),
            };
            let is_changed = *state != now;
            *state = now;
            is_changed
        });
    }
}

impl HeardKeeper {
    fn turn(&mut self, now: BootTime, has_slept: bool, is_well: bool) -> KeeperState {
        const ENDED: KeeperState = KeeperState::Lost("it has ended");
        match self.socket.read(&mut [0; 256]) {
            Ok(0) => return ENDED,
            Ok(_) => self.answered = Some(now),
            Err(error) if passes(&error) => {}
            Err(_) => return ENDED,
        }
        if is_well
            && let Err(error) = self.socket.write(&[0])
            && !passes(&error)
        {
            return ENDED;
        }
        match &mut self.answered {
            None => KeeperState::Starting,
            Some(since) => {
                // Who has not asked has no answer.
                if has_slept || !is_well {
                    *since = now;
                }
                match now.since(*since) >= UNANSWERED {
                    true => KeeperState::Lost("it has not answered for a second"),
                    false => KeeperState::Answering,
                }
            }
        }
    }
}

/// Whether an error says that there is nothing to read, or no room to write.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn beat(fence: &Weak<FenceShared>, loops: &WorkerLoops) {
    urgency::raise_or_say();
    let mut stalls = Stalls::default();
    let mut turned = clock::boot_time();
    while let Some(fence) = fence.upgrade() {
        let now = clock::boot_time();
        let stalled = stalls.look(now, turns(loops));
        let inability = stalled.map(|name| format!("{name} has not turned for a second"));
        let has_slept = now.since(turned) >= UNANSWERED / 2;
        turned = now;
        fence.turn(now, has_slept, inability);
        drop(fence);
        std::thread::sleep(BEAT);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime(Duration::from_millis(100_000 + millis))
    }

    struct World {
        fence: Fence,
        keeper: Option<UnixStream>,
    }

    impl World {
        fn new() -> Self {
            let (ours, keeper) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            keeper.set_nonblocking(true).unwrap();
            let fence = Fence(Arc::default());
            fence.set_keeper(Some(ours));
            Self {
                fence,
                keeper: Some(keeper),
            }
        }

        fn turn(&self, millis: u64) -> KeeperState {
            self.fence.0.turn(at(millis), false, None);
            self.fence.state().borrow().keeper
        }

        /// The keeper answers what it has heard. Returns how much that is.
        fn answers(&self) -> usize {
            let mut heard = [0; 256];
            let mut keeper = self.keeper.as_ref().unwrap();
            let count = keeper.read(&mut heard).unwrap_or_default();
            keeper.write_all(&heard[..count]).unwrap();
            count
        }
    }

    #[test]
    fn a_keeper_that_answers_no_more_is_lost_after_a_second() {
        let world = World::new();
        // It takes its time to start.
        assert_eq!(world.turn(0), KeeperState::Starting);
        assert_eq!(world.turn(3_000), KeeperState::Starting);
        assert_eq!(world.answers(), 2);
        assert_eq!(world.turn(3_050), KeeperState::Answering);
        assert_eq!(world.turn(4_049), KeeperState::Answering);
        assert!(matches!(world.turn(4_050), KeeperState::Lost(_)));
        // It stays so until another is there.
        assert!(matches!(world.turn(4_100), KeeperState::Lost(_)));
        world.fence.set_keeper(None);
        assert_eq!(world.turn(4_150), KeeperState::Absent);
    }

    #[test]
    fn a_keeper_that_has_ended_is_lost_at_once() {
        let mut world = World::new();
        world.turn(0);
        world.answers();
        assert_eq!(world.turn(50), KeeperState::Answering);
        world.keeper = None;
        assert!(matches!(world.turn(100), KeeperState::Lost(_)));
    }

    #[test]
    fn a_fence_that_has_slept_asks_again_first() {
        let world = World::new();
        world.turn(0);
        world.answers();
        assert_eq!(world.turn(50), KeeperState::Answering);
        world.fence.0.turn(at(9_000), true, None);
        assert_eq!(world.turn(9_050), KeeperState::Answering);
        assert!(matches!(world.turn(10_000), KeeperState::Lost(_)));
    }

    #[test]
    fn the_keeper_hears_nothing_while_the_routes_must_not_be_there() {
        let world = World::new();
        world.turn(0);
        world.answers();
        let stalled = || Some("worker 0 has not turned for a second".to_owned());
        world.fence.0.turn(at(50), false, stalled());
        assert_eq!(world.answers(), 0);
        assert_eq!(world.fence.state().borrow().inability, stalled());
        // It is not asked, so nothing is held against it.
        world.fence.0.turn(at(5_000), false, stalled());
        assert_eq!(world.turn(5_050), KeeperState::Answering);
        assert_eq!(world.answers(), 1);
    }
}
