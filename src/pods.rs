//! Which of several Pods of a gateway has its turn, where they share a state directory.
//!
//! A DaemonSet that upgrades starts a new Pod beside the old one, and ends the old one when the new one is ready. Until
//! then the kubelet starts the old one's container again should it end. That process must not take over back. So the
//! Pods are written down in the order in which they began to serve: one that is followed by another one stands by while
//! that one serves. When the later one is told to stop, it hands over to the one that stands by: so a rollout that is
//! taken back halfway ends at the earlier Pod.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The file in the state directory.
const FILE: &str = "pods.json";

/// So many Pods are remembered: no more are there at a time.
const MOST: usize = 16;

/// How long after a process has asked, and was told to stand by, it counts as one that stands by. It asks each second.
const STANDS_BY: Duration = Duration::from_secs(3);

/// The UIDs of Pods in the order in which they began to serve, the last one behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodOrder(VecDeque<String>);

impl PodOrder {
    /// Adds a Pod that begins to serve, as the last one. One that has served before and begins anew, because all that followed it
    /// were gone, is followed by nobody any more. One that another Pod has handed over to goes before that one. Returns whether
    /// something has changed.
    fn note(&mut self, pod: &str, has_taken_over: bool) -> bool {
        if self.0.back().is_some_and(|last| last == pod) {
            return false;
        }
        if let Some(place) = self.0.iter().position(|it| it == pod) {
            if !has_taken_over {
                self.0.truncate(place + 1);
                return true;
            }
            self.0.remove(place);
        }
        self.0.push_back(pod.to_owned());
        while self.0.len() > MOST {
            self.0.pop_front();
        }
        true
    }

    /// Whether the other one began to serve later.
    fn is_before(&self, one: &str, other: &str) -> bool {
        let place = |pod: &str| self.0.iter().position(|it| it == pod);
        matches!((place(one), place(other)), (Some(one), Some(other)) if one < other)
    }

    /// Whether a later one has served.
    pub(crate) fn is_followed(&self, pod: &str) -> bool {
        self.0.back().is_some_and(|last| self.is_before(pod, last))
    }

