//! Whether the loops still turn that carry traffic and answer for addresses: who announces looks at that.

use std::sync::Arc;
use std::time::Duration;

use fairway_gateway_core::fleet::BootTime;

use crate::engine::Mailbox;
use crate::heartbeat::Heartbeat;

/// A loop that has not turned for so long serves nobody.
const STALLED: Duration = Duration::from_secs(1);

/// The loops that carry traffic. Of each worker: its mailbox, and the heartbeat of its runtime.
pub(crate) type WorkerLoops = Arc<[(Arc<Mailbox>, Heartbeat)]>;

/// A count of each loop, which makes one more round after this call.
pub(crate) fn turns(loops: &WorkerLoops) -> impl Iterator<Item = (String, u64)> {
    loops.iter().enumerate().flat_map(|(n, (mailbox, beat))| {
        [
            (format!("worker {n}"), mailbox.turns()),
            (format!("the runtime of worker {n}"), beat.ask()),
        ]
    })
}

/// The loops, each with its count of turns.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    loops: Vec<WatchedLoop>,
    looked: BootTime,
}

#[derive(Debug)]
struct WatchedLoop {
    name: String,
    turns: u64,
    /// When that count was seen first.
    since: BootTime,
}

impl Stalls {
    /// Takes the counts of all loops. Returns the name of one that has stalled. To be called several times in the
    /// time that counts.
    pub(crate) fn look(
        &mut self,
        now: BootTime,
        turns: impl IntoIterator<Item = (String, u64)>,
    ) -> Option<&str> {
        // Who has slept does not know who else has.
        let has_slept = now.since(self.looked) >= STALLED;
        self.looked = now;
        let mut before = std::mem::take(&mut self.loops);
        for (name, turns) in turns {
            let known = before.iter_mut().find(|it| it.name == name);
            let since = known.filter(|it| it.turns == turns && !has_slept);
            let since = since.map_or(now, |it| it.since);
            self.loops.push(WatchedLoop { name, turns, since });
        }
        let stalled = self.loops.iter().find(|it| now.since(it.since) >= STALLED);
        stalled.map(|it| &*it.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_stalls_that_has_not_turned_for_a_second_while_we_looked() {
        let mut stalls = Stalls::default();
        for (at, a, b, wanted) in [
            (0, 1, 1, None),
            (500, 2, 1, None),
            (999, 3, 1, None),
            (1_000, 3, 1, Some("b")),
            (1_500, 4, 1, Some("b")),
            (2_000, 5, 2, None),
            // It has slept itself.
            (9_000, 5, 2, None),
            (9_500, 5, 3, None),
            (10_000, 5, 4, Some("a")),
            (10_500, 6, 5, None),
        ] {
            let now = BootTime(Duration::from_millis(100_000 + at));
            let turns = [("a".to_owned(), a), ("b".to_owned(), b)];
            assert_eq!(stalls.look(now, turns), wanted, "{at}");
        }
    }
}
