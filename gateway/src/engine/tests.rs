#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::direction::Direction;
use super::owners::ConnectionOwner;
use super::poll::{Epoll, EventFlags, Events, Token, Trigger};
use super::side::Side;
use super::slab::Slab;
use crate::counters::Counter;

/// What a slab is told.
#[derive(Clone, Debug)]
enum Act {
    Insert(ConnectionOwner),
    Remove(usize),
    Enlist(usize, u8),
    Delist(usize),
    Due(u8, u64),
    Reclaim,
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_u32, 0..3_u32).prop_map(|(port, place)| Act::Insert(ConnectionOwner { port, place })),
        2 => any::<usize>().prop_map(Act::Remove),
        4 => (any::<usize>(), 0..3_u8).prop_map(|(at, list)| Act::Enlist(at, list)),
        1 => any::<usize>().prop_map(Act::Delist),
        2 => (0..3_u8, 0..50_u64).prop_map(|(list, after)| Act::Due(list, after)),
        1 => Just(Act::Reclaim),
        2 => (0..20_u64).prop_map(Act::Pass),
    ]
}

#[test]
fn memory_for_connections_follows_those_that_there_are() {
    let mut slab: Slab<u64, 3> = Slab::new();
    let owner = ConnectionOwner { port: 1, place: 1 };
    // A few that stay, as many as in one second of a busy hour, and a peak.
    for _ in 0..3 {
        let numbers: Vec<u32> = (0..100_000).map(|n| slab.insert(n, owner)).collect();
        assert!(slab.capacity() >= 100_000);
        let (stay, go) = numbers.split_at(100);
        for number in go {
            slab.remove(*number);
        }
        slab.reclaim();
        assert_eq!(slab.len(), 100);
        assert!(slab.capacity() <= 2_000, "memory for {}", slab.capacity());
        // What comes next has the lowest numbers: nothing is spread over what the peak had.
        let next = slab.insert(0, owner);
        assert_eq!(next, 100);
        slab.remove(next);
        for number in stay {
            assert!(slab.remove(*number).is_some());
        }
        slab.reclaim();
        assert!(slab.capacity() <= 1_100, "memory for {}", slab.capacity());
    }
}

proptest! {
    /// Against lists as anybody would write them.
    #[test]
    fn a_slab_keeps_values_by_number_and_lists_in_order(acts in prop::collection::vec(act(), 0..400)) {
        let mut slab: Slab<u64, 3> = Slab::new();
        let mut values: BTreeMap<u32, u64> = BTreeMap::new();
        let mut owners: BTreeMap<u32, ConnectionOwner> = BTreeMap::new();
        let mut lists: [Vec<(u32, Instant)>; 3] = Default::default();
        let mut gone: Vec<u32> = Vec::new();
        let mut now = Instant::now();
        let mut next = 0;
        for act in acts {
            let pick = |at: usize| values.keys().nth(at % values.len().max(1)).copied();
            let out = |number: u32, lists: &mut [Vec<(u32, Instant)>; 3]| {
                for list in lists.iter_mut() {
                    list.retain(|(there, _)| *there != number);
                }
            };
            match act {
                Act::Insert(owner) => {
                    let number = slab.insert(next, owner);
                    prop_assert!(!values.contains_key(&number));
                    prop_assert!(!gone.contains(&number), "given out before it was reclaimed");
                    values.insert(number, next);
                    owners.insert(number, owner);
                    next += 1;
                }
                Act::Remove(at) => {
                    if let Some(number) = pick(at) {
                        prop_assert_eq!(slab.remove(number), values.remove(&number));
                        owners.remove(&number);
                        prop_assert!(slab.get(number).is_none());
                        out(number, &mut lists);
                        gone.push(number);
                    }
                }
                Act::Enlist(at, list) => {
                    if let Some(number) = pick(at) {
                        slab.enlist(number, list, now);
                        out(number, &mut lists);
                        lists[usize::from(list)].push((number, now));
                    }
                }
                Act::Delist(at) => {
                    if let Some(number) = pick(at) {
                        slab.delist(number);
                        out(number, &mut lists);
                    }
                }
                Act::Due(list, after) => {
                    let after = Duration::from_millis(after);
                    let first = lists[usize::from(list)].first().copied();
                    let due = first.filter(|(_, since)| now.duration_since(*since) >= after);
                    prop_assert_eq!(slab.due(list, now, after), due.map(|(number, _)| number));
                    if let Some((number, _)) = due {
                        out(number, &mut lists);
                    }
                }
                Act::Reclaim => {
                    slab.reclaim();
                    gone.clear();
                }
                Act::Pass(time) => now += Duration::from_millis(time),
            }
            prop_assert_eq!(slab.len(), values.len());
            for (list, members) in lists.iter().enumerate() {
                let since = members.first().map(|(_, since)| *since);
                prop_assert_eq!(slab.since(u8::try_from(list).unwrap()), since);
            }
            for number in 0..3 {
                let owned = |is: fn(&ConnectionOwner) -> u32| -> BTreeSet<u32> {
                    let owned = owners.iter().filter(|(_, owner)| is(owner) == number);
                    owned.map(|(number, _)| *number).collect()
                };
                let (by_port, by_place) = (slab.of_port(number), slab.of_place(number));
                prop_assert_eq!(by_port.len() + by_place.len(), owned(|o| o.port).len() + owned(|o| o.place).len());
                prop_assert_eq!(BTreeSet::from_iter(by_port), owned(|owner| owner.port));
                prop_assert_eq!(BTreeSet::from_iter(by_place), owned(|owner| owner.place));
            }
        }
        for (number, value) in values {
            prop_assert_eq!(slab.get(number).copied(), Some(value));
        }
    }
}

