//! The BPF program that the kernel runs for each new connection, as instructions.
//!
//! ```text
//! key = address and port that the client asks for, and the protocol
//! place = places[key]            none: the kernel looks for a socket as usual
//!                                REFUSED: the connection is counted and refused
//!                                COUNTED: it is counted, and the kernel looks for a socket as usual
//!                                (neither is counted where inquiry[0] is not 0)
//! where the place has an owner:
//!     block = blocks[owner, client]  there, and its time is not over: the connection is counted and refused
//!                                (not where inquiry[0] is not 0)
//! socket = sockets[place]        none: the kernel looks for a socket as usual
//! assign(socket)                 the kernel takes one of its SO_REUSEPORT group
//! ```
//!
//! The kernel runs it, too, when another program asks whether there is a socket (`crate::passing`): then no client is
//! there to be refused. That program says so by a number that each processor has for itself.
//!
//! What the program is given: `struct bpf_sk_lookup` of linux/bpf.h.

use std::net::{IpAddr, SocketAddr};

use fairway_config::net::Protocol;
use fairway_gateway_core::client_network::ClientNetwork;

use crate::bpf::instructions::{
    Instruction, MAP_LOOKUP_ELEM, R, SK_RELEASE, add, add_atomically64, add_register, call, copy,
    exit, jump, jump_if_equal, jump_if_greater_than, jump_unless_equal, load32, load64, map, set,
    set_jumps, shift_left, store16, store32, store64, swap32,
};

/// Bytes of a [`key`].
pub(super) const KEY: usize = 20;

/// Placeholders for jump targets: the kernel looks for a socket itself, the connection is refused, and it is counted
/// before the kernel looks for a socket itself; to count, and not to.
const PASS: i16 = i16::MAX;
const REFUSE: i16 = i16::MAX - 1;
const COUNT_AND_PASS: i16 = i16::MAX - 2;
const COUNT_ONE: i16 = i16::MAX - 3;
const ANSWER: i16 = i16::MAX - 4;
const STEER: i16 = i16::MAX - 5;

/// In place of a kind of sockets: connections to this key are counted and refused.
pub(super) const REFUSED: u32 = i32::MAX.cast_unsigned();

/// In place of a kind of sockets: connections to this key are counted. The kernel refuses them where nobody listens.
pub(super) const COUNTED: u32 = REFUSED - 1;

/// Bytes of a [`value`], and the offsets of the owner and the two counts in it.
pub(super) const VALUE: usize = 24;
const OWNER: i16 = 4;
const COUNT: i16 = 8;
const SECOND_COUNT: i16 = 16;

/// The value of a key in the map: the kind of sockets, whose clients may be blocked (0: nobody's), and how many
/// connections were counted: of a closed key, or of clients that are blocked for their connections; and of those that
/// are for their rate.
pub(super) fn value(kind: u32, owner: u32) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    let bytes = kind.to_ne_bytes().into_iter().chain(owner.to_ne_bytes());
    for (to, from) in value.iter_mut().zip(bytes) {
        *to = from;
    }
    value
}

/// The kind of sockets of a key with this value; none where it is closed.
pub(super) fn kind(value: [u8; VALUE]) -> Option<u32> {
    let kind = value.first_chunk::<4>().copied().map(u32::from_ne_bytes);
    kind.filter(|kind| !matches!(*kind, REFUSED | COUNTED))
}

/// How many connections of blocked clients were counted at a key with this value: for their number, and for their rate.
pub(super) fn blocked(value: [u8; VALUE]) -> [u64; 2] {
    let number = |at: i16| {
        let at = usize::from(at.unsigned_abs());
        let bytes = value.get(at..).and_then(|rest| rest.first_chunk::<8>());
        bytes.copied().map_or(0, u64::from_ne_bytes)
    };
    [number(COUNT), number(SECOND_COUNT)]
}

/// Bytes of a [`block_key`] and of a [`block_value`].
pub(super) const BLOCK_KEY: usize = 16;
pub(super) const BLOCK_VALUE: usize = 16;

/// The key of a client that an owner blocks, by [`ClientNetwork::number`].
pub(super) fn block_key(owner: u32, client: ClientNetwork) -> [u8; BLOCK_KEY] {
    halves(owner.into(), client.number())
}

/// Until when a client is blocked, in nanoseconds of the monotonic clock, and whether that is for its rate.
pub(super) fn block_value(until: u64, is_rate: bool) -> [u8; BLOCK_VALUE] {
    halves(until, is_rate.into())
}

fn halves(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let both = first.to_ne_bytes().into_iter().chain(second.to_ne_bytes());
    for (to, from) in bytes.iter_mut().zip(both) {
        *to = from;
    }
    bytes
}

/// How many connections to a key with this value were counted; none where they are steered.
pub(super) fn counted(value: [u8; VALUE]) -> Option<u64> {
    let [count, _] = blocked(value);
    kind(value).is_none().then_some(count)
}

