//! The first term of an address: before a member begins it, it asks whether another host uses the address.
//!
//! Only the first term that it knows of. A takeover waits for nothing, and what a gateway owns it never gives up for
//! another host: else anybody on the network could take addresses down.

use std::net::IpAddr;
use std::time::Duration;

use super::message::{MemberName, MemberStage};
use super::rank::rank;
use super::{BootTime, Fleet};

/// So long an answer counts that nobody uses an address.
const FRESH: Duration = Duration::from_secs(10);

/// So many gateways ask on a network for the controller whether another host uses an address: one may be about to die.
pub const ASKERS: usize = 3;

impl Fleet {
    /// From now on it begins the first term of an address only after [`Self::note_free`].
    pub fn ask_first(&mut self) {
        self.asks_first = true;
    }

    /// The addresses that it would take now if it knew that no other host uses them: it is its turn.
    pub fn unasked(&self, now: BootTime) -> Vec<IpAddr> {
        let unasked = self.to_ask.iter().copied();
        unasked
            .filter(|address| !self.is_free_for_first_term(*address, now))
            .collect()
    }

    /// Whether this member asks for the controller whether another host uses an address that nobody has yet: it is one
    /// of the first [`ASKERS`] of those that live and may have it, in the order of the rendezvous hash. Those that take
    /// part go first: what another one lacks may be that it can't ask. They need not agree on who lives: then a few more
    /// ask, and one that is dead is followed when it is known to be.
    pub fn is_asker(
        &self,
        address: IpAddr,
        is_candidate: impl Fn(&MemberName) -> bool,
        now: BootTime,
    ) -> bool {
        let takes_part =
            |stage: MemberStage| matches!(stage, MemberStage::Ready | MemberStage::Draining);
        let own = (
            takes_part(self.stage(now)),
            rank(address, &self.own),
            &self.own,
        );
        let better = self.members.names().filter(|name| {
            let stage = self.members.get(name).map(|it| it.stage);
            let stage = stage.filter(|it| *it != MemberStage::Leaving);
            stage.is_some_and(|stage| (takes_part(stage), rank(address, name), *name) > own)
                && is_candidate(name)
                && self.members.is_alive(name, now)
        });
        better.take(ASKERS).count() < ASKERS
    }

    /// Whether its first term may begin, or it has had one: no other host uses the address, where that is to be known
    /// first.
    pub(super) fn is_free_for_first_term(&self, address: IpAddr, now: BootTime) -> bool {
        if !self.asks_first || self.had_owner(address) {
            return true;
        }
        let free_since = self.addresses.get(&address).and_then(|it| it.free_since);
        free_since.is_some_and(|since| now.since(since) <= FRESH)
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
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::super::{Ability, Candidacy, HEARTBEAT, SILENT, STEP};
    use super::*;

    const NOW: BootTime = BootTime(Duration::from_secs(100));

    fn address() -> IpAddr {
        "203.0.113.1".parse().unwrap()
    }

    fn member(name: &str, run: u64, now: BootTime) -> Fleet {
        member_of(2, name, run, now)
    }

    /// A member of a fleet of so many.
    fn member_of(count: u64, name: &str, run: u64, now: BootTime) -> Fleet {
        let mut fleet = Fleet::new(name.into(), run, 1_800_000_000_000, now);
        fleet.ask_first();
        let all: BTreeSet<MemberName> = (1..=count).map(|n| format!("edge-{n}").into()).collect();
        fleet.set_members(all.clone());
        let candidacy = Candidacy {
            candidates: Arc::new(all),
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

    fn fleet_of(count: u64) -> Vec<Fleet> {
        let names = (1..=count).map(|n| (format!("edge-{n}"), n));
        let fleets = names.map(|(name, run)| member_of(count, &name, run, NOW));
        fleets.collect()
    }

    #[test]
    fn the_one_that_is_to_take_an_address_asks_and_others_when_it_has_died() {
        let mut fleets = fleet_of(10);
        let mut now = NOW;
        // Who asks, and after how long the first one did.
        let mut ask = |fleets: &mut Vec<Fleet>, time: Duration| {
            let (until, mut asked) = (now.after(time), BTreeSet::new());
            while now < until {
                run(fleets, now, HEARTBEAT);
                now = now.after(HEARTBEAT);
                let asks = fleets.iter().filter(|it| !it.unasked(now).is_empty());
                asked.extend(asks.map(|it| it.own.clone()));
            }
            asked
        };
        let asked = ask(&mut fleets, Duration::from_millis(1200));
        assert_eq!(asked.len(), 1, "{asked:?}");
        // It dies before it has an answer.
        fleets.retain(|it| !asked.contains(&it.own));
        let next = ask(&mut fleets, SILENT + STEP);
        assert!(!next.is_empty() && next.is_disjoint(&asked), "{next:?}");
    }

    #[test]
    fn of_all_that_live_few_ask_for_the_controller_and_the_dead_are_followed() {
        let mut fleets = fleet_of(10);
        let address = "203.0.113.7".parse().unwrap();
        let asks = |fleets: &[Fleet], now: BootTime| -> BTreeSet<MemberName> {
            let asks = fleets
                .iter()
                .filter(|it| it.is_asker(address, |name| &**name != "edge-3", now));
            asks.map(|it| it.own.clone())
                .filter(|name| &**name != "edge-3")
                .collect()
        };
        let time = Duration::from_secs(1);
        run(&mut fleets, NOW, time);
        let mut now = NOW.after(time);
        let mut asked = asks(&fleets, now);
        while fleets.len() > ASKERS {
            assert_eq!(asked.len(), ASKERS, "{} live: {asked:?}", fleets.len());
            // One of them dies.
            let dead = asked.pop_first();
            fleets.retain(|it| Some(&it.own) != dead.as_ref());
            let time = SILENT + HEARTBEAT;
            run(&mut fleets, now, time);
            now = now.after(time);
            asked = asks(&fleets, now);
        }
        // One that is alone on its network asks.
        fleets.retain(|it| &*it.own != "edge-3");
        fleets.truncate(1);
        run(&mut fleets, now, time);
        assert_eq!(asks(&fleets, now.after(time)).len(), 1);
    }
}
