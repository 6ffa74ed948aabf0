#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::packet::{LENGTH, decode, encode};
use super::*;

const MS: Duration = Duration::from_millis(1);

fn timing(interval: u32, multiplier: u8) -> BfdTiming {
    BfdTiming {
        receive_interval: MS * interval,
        transmit_interval: MS * interval,
        detect_multiplier: multiplier,
    }
}

fn at(ms: u32) -> BootTime {
    BootTime(MS * ms)
}

/// Two sides, from one millisecond to the next, over a way that `passes` or does not: (time, from the first side).
struct Pair {
    sides: [BfdSession; 2],
    now: u32,
    frozen: [bool; 2],
}

impl Pair {
    fn new(timings: [BfdTiming; 2], seed: u64) -> Self {
        let [one, other] = timings;
        Self {
            sides: [
                BfdSession::new(one, 11, seed, at(0)),
                BfdSession::new(other, 22, seed + 1, at(0)),
            ],
            now: 0,
            frozen: [false; 2],
        }
    }

    fn run(&mut self, ms: u32, mut passes: impl FnMut(u32, bool) -> bool) {
        for _ in 0..ms {
            self.now += 1;
            for from in 0..2 {
                if self.frozen[from] {
                    continue;
                }
                let mut next = self.sides[from].tick(at(self.now));
                let mut sender = from;
                while let Some(packet) = next {
                    let bytes = encode(&packet);
                    let receiver = 1 - sender;
                    if self.frozen[receiver] || !passes(self.now, sender == 0) {
                        break;
                    }
                    let packet = decode(&bytes).unwrap();
                    next = self.sides[receiver].receive(at(self.now), &packet);
                    sender = receiver;
                }
            }
        }
    }

    fn states(&self) -> [BfdState; 2] {
        [self.sides[0].state().0, self.sides[1].state().0]
    }
}

#[test]
fn two_sides_find_each_other_and_packets_are_as_far_apart_as_both_want() {
    let mut pair = Pair::new([timing(100, 3), timing(50, 3)], 7);
    pair.run(3000, |_, _| true);
    assert_eq!(pair.states(), [BfdState::Up; 2]);
    let mut sent = [0, 0];
    pair.run(10_000, |_, first| {
        sent[usize::from(!first)] += 1;
        true
    });
    // 100 ms, a quarter less at the most.
    for count in sent {
        assert!((100..=134).contains(&count), "{count} in 10 s");
    }
}

#[test]
fn a_session_goes_on_in_other_processes_and_nobody_notices() {
    for seed in 0..20 {
        let timings = [timing(100, 3), timing(50, 3)];
        let mut pair = Pair::new(timings, seed);
        pair.run(3000, |_, _| true);
        assert_eq!(pair.states(), [BfdState::Up; 2], "seed {seed}");
        for round in 0..200_u32 {
            let side = usize::from(round % 3 == 0);
            let (_, since) = pair.sides[side].state();
            let from = pair.sides[side].continuation();
            let number = seed + u64::from(round);
            pair.sides[side] = BfdSession::go_on(timings[side], from, number, at(pair.now));
            assert_eq!(pair.sides[side].state(), (BfdState::Up, since));
            let (mut last, mut longest) = (pair.now, 0);
            pair.run(1 + (round * 37) % 400, |now, first| {
                if first == (side == 0) {
                    longest = longest.max(now - last);
                    last = now;
                }
                true
            });
            assert_eq!(pair.states(), [BfdState::Up; 2], "seed {seed}");
            assert!(longest <= 100, "seed {seed}: nothing for {longest} ms");
        }
        // It notices a death as any other does.
        pair.frozen[0] = true;
        pair.run(301, |_, _| true);
        assert_eq!(pair.states()[1], BfdState::Down, "seed {seed}");
        let from = pair.sides[1].continuation();
        pair.sides[1] = BfdSession::go_on(timings[1], from, seed, at(pair.now));
        pair.run(400, |_, _| true);
        pair.frozen[0] = false;
        pair.run(4000, |_, _| true);
        assert_eq!(pair.states(), [BfdState::Up; 2], "seed {seed}");
    }
}

#[test]
fn a_session_whose_router_died_while_it_went_over_ends() {
    let timings = [timing(100, 3), timing(100, 3)];
    let mut pair = Pair::new(timings, 3);
    pair.run(3000, |_, _| true);
    let from = pair.sides[0].continuation();
    pair.sides[0] = BfdSession::go_on(timings[0], from, 3, at(pair.now));
    pair.frozen[1] = true;
    pair.run(299, |_, _| true);
    assert_eq!(pair.states()[0], BfdState::Up);
    pair.run(2, |_, _| true);
    assert_eq!(pair.states()[0], BfdState::Down);
}

