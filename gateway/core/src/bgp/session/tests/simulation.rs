//! Two speakers, and a way between them that breaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::table::Table;
use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, range: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % range
    }
}

/// Another process goes on with a session that is established, with the bytes that are under way in it.
fn hand_over(session: &mut BgpSession, settings: BgpSessionSettings, seed: u64, now: BootTime) {
    let Some(continuation) = session.continuation() else {
        return;
    };
    let wanted = session.rib_out().wanted().clone();
    let mut other = BgpSession::go_on(settings, continuation, seed, now);
    assert_eq!(other.state(), session.state());
    other.set_wanted(now, &wanted);
    assert_eq!(other.rib_out().wanted(), &wanted);
    *session = other;
}

/// Two speakers and a way between them that delivers bytes late and in pieces, and breaks now and then. Now and then
/// another process goes on with one of them, where `hands_over`. Returns how often that was, how often they met, and
/// how often the way broke.
fn simulate(seed: u64, hands_over: bool) -> (u64, usize, usize) {
    let mut random = Random(seed);
    let (mut handed, mut met, mut broken) = (0, 0, 0);
    let of_sides = [
        settings(OURS, PeerAsn::Number(THEIRS)),
        settings(THEIRS, PeerAsn::External),
    ];
    let mut sides = [
        BgpSession::new(of_sides[0].clone(), seed, at(0)),
        BgpSession::new(of_sides[1].clone(), seed + 9, at(0)),
    ];
    let mut tables = [Table::default(), Table::default()];
    let mut dialling = [false; 2];
    let mut under_way: [Vec<u8>; 2] = Default::default();
    let mut is_up = false;
    let calm = 60_000;
    let mut ms = 0;
    while ms < calm + 60_000 {
        ms += 1 + random.below(40);
        let now = at(ms);
        if ms < calm && random.below(60) == 0 {
            let side = usize::from(random.below(2) == 0);
            let prefixes: Vec<String> = (0..random.below(30))
                .map(|_| match random.below(2) {
                    0 => format!("10.0.0.{}/32", random.below(40)),
                    _ => format!("2001:db8::{}/128", random.below(40)),
                })
                .collect();
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            sides[side].set_wanted(now, &wanted(&prefixes));
        }
        let breaks = ms < calm && random.below(200) == 0;
        for side in 0..2 {
            sides[side].tick(now);
            let mut closes = false;
            for action in sides[side].take_actions() {
                match action {
                    BgpAction::Dial => dialling[side] = true,
                    BgpAction::Close => {
                        dialling[side] = false;
                        closes = is_up;
                    }
                }
            }
            if closes || (breaks && is_up) {
                is_up = false;
                broken += usize::from(!closes);
                under_way = Default::default();
                tables = [Table::default(), Table::default()];
                for session in &mut sides {
                    session.closed(now, "it broke");
                    session.take_actions();
                }
            }
        }
        if dialling == [true; 2] {
            (dialling, is_up) = ([false; 2], true);
            met += 1;
            for (side, session) in sides.iter_mut().enumerate() {
                session.connected(now, own(side as u8 + 1));
            }
        }
        if !is_up {
            continue;
        }
        for side in 0..2 {
            if hands_over && random.below(20) == 0 {
                handed += 1;
                let settings = of_sides[side].clone();
                hand_over(&mut sides[side], settings, seed + handed, now);
            }
            let waits = sides[side].outgoing().len() as u64;
            let part = sides[side].outgoing()[..random.below(waits + 1) as usize].to_vec();
            sides[side].wrote(now, part.len());
            under_way[1 - side].extend(part);
            let come = random.below(under_way[side].len() as u64 + 1) as usize;
            let come: Vec<u8> = under_way[side].drain(..come).collect();
            tables[side].read(&come);
            sides[side].receive(now, &come);
        }
    }
    for side in 0..2 {
        let (state, _) = sides[side].state();
        assert_eq!(
            state,
            BgpState::Established,
            "seed {seed}: {}",
            sides[side].why()
        );
        let wanted = sides[side].rib_out().wanted().keys();
        let wanted: Vec<String> = wanted.map(ToString::to_string).collect();
        assert_eq!(tables[1 - side].prefixes(), wanted, "seed {seed}");
    }
    (handed, met, broken)
}

#[test]
fn a_session_goes_on_in_other_processes_whatever_is_under_way() {
    let mut all = 0;
    for seed in 0..60 {
        let (handed, met, broken) = simulate(seed, true);
        assert_eq!(
            met,
            broken + 1,
            "seed {seed}: a session has ended by itself"
        );
        all += handed;
    }
    assert!(all > 10_000, "{all}");
}

#[test]
fn whatever_breaks_the_router_knows_in_the_end_what_is_wanted() {
    for seed in 0..60 {
        simulate(seed, false);
    }
}