/// The helper that gives a connection to a socket, and the one that reads the monotonic clock, by their numbers in
/// linux/bpf.h.
const SK_ASSIGN: i32 = 124;
const KTIME_GET_NS: i32 = 5;

/// `SK_DROP` and `SK_PASS` of linux/bpf.h.
const SK_DROP: i32 = 0;
const SK_PASS: i32 = 1;

/// Fields of `struct bpf_sk_lookup`.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const REMOTE_IP4: i16 = 16;
const REMOTE_IP6: i16 = 20;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;
const LOCAL_PORT: i16 = 60;

/// `AF_INET` of linux/socket.h.
const INET: i32 = 2;

/// The offsets of the key and of the number of a socket on the stack.
const AT_KEY: i16 = -24;
const AT_PLACE: i16 = -32;
const AT_BLOCK: i16 = -48;
const AT_INQUIRY: i16 = -56;

/// The key of a listen address and protocol, as [`program`] makes it: the address as 16 bytes (an IPv4 address in the
/// first four), the port in the machine's byte order, and the number of the protocol.
pub(super) fn key(listen: SocketAddr, protocol: Protocol) -> [u8; KEY] {
    let mut address = [0; 16];
    match listen.ip() {
        IpAddr::V4(ip) => {
            for (to, from) in address.iter_mut().zip(ip.octets()) {
                *to = from;
            }
        }
        IpAddr::V6(ip) => address = ip.octets(),
    }
    let protocol: u16 = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let mut key = [0; KEY];
    let bytes = address
        .into_iter()
        .chain(listen.port().to_ne_bytes())
        .chain(protocol.to_ne_bytes());
    for (to, from) in key.iter_mut().zip(bytes) {
        *to = from;
    }
    key
}

/// The file descriptors of the program's maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct SteeringMaps {
    /// From key to kind of sockets.
    pub(super) places: i32,
    /// From kind to socket.
    pub(super) sockets: i32,
    /// From owner and client to the end of a block.
    pub(super) blocks: i32,
    /// One number of each processor: not 0 while another program asks for a socket.
    pub(super) inquiry: i32,
}

/// The program.
pub(super) fn program(maps: SteeringMaps) -> Vec<Instruction> {
    use R::{R0, R1, R2, R3, R6, R7, R8, R10};
    let mut code = vec![
        // The program's argument is in R1, which calls overwrite.
        copy(R6, R1),
        // The key: zeroes first, then its parts.
        set(R2, 0),
        store64(R10, AT_KEY, R2),
        store64(R10, AT_KEY + 8, R2),
        load32(R2, R6, FAMILY),
        jump_unless_equal(R2, INET, 3),
        // IPv4.
        load32(R2, R6, LOCAL_IP4),
        store32(R10, AT_KEY, R2),
        jump(8),
        // IPv6.
        load32(R2, R6, LOCAL_IP6),
        store32(R10, AT_KEY, R2),
        load32(R2, R6, LOCAL_IP6 + 4),
        store32(R10, AT_KEY + 4, R2),
        load32(R2, R6, LOCAL_IP6 + 8),
        store32(R10, AT_KEY + 8, R2),
        load32(R2, R6, LOCAL_IP6 + 12),
        store32(R10, AT_KEY + 12, R2),
        // Both.
        load32(R2, R6, LOCAL_PORT),
        store16(R10, AT_KEY + 16, R2),
        load32(R2, R6, PROTOCOL),
        store16(R10, AT_KEY + 18, R2),
    ];
    code.extend(map(R1, maps.places));
    code.extend([
        copy(R2, R10),
        add(R2, AT_KEY.into()),
        call(MAP_LOOKUP_ELEM),
        jump_if_equal(R0, 0, PASS),
        copy(R7, R0),
        load32(R2, R0, 0),
        jump_if_equal(R2, REFUSED.cast_signed(), REFUSE),
        jump_if_equal(R2, COUNTED.cast_signed(), COUNT_AND_PASS),
        store32(R10, AT_PLACE, R2),
    ]);
    code.extend(refuse_blocked(maps));
    let steer = code.len();
    code.extend(map(R1, maps.sockets));
    code.extend([
        copy(R2, R10),
        add(R2, AT_PLACE.into()),
        call(MAP_LOOKUP_ELEM),
        jump_if_equal(R0, 0, PASS),
        copy(R7, R0),
        copy(R1, R6),
        copy(R2, R7),
        set(R3, 0),
        call(SK_ASSIGN),
        // The lookup took a reference.
        copy(R1, R7),
        call(SK_RELEASE),
    ]);
    let pass = code.len();
    code.extend([set(R0, SK_PASS), exit()]);
    let refuse = code.len();
    code.extend([set(R8, SK_DROP), jump(COUNT_ONE)]);
    let count_and_pass = code.len();
    code.push(set(R8, SK_PASS));
    let count_one = code.len();
    code.extend([set(R2, 0), store32(R10, AT_PLACE, R2)]);
    code.extend(map(R1, maps.inquiry));
    code.extend([
        copy(R2, R10),
        add(R2, AT_PLACE.into()),
        call(MAP_LOOKUP_ELEM),
        jump_if_equal(R0, 0, ANSWER),
        load32(R2, R0, 0),
        jump_unless_equal(R2, 0, ANSWER),
        // R7 points to the value of the place.
        set(R1, 1),
        add_atomically64(R7, COUNT, R1),
    ]);
    let answer = code.len();
    code.extend([copy(R0, R8), exit()]);
    set_jumps(
        &mut code,
        &[
            (PASS, pass),
            (REFUSE, refuse),
            (COUNT_AND_PASS, count_and_pass),
            (COUNT_ONE, count_one),
            (ANSWER, answer),
            (STEER, steer),
        ],
    );
    code
}