#[test]
fn a_frozen_side_is_noticed_in_the_detection_time() {
    for seed in 0..50 {
        let mut pair = Pair::new([timing(100, 3), timing(100, 3)], seed);
        pair.run(4000, |_, _| true);
        assert_eq!(pair.states(), [BfdState::Up; 2], "seed {seed}");
        pair.frozen[0] = true;
        let from = pair.now;
        while pair.states()[1] == BfdState::Up {
            pair.run(1, |_, _| true);
            assert!(pair.now - from <= 300, "seed {seed}: {}", pair.now - from);
        }
        assert!(pair.now - from >= 200, "seed {seed}: {}", pair.now - from);
        pair.run(400, |_, _| true);
        // It goes on, sees that it has heard nothing, and both find each other again, at once as it may be.
        pair.frozen[0] = false;
        pair.run(1, |_, _| true);
        let (_, since) = pair.sides[0].state();
        assert_eq!(since, at(pair.now), "seed {seed}");
        pair.run(4000, |_, _| true);
        assert_eq!(pair.states(), [BfdState::Up; 2], "seed {seed}");
    }
}

#[test]
fn what_is_lost_one_way_is_noticed_by_both() {
    let mut pair = Pair::new([timing(100, 3), timing(100, 3)], 3);
    pair.run(4000, |_, _| true);
    pair.run(400, |_, first| !first);
    // The second hears nothing; the first hears that.
    assert_eq!(pair.states(), [BfdState::Down, BfdState::Down]);
    pair.run(5000, |_, _| true);
    assert_eq!(pair.states(), [BfdState::Up; 2]);
}

#[test]
fn a_way_that_loses_a_fifth_holds_with_enough_packets() {
    let mut pair = Pair::new([timing(50, 10), timing(50, 10)], 5);
    let mut random = 1u64;
    let mut passes = |_, _| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        !(random >> 33).is_multiple_of(5)
    };
    pair.run(10_000, &mut passes);
    for _ in 0..200 {
        pair.run(100, &mut passes);
        assert_eq!(pair.states(), [BfdState::Up; 2]);
    }
}

#[test]
fn a_side_that_stops_is_not_taken_for_dead() {
    let mut pair = Pair::new([timing(100, 3), timing(100, 3)], 3);
    pair.run(4000, |_, _| true);
    let now = at(pair.now);
    let packet = pair.sides[0].stop(now);
    assert_eq!(packet.state, BfdState::AdminDown);
    pair.sides[1].receive(now, &packet);
    assert_eq!(pair.states(), [BfdState::AdminDown, BfdState::Down]);
    assert!(pair.sides[1].is_stopped_by_router());
}

#[test]
fn packets_of_another_session_do_not_count() {
    let mut session = BfdSession::new(timing(100, 3), 11, 1, at(0));
    let packet = |state, your_discriminator| BfdPacket {
        diagnostic: BfdDiagnostic::None,
        state,
        is_poll: true,
        is_final: false,
        detect_multiplier: 3,
        my_discriminator: 5,
        your_discriminator,
        desired_min_tx: MS * 100,
        required_min_rx: MS * 100,
    };
    for (state, yours) in [
        (BfdState::Init, 0),
        (BfdState::Up, 0),
        (BfdState::Init, 12),
        (BfdState::Down, 12),
    ] {
        assert_eq!(session.receive(at(1), &packet(state, yours)), None);
        assert_eq!(session.state().0, BfdState::Down);
    }
    let answer = session.receive(at(2), &packet(BfdState::Down, 0)).unwrap();
    assert!(answer.is_final && !answer.is_poll);
    assert_eq!(
        (answer.state, answer.your_discriminator),
        (BfdState::Init, 5)
    );
}

#[test]
fn a_router_that_wants_no_packets_gets_none() {
    let mut session = BfdSession::new(timing(100, 3), 11, 1, at(0));
    let mut packet = session.tick(at(0)).unwrap();
    packet.my_discriminator = 5;
    packet.required_min_rx = Duration::ZERO;
    session.receive(at(1), &packet);
    for ms in 2..1000 {
        assert_eq!(session.tick(at(ms)), None);
    }
}

proptest! {
    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64), is_begun in any::<bool>()) {
        let mut bytes = bytes;
        if is_begun && bytes.len() >= LENGTH {
            bytes[0] = 0x20;
            bytes[1] &= 0xfa;
            bytes[3] = 24;
        }
        if let Ok(packet) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&packet)), Ok(packet));
            let mut session = BfdSession::new(timing(100, 3), 11, 1, at(0));
            for ms in [1, 2, 1000, 100_000] {
                session.receive(at(ms), &packet);
                session.tick(at(ms + 1));
            }
        }
    }
}