    /// What is written down; nothing: no Pod.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn read(state: &Path) -> io::Result<Self> {
        match fs::read(state.join(FILE)) {
            Ok(content) => Ok(Self(serde_json::from_slice(&content)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes it down: after a crash the file has its old or its new content.
    fn write(&self, state: &Path) -> io::Result<()> {
        let beside = state.join(format!(".{FILE}.tmp"));
        let file = fs::File::create(&beside)?;
        serde_json::to_writer(&file, &self.0)?;
        file.sync_all()?;
        fs::rename(&beside, state.join(FILE))?;
        fs::File::open(state)?.sync_all()
    }
}

/// The Pod of this process, among those that share its state directory.
#[derive(Debug)]
pub(crate) struct OwnPod {
    uid: String,
    state: PathBuf,
    turns: Mutex<PodTurns>,
}

#[derive(Debug, Default)]
struct PodTurns {
    order: PodOrder,
    /// This process is to stop: whoever stands by takes over.
    yields: bool,
    /// When one that stands by has asked last.
    asked: Option<Instant>,
}

impl OwnPod {
    /// The Pod with this UID, over this state directory.
    pub(crate) fn new(uid: String, state: PathBuf) -> Self {
        Self {
            uid,
            state,
            turns: Mutex::default(),
        }
    }

    /// Its UID.
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// What is written down, as far as it can be read.
    fn read(&self) -> PodOrder {
        PodOrder::read(&self.state).unwrap_or_else(|error| {
            tracing::warn!(%error, file = FILE, "can't be read: no other Pod is known");
            PodOrder::default()
        })
    }

    /// Whether a later Pod has served.
    pub(crate) fn is_followed(&self) -> bool {
        self.read().is_followed(&self.uid)
    }

    /// This process begins to serve; whether another one has handed over to it. To be called by the one that has the lock
    /// of the state directory.
    pub(crate) fn begin(&self, has_taken_over: bool) {
        let mut turns = self.turns();
        turns.order = self.read();
        if turns.order.note(&self.uid, has_taken_over)
            && let Err(error) = turns.order.write(&self.state)
        {
            tracing::warn!(%error, file = FILE, "can't be written: an older Pod may take over from this one");
        }
    }

    /// Whether the process in that Pod (none: in no Pod) may take over from this one now. Else it stands by.
    pub(crate) fn is_turn_of(&self, pod: Option<&str>, now: Instant) -> bool {
        let turns = self.asked_by(pod, now);
        turns.is_none_or(|turns| turns.yields)
    }

    /// Whether this process is to stop, and waits for the one in that Pod, which stands by.
    pub(crate) fn gives_way_to(&self, pod: Option<&str>, now: Instant) -> bool {
        let turns = self.asked_by(pod, now);
        turns.is_some_and(|turns| turns.yields)
    }

    /// Notes that the process in that Pod has asked, where that Pod is an older one; else returns nothing.
    fn asked_by(&self, pod: Option<&str>, now: Instant) -> Option<MutexGuard<'_, PodTurns>> {
        let mut turns = self.turns();
        let is_older = pod.is_some_and(|pod| turns.order.is_before(pod, &self.uid));
        is_older.then(|| {
            turns.asked = Some(now);
            turns
        })
    }

    /// This process is to stop: from now on whoever stands by takes over. Returns whether somebody does.
    pub(crate) fn give_way(&self, now: Instant) -> bool {
        let mut turns = self.turns();
        turns.yields = true;
        turns.asked.is_some_and(|asked| now < asked + STANDS_BY)
    }

    fn turns(&self) -> MutexGuard<'_, PodTurns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_the_order_in_which_they_began_to_serve() {
        let state = tempfile::tempdir().unwrap();
        let pods = ["a", "b", "c"].map(|uid| OwnPod::new(uid.to_owned(), state.path().to_owned()));
        let [a, b, c] = &pods;
        assert!(!a.is_followed());
        for pod in [a, b] {
            pod.begin(false);
        }
        assert!(a.is_followed() && !b.is_followed() && !c.is_followed());
        // Nobody else served for long, so it began anew: nobody goes before it now.
        a.begin(false);
        assert!(!a.is_followed());
        b.begin(false);
        assert!(a.is_followed());
        // The newer one, a new one and one that is in no Pod take over; the older one stands by.
        let now = Instant::now();
        for (serves, asks, is_turn) in [
            (a, Some("b"), true),
            (a, Some("a"), true),
            (b, Some("a"), false),
            (b, Some("b"), true),
            (b, Some("c"), true),
            (b, None, true),
        ] {
            serves.begin(false);
            assert_eq!(
                serves.is_turn_of(asks, now),
                is_turn,
                "{asks:?} asks {serves:?}"
            );
        }
    }

    #[test]
    fn a_process_that_stops_gives_way_to_one_that_stands_by() {
        let state = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|uid| OwnPod::new(uid.to_owned(), state.path().to_owned()));
        a.begin(false);
        b.begin(true);
        let now = Instant::now();
        assert!(!b.give_way(now), "nobody has asked");
        let b = OwnPod::new("b".to_owned(), state.path().to_owned());
        b.begin(false);
        assert!(!b.is_turn_of(Some("a"), now));
        assert!(!b.give_way(now + STANDS_BY), "it has asked long ago");
        assert!(b.is_turn_of(Some("a"), now + STANDS_BY));
        assert!(b.gives_way_to(Some("a"), now + STANDS_BY));
        // It is no older one: it does not come back for that.
        assert!(!b.gives_way_to(Some("c"), now) && !b.gives_way_to(None, now));
        assert!(b.give_way(now + STANDS_BY));
        // It is the last one now: it waits for nobody when it is started again.
        a.begin(true);
        assert!(!a.is_followed() && b.is_followed());
    }

    #[test]
    fn only_the_last_pods_are_remembered() {
        let mut order = PodOrder::default();
        for number in 0..100 {
            assert!(order.note(&number.to_string(), true));
        }
        assert_eq!(order.0.len(), MOST);
        assert!(!order.note("99", true) && order.is_followed("98") && !order.is_followed("0"));
    }

    #[test]
    fn a_file_that_cannot_be_read_names_nobody() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "{").unwrap();
        let pod = OwnPod::new("a".to_owned(), state.path().to_owned());
        assert!(!pod.is_followed());
        pod.begin(false);
        assert_eq!(PodOrder::read(state.path()).unwrap().0, ["a"]);
    }
}