/// The part that refuses blocked clients. R6 is the program's argument, R7 points to the value of the place.
fn refuse_blocked(maps: SteeringMaps) -> Vec<Instruction> {
    use R::{R0, R1, R2, R3, R6, R7, R9, R10};
    let mut code = vec![
        load32(R2, R7, OWNER),
        jump_if_equal(R2, 0, STEER),
        // The key: the owner, and the number of the client.
        store64(R10, AT_BLOCK, R2),
        load32(R2, R6, FAMILY),
        jump_unless_equal(R2, INET, 6),
        // IPv4: the address, with a one in front of it.
        load32(R2, R6, REMOTE_IP4),
        swap32(R2),
        set(R3, 1),
        shift_left(R3, 32),
        add_register(R2, R3),
        jump(6),
        // IPv6: its first half.
        load32(R2, R6, REMOTE_IP6),
        swap32(R2),
        shift_left(R2, 32),
        load32(R3, R6, REMOTE_IP6 + 4),
        swap32(R3),
        add_register(R2, R3),
        // Both.
        store64(R10, AT_BLOCK + 8, R2),
    ];
    code.extend(map(R1, maps.blocks));
    code.extend([
        copy(R2, R10),
        add(R2, AT_BLOCK.into()),
        call(MAP_LOOKUP_ELEM),
        jump_if_equal(R0, 0, STEER),
        copy(R9, R0),
        call(KTIME_GET_NS),
        load64(R2, R9, 0),
        jump_if_greater_than(R0, R2, STEER),
        set(R2, 0),
        store32(R10, AT_INQUIRY, R2),
    ]);
    code.extend(map(R1, maps.inquiry));
    code.extend([
        copy(R2, R10),
        add(R2, AT_INQUIRY.into()),
        call(MAP_LOOKUP_ELEM),
        jump_if_equal(R0, 0, STEER),
        load32(R2, R0, 0),
        jump_unless_equal(R2, 0, STEER),
        set(R1, 1),
        load64(R2, R9, 8),
        jump_unless_equal(R2, 0, 2),
        add_atomically64(R7, COUNT, R1),
        jump(1),
        add_atomically64(R7, SECOND_COUNT, R1),
        set(R0, SK_DROP),
        exit(),
    ]);
    code
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::bpf::instructions::has_good_jumps;

    #[test]
    fn keys_of_places_differ_in_everything_that_tells_them_apart() {
        let places: Vec<(SocketAddr, Protocol)> = vec![
            ("192.0.2.1:80".parse().unwrap(), Protocol::Tcp),
            ("192.0.2.1:80".parse().unwrap(), Protocol::Udp),
            ("192.0.2.1:81".parse().unwrap(), Protocol::Tcp),
            ("192.0.2.2:80".parse().unwrap(), Protocol::Tcp),
            ("[2001:db8::1]:80".parse().unwrap(), Protocol::Tcp),
            ("[2001:db8::2]:80".parse().unwrap(), Protocol::Tcp),
        ];
        let keys: std::collections::BTreeSet<_> = places
            .iter()
            .map(|(listen, protocol)| key(*listen, *protocol))
            .collect();
        assert_eq!(keys.len(), places.len());
        assert!(key(places[0].0, Protocol::Tcp).starts_with(&[192, 0, 2, 1, 0]));
    }

    #[test]
    fn a_value_says_how_many_clients_were_counted() {
        assert_eq!(counted(value(0, 0)), None);
        for closed in [REFUSED, COUNTED] {
            let mut value = value(closed, 0);
            assert_eq!(counted(value), Some(0));
            value[8..16].copy_from_slice(&7_u64.to_ne_bytes());
            assert_eq!(counted(value), Some(7));
            assert_eq!(kind(value), None);
        }
        let mut value = value(3, 9);
        value[8..16].copy_from_slice(&7_u64.to_ne_bytes());
        value[16..].copy_from_slice(&5_u64.to_ne_bytes());
        assert_eq!((kind(value), blocked(value)), (Some(3), [7, 5]));
    }

    #[test]
    fn every_jump_stays_in_the_program() {
        let maps = SteeringMaps {
            places: 3,
            sockets: 4,
            blocks: 5,
            inquiry: 6,
        };
        assert!(has_good_jumps(&program(maps)));
    }
}