/// Waits for so long at most; what is said of the one socket that is watched.
fn said(poll: &Epoll, events: &mut Events, limit: Duration) -> Option<EventFlags> {
    events.wait(poll, Some(limit)).unwrap();
    events.get(0).map(|(_, flags)| flags)
}

#[test]
fn a_side_that_is_not_read_on_says_once_more_that_something_came_and_then_when_all_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let (poll, mut events, token) = (Epoll::new().unwrap(), Events::new(), Token::Client(7));
    let (now, long) = (Duration::ZERO, Duration::from_secs(20));
    let mut side = Side::of_endpoint(socket.try_clone().unwrap().into());
    poll.add(&side.socket, token, Trigger::Edge).unwrap();
    assert!(
        side.note(said(&poll, &mut events, long).unwrap()),
        "there is room to write"
    );

    // What nobody reads is news once.
    client.write_all(b"1").unwrap();
    assert!(side.note(said(&poll, &mut events, long).unwrap()));
    client.write_all(b"2").unwrap();
    assert!(!side.note(said(&poll, &mut events, long).unwrap()));
    side.mute(token, &poll);
    client.write_all(b"3").unwrap();
    // It has come, as it can be read, and nothing was said.
    let mut all = [0; 3];
    socket.read_exact(&mut all).unwrap();
    assert_eq!((&all, said(&poll, &mut events, now)), (b"123", None));

    // As long as something is there, nothing changes; once all is read, what came meanwhile is said.
    side.listen(token, &poll).unwrap();
    client.write_all(b"4").unwrap();
    socket.peek(&mut [0]).unwrap();
    assert_eq!(said(&poll, &mut events, now), None);
    side.readable = false;
    side.listen(token, &poll).unwrap();
    assert!(side.note(said(&poll, &mut events, long).unwrap()));
    assert!(side.readable);

    // As well where there was no room.
    side.mute(token, &poll);
    assert_eq!(said(&poll, &mut events, now), None);
    side.writable = false;
    side.listen(token, &poll).unwrap();
    assert!(side.note(said(&poll, &mut events, long).unwrap()));
    assert!(side.writable);

    // The end is said in any case.
    side.mute(token, &poll);
    drop(client);
    assert!(side.note(said(&poll, &mut events, long).unwrap()));
    assert!(side.ended);
}

/// Two sides that are well, with nothing to read and room to write.
fn sides() -> (Side, Side) {
    let side = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut side = Side::of_client(socket.into());
        side.readable = false;
        side
    };
    (side(), side())
}

#[test]
fn a_message_that_goes_with_others_leaves_a_direction_as_if_it_had_gone_by_itself() {
    use rustix::io::Errno;
    let bytes = [b'.'; 1000];
    // What was read where 1000 bytes would fit, and whether it is a message to be written.
    for (read, is_message) in [(0, false), (1, true), (999, true), (1000, true)] {
        let ((mut reader, mut writer), mut direction) = (sides(), Direction::default());
        let is_to_be_written = direction.batch_read(read, 1000, &mut reader, &mut writer);
        assert_eq!(is_to_be_written, is_message, "{read}");
        assert_eq!(reader.ended, read == 0, "{read}");
        assert_eq!(reader.readable, read == 1000, "more may be there: {read}");
        assert!(
            !direction.has_ended(),
            "the end is said by a read by itself"
        );
    }
    // What became of writing it; what is counted; is there more to do; does the writer take more; is
    // nothing kept.
    let cases = [
        (Some(Ok(1000)), 1000, false, true, true),
        (Some(Ok(300)), 300, true, true, false),
        (Some(Err(Errno::AGAIN)), 0, true, false, false),
        (Some(Err(Errno::INTR)), 0, true, true, false),
        (Some(Err(Errno::PIPE)), 0, true, true, false),
        (None, 0, true, true, false),
    ];
    for (result, counted, more, writable, is_brief) in cases {
        let ((mut reader, mut writer), mut direction) = (sides(), Direction::default());
        let counter = Counter::default();
        assert!(direction.batch_read(1000, 2000, &mut reader, &mut writer));
        let has_more = direction.batch_written(&bytes, result, &reader, &mut writer, &counter);
        let stands = (
            counter.get(),
            has_more,
            writer.writable,
            direction.is_brief(),
        );
        assert_eq!(stands, (counted, more, writable, is_brief), "{result:?}");
    }
}
