//! The BPF program that the kernel runs for each packet which arrives on a segment, as instructions.
//!
//! ```text
//! not to this host, tagged, not TCP and no ICMP error:  the kernel takes it
//! hardware = passed[destination and interface]          none: the kernel takes it
//! a later fragment of IPv4:                             as the first one, if that came before
//! an ICMP error:                                        as a packet of the connection that it is about (`errors`)
//! SYN without ACK:                                      begun[client and listen address] = its number + 1; the kernel takes it
//! it belongs to a connection of this host:              the kernel takes it (`connections`)
//! it has no hops left:                                  the kernel takes it
//! else:                                                 one hop less, count, on to `hardware` by the same interface
//! ```
//!
//! What a packet is passed on has few hops left, whatever it came with, so that one that no gateway knows ends soon
//! even where each of two passes to the other for a moment.
//!
//! TCP behind an IPv6 extension header, in an IPv6 fragment too, goes to the kernel: TCP sends no such packets by
//! itself, and routers make no fragments of IPv6 (RFC 8200, section 5).
//!
//! What the program is given: `struct __sk_buff` of linux/bpf.h. [`stack`]: what its parts have in common.

mod connections;
mod errors;
mod stack;

use std::net::IpAddr;

use fairway_gateway_core::layer2::HardwareAddress;

pub(super) use self::stack::PassingMaps;
use self::stack::*;
use crate::bpf::instructions::{
    Instruction, R, add, add_atomically64, and, call, copy, exit, jump, jump_if_equal,
    jump_if_greater, jump_unless_equal, load8, load16, load32, load64, set, set_jumps, shift_left,
    store8, store16, store32, store64, subtract_register,
};

/// Bytes of a [`key`].
pub(super) const KEY: usize = 20;

/// Bytes of a [`value`].
pub(super) const VALUE: usize = 8;

/// Bytes of the addresses and ports of a connection: `struct bpf_sock_tuple` of linux/bpf.h.
pub(super) const TUPLE: usize = 36;

/// Bytes of a record: a number, and which predecessor it was beside.
pub(super) const RECORD: usize = 8;

/// Bytes of the addresses and number of an IPv4 packet.
pub(super) const PACKET: usize = 12;

/// The most gateways that a packet is passed on by.
const HOPS: i32 = 8;

/// How long the fragments of a packet belong together, in nanoseconds: they come one after the other, and their number
/// is used again after 65,536 packets.
const TOGETHER: i32 = 2_000_000_000;

/// The key of an external address on the interface of that number: IPv4 as IPv6 (RFC 4291, section 2.5.5.2).
pub(super) fn key(address: IpAddr, interface: u32) -> [u8; KEY] {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut key = [0; KEY];
    let bytes = octets.into_iter().chain(interface.to_ne_bytes());
    for (to, from) in key.iter_mut().zip(bytes) {
        *to = from;
    }
    key
}

/// The value of a key: where packets are passed to, and which predecessor of this host that is, counted from the first
/// one on.
pub(super) fn value(hardware: HardwareAddress, predecessor: u16) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    let bytes = hardware.0.into_iter().chain(predecessor.to_ne_bytes());
    for (to, from) in value.iter_mut().zip(bytes) {
        *to = from;
    }
    value
}

