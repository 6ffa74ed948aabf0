//! The first term of an address: before a member begins it, it asks whether another host uses the address.
//!
//! Only the first term that it knows of. A takeover waits for nothing, and what a gateway owns it never gives up for
//! another host: else anybody on the network could take addresses down.

use std::net::IpAddr;
use std::time::Duration;

use super::handover::Handover;
use super::{BootTime, Fleet};

/// So long an answer counts that nobody uses an address.
const FRESH: Duration = Duration::from_secs(10);

/// It is not known whether another host uses an address.
#[derive(Debug)]
pub(super) struct NotAsked;

impl Fleet {
    /// From now on it begins the first term of an address only after [`Self::note_free`].
    pub fn ask_first(&mut self) {
        self.asks_first = true;
    }

    /// The addresses that it would take if it knew that no other host uses them.
    pub fn unasked(&self, now: BootTime) -> Vec<IpAddr> {
        if !self.asks_first || self.handover == Handover::Leaving {
            return Vec::new();
        }
        // Nearly always there is none: this is asked all the time.
        let unasked = self.never_owned.iter().filter(|address| {
            let contest = self.addresses.get(*address);
            contest.is_some_and(|it| it.is_able() && it.candidates.contains(&self.own))
                && self.free_for_first_term(**address, now).is_err()
        });
        unasked.copied().collect()
    }

    /// Since when nobody uses the address, where that is to be known first; the error: it is not known.
    pub(super) fn free_for_first_term(
        &self,
        address: IpAddr,
        now: BootTime,
    ) -> Result<Option<BootTime>, NotAsked> {
        if !self.asks_first || self.had_owner(address) {
            return Ok(None);
        }
        let free_since = self.addresses.get(&address).and_then(|it| it.free_since);
        match free_since {
            Some(since) if now.since(since) <= FRESH => Ok(Some(since)),
            _ => Err(NotAsked),
        }
    }

    /// Whether a gateway has owned the address since it is contended for.
    pub fn had_owner(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address) && !self.never_owned.contains(&address)
    }

    /// Nobody uses this address, as was found at that time.
    pub fn note_free(&mut self, address: IpAddr, at: BootTime) {
        if let Some(contest) = self.addresses.get_mut(&address) {
            contest.free_since = Some(at);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::message::MemberName;
    use std::sync::Arc;

    use super::super::{Ability, Candidacy, HEARTBEAT, SILENT};
    use super::*;

    const NOW: BootTime = BootTime(Duration::from_secs(100));

    fn address() -> IpAddr {
        "203.0.113.1".parse().unwrap()
    }

    fn member(name: &str, run: u64, now: BootTime) -> Fleet {
        let mut fleet = Fleet::new(name.into(), run, 1_800_000_000_000, now);
        fleet.ask_first();
        let both = ["edge-1", "edge-2"].map(MemberName::from);
        fleet.set_members(both.clone());
        let candidacy = Candidacy {
            candidates: Arc::new(both.into()),
            ability: Ability::Able,
            ..Candidacy::default()
        };
        fleet.set_addresses(now, [(address(), candidacy)].into());
        fleet
    }

    /// Ticks of those that hear each other, until then. Answers with who owns the address.
    fn run(fleets: &mut [Fleet], from: BootTime, time: Duration) -> Vec<MemberName> {
        let mut now = from;
        while now.since(from) < time {
            now = now.after(HEARTBEAT);
            for n in 0..fleets.len() {
                for (to, message) in fleets[n].tick(now) {
                    if let Some(to) = fleets.iter_mut().find(|it| it.own == to) {
                        let _ = to.receive(now, &message);
                    }
                }
            }
        }
        let owners = fleets.iter().filter(|it| it.term(address()).is_some());
        owners.map(|it| it.own.clone()).collect()
    }

    #[test]
    fn a_first_term_waits_for_the_answer_that_nobody_has_the_address() {
        let mut fleets = [member("edge-1", 1, NOW), member("edge-2", 2, NOW)];
        assert!(run(&mut fleets, NOW, Duration::from_secs(5)).is_empty());
        let now = NOW.after(Duration::from_secs(5));
        for fleet in &mut fleets {
            assert_eq!(fleet.unasked(now), [address()]);
            // An answer does not count for ever.
            fleet.note_free(address(), now.before(FRESH + HEARTBEAT));
            assert_eq!(fleet.unasked(now), [address()]);
        }
        assert!(run(&mut fleets, now, Duration::from_secs(1)).is_empty());
        let now = now.after(Duration::from_secs(1));
        for fleet in &mut fleets {
            fleet.note_free(address(), now);
            assert!(fleet.unasked(now).is_empty());
        }
        assert_eq!(run(&mut fleets, now, Duration::from_secs(1)).len(), 1);
    }

    #[test]
    fn nobody_asks_for_an_address_that_a_gateway_had_and_a_takeover_waits_for_no_answer() {
        let mut fleets = vec![member("edge-1", 1, NOW), member("edge-2", 2, NOW)];
        run(&mut fleets, NOW, Duration::from_secs(1));
        let now = NOW.after(Duration::from_secs(1));
        fleets[0].note_free(address(), now);
        let owner = run(&mut fleets, now, Duration::from_secs(2));
        assert_eq!(owner, ["edge-1".into()]);
        let now = now.after(Duration::from_secs(2));
        // One that has just begun hears of the owner, and so does one that gets the address anew.
        fleets[1] = member("edge-2", 3, now);
        run(&mut fleets, now, Duration::from_secs(1));
        let now = now.after(Duration::from_secs(1));
        assert!(fleets[1].unasked(now).is_empty() && fleets[1].had_owner(address()));
        fleets.remove(0);
        let owner = run(&mut fleets, now, SILENT + HEARTBEAT * 4);
        assert_eq!(owner, ["edge-2".into()]);
    }
}