/// The program. R6 is its argument, R7 the length of the tuple, R8 the offset of the header behind IP, R9 which one that
/// is.
pub(super) fn program(maps: PassingMaps) -> Vec<Instruction> {
    use R::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
    let mut labels = Vec::new();
    let mut code = vec![
        copy(R6, R1),
        // To this host, and in no VLAN of this interface.
        load32(R2, R6, PACKET_TYPE),
        jump_unless_equal(R2, 0, NEXT),
        load32(R2, R6, VLAN_TCI),
        and(R2, 0xfff),
        jump_unless_equal(R2, 0, NEXT),
        load32(R3, R6, INTERFACE),
        set(R2, 0),
        store64(R10, AT_KEY, R2),
        store64(R10, AT_KEY + 8, R2),
        store32(R10, AT_KEY + 16, R3),
        store64(R10, AT_TUPLE, R2),
        store64(R10, AT_TUPLE + 8, R2),
        store64(R10, AT_TUPLE + 16, R2),
        store64(R10, AT_TUPLE + 24, R2),
        store32(R10, AT_TUPLE + 32, R2),
        load32(R2, R6, PROTOCOL),
        jump_if_equal(R2, ETHERTYPE_IPV6, IPV6),
        jump_unless_equal(R2, ETHERTYPE_IPV4, NEXT),
        set(R2, 0),
    ];
    // IPv4 (RFC 791).
    read(&mut code, AT_HEADER, 20);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load8(R9, R10, AT_HEADER + 9),
        load16(R2, R10, AT_HEADER + 6),
        and(R2, FRAGMENT_OFFSET),
        jump_if_equal(R2, 0, WHOLE),
        jump_unless_equal(R9, TCP, NEXT),
        set(R9, LATER_FRAGMENT),
    ]);
    labels.push((WHOLE, code.len()));
    code.extend([
        jump_if_equal(R9, TCP, 3),
        jump_if_equal(R9, ICMP, 2),
        jump_if_equal(R9, LATER_FRAGMENT, 1),
        jump(NEXT),
        set(R2, 0xffff),
        store16(R10, AT_KEY + 10, R2),
        load32(R2, R10, AT_HEADER + 16),
        store32(R10, AT_KEY + 12, R2),
        store32(R10, AT_TUPLE + 4, R2),
        load32(R2, R10, AT_HEADER + 12),
        store32(R10, AT_TUPLE, R2),
        load8(R8, R10, AT_HEADER),
        and(R8, 0xf),
        shift_left(R8, 2),
        set(R7, TUPLE_IPV4),
        jump(LOOK),
    ]);
    labels.push((IPV6, code.len()));
    code.push(set(R2, 0));
    // IPv6 (RFC 8200).
    read(&mut code, AT_HEADER, 40);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load8(R9, R10, AT_HEADER + 6),
        jump_if_equal(R9, TCP, 2),
        jump_if_equal(R9, ICMPV6, 1),
        jump(NEXT),
        load64(R2, R10, AT_HEADER + 8),
        store64(R10, AT_TUPLE, R2),
        load64(R2, R10, AT_HEADER + 16),
        store64(R10, AT_TUPLE + 8, R2),
        load64(R2, R10, AT_HEADER + 24),
        store64(R10, AT_TUPLE + 16, R2),
        store64(R10, AT_KEY, R2),
        load64(R2, R10, AT_HEADER + 32),
        store64(R10, AT_TUPLE + 24, R2),
        store64(R10, AT_KEY + 8, R2),
        set(R8, 40),
        set(R7, TUPLE_IPV6),
    ]);
    labels.push((LOOK, code.len()));
    look_up(&mut code, maps.passed, AT_KEY);
    code.extend([
        jump_if_equal(R0, 0, NEXT),
        load32(R2, R0, 0),
        store32(R10, AT_FRAME, R2),
        load16(R2, R0, 4),
        store16(R10, AT_FRAME + 4, R2),
        load16(R2, R0, 6),
        store32(R10, AT_RECORD + 4, R2),
        jump_if_equal(R9, TCP, SEGMENT),
        jump_if_equal(R9, LATER_FRAGMENT, FRAGMENT),
    ]);
    errors::read_error(&mut code, &mut labels);
    code.push(jump(KNOWN));
    labels.push((FRAGMENT, code.len()));
    name_packet(&mut code);
    look_up(&mut code, maps.fragments, AT_FRAGMENT);
    code.extend([
        jump_if_equal(R0, 0, NEXT),
        load64(R9, R0, 0),
        call(KTIME_GET_NS),
        subtract_register(R0, R9),
        jump_if_greater(R0, TOGETHER, NEXT),
        jump(ON),
    ]);
    labels.push((SEGMENT, code.len()));
    code.push(copy(R2, R8));
    // TCP: ports, number, flags.
    read(&mut code, AT_TCP, 14);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load32(R2, R10, AT_TCP),
        jump_if_equal(R7, TUPLE_IPV6, PORTS_IPV6),
        store32(R10, AT_TUPLE + 8, R2),
        jump(FLAGS),
    ]);
    labels.push((PORTS_IPV6, code.len()));
    code.push(store32(R10, AT_TUPLE + 32, R2));
    labels.push((FLAGS, code.len()));
    code.push(set(R8, 0));
    labels.push((KNOWN, code.len()));
    connections::decide(&mut code, &mut labels, &maps);
    labels.push((ON, code.len()));
    code.extend([
        jump_if_equal(R7, TUPLE_IPV6, ON_IPV6),
        load16(R2, R10, AT_HEADER + 6),
        and(R2, MORE_FRAGMENTS),
        jump_if_equal(R2, 0, FIRST),
        call(KTIME_GET_NS),
        store64(R10, AT_MOMENT, R0),
    ]);
    name_packet(&mut code);
    update(&mut code, maps.fragments, AT_FRAGMENT, AT_MOMENT);
    labels.push((FIRST, code.len()));
    code.push(load8(R9, R10, AT_HEADER + 8));
    take_a_hop(&mut code);
    code.extend([
        // The header checksum is over words: the hops and the protocol are one.
        load16(R3, R10, AT_HEADER + 8),
        store8(R10, AT_HEADER + 8, R9),
        load16(R4, R10, AT_HEADER + 8),
        copy(R1, R6),
        set(R2, ETHERNET + 10),
        set(R5, 2),
        call(L3_CSUM_REPLACE),
        jump_unless_equal(R0, 0, DROP),
    ]);
    write(&mut code, ETHERNET + 8, AT_HEADER + 8, 1, 0);
    code.push(jump(ADDRESS));
    labels.push((ON_IPV6, code.len()));
    code.push(load8(R9, R10, AT_HEADER + 7));
    take_a_hop(&mut code);
    code.push(store8(R10, AT_HEADER + 7, R9));
    write(&mut code, ETHERNET + 7, AT_HEADER + 7, 1, RECOMPUTE);
    labels.push((ADDRESS, code.len()));
    code.extend([
        jump_unless_equal(R0, 0, DROP),
        // Who was the destination is the source.
        copy(R1, R6),
        set(R2, 0),
        copy(R3, R10),
        add(R3, (AT_FRAME + 6).into()),
        set(R4, 6),
        call(SKB_LOAD_BYTES),
        jump_unless_equal(R0, 0, DROP),
    ]);
    write(&mut code, 0, AT_FRAME, 12, 0);
    code.extend([
        jump_unless_equal(R0, 0, DROP),
        set(R2, 0),
        store32(R10, AT_NUMBER, R2),
    ]);
    look_up(&mut code, maps.count, AT_NUMBER);
    code.extend([
        jump_if_equal(R0, 0, SEND),
        set(R1, 1),
        add_atomically64(R0, 0, R1),
    ]);
    labels.push((SEND, code.len()));
    code.extend([
        load32(R1, R6, INTERFACE),
        set(R2, 0),
        call(REDIRECT),
        exit(),
    ]);
    labels.push((NEXT, code.len()));
    code.extend([set(R0, TO_NEXT), exit()]);
    labels.push((DROP, code.len()));
    code.extend([set(R0, TO_NOBODY), exit()]);
    set_jumps(&mut code, &labels);
    code
}

/// Has the key of an IPv4 packet whose fragments belong together.
fn name_packet(code: &mut Vec<Instruction>) {
    use R::{R2, R10};
    code.extend([
        load32(R2, R10, AT_HEADER + 12),
        store32(R10, AT_FRAGMENT, R2),
        load32(R2, R10, AT_HEADER + 16),
        store32(R10, AT_FRAGMENT + 4, R2),
        load16(R2, R10, AT_HEADER + 4),
        store32(R10, AT_FRAGMENT + 8, R2),
    ]);
}

/// Takes one of the hops in R9, and leaves it with a few at most. A packet that has only one goes to the kernel.
fn take_a_hop(code: &mut Vec<Instruction>) {
    code.extend([
        jump_if_greater(R::R9, 1, 1),
        jump(NEXT),
        add(R::R9, -1),
        jump_if_greater(R::R9, HOPS, 1),
        jump(1),
        set(R::R9, HOPS),
    ]);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
