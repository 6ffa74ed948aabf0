//! The BPF program that the kernel runs for each packet which arrives on a segment, as instructions.
//!
//! ```text
//! not to this host, tagged, not TCP, or not the first fragment:  the kernel takes it
//! hardware = passed[destination and interface]    none: the kernel takes it
//! SYN without ACK:                                 begun[client and listen address] = its number + 1; the kernel takes it
//! a socket is found that does not listen:          the kernel takes it
//! begun[client and listen address] = its number:   the kernel takes it
//! it has no hops left:                             the kernel takes it
//! else:                                            one hop less, count, on to `hardware` by the same interface
//! ```
//!
//! A connection that was accepted by a SYN cookie has no socket until its client answers (tcp_syncookies of
//! Documentation/networking/ip-sysctl.rst). That answer has the number behind the one of the SYN: this is what `begun`
//! is for. (The helper that checks cookies is only for programs under the GPL.)
//!
//! What a packet is passed on has few hops left, whatever it came with, so that one that no gateway knows ends soon
//! even where each of two passes to the other for a moment.
//!
//! What the program is given: `struct __sk_buff` of linux/bpf.h.

use std::net::IpAddr;

use fairway_gateway_core::layer2::HardwareAddress;

use crate::bpf::instructions::{
    Instruction, MAP_LOOKUP_ELEM, R, SK_RELEASE, add, add_atomically64, and, call, copy, exit,
    jump, jump_if_equal, jump_if_greater, jump_if_same, jump_unless_equal, load8, load16, load32,
    load64, map, set, set_jumps, shift_left, store8, store16, store32, store64, swap32,
};

/// Bytes of a [`key`].
pub(super) const KEY: usize = 20;

/// Bytes of a [`value`].
pub(super) const VALUE: usize = 8;

/// Bytes of the addresses and ports of a connection: `struct bpf_sock_tuple` of linux/bpf.h.
pub(super) const TUPLE: usize = 36;

/// The most gateways that a packet is passed on by.
const HOPS: i32 = 8;

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

/// The value of a key: where packets are passed to.
pub(super) fn value(hardware: HardwareAddress) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    for (to, from) in value.iter_mut().zip(hardware.0) {
        *to = from;
    }
    value
}

/// The file descriptors of the program's maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassingMaps {
    /// From key to value.
    pub(super) passed: i32,
    /// From the addresses and ports of a connection to the number behind that of its SYN.
    pub(super) begun: i32,
    /// How many packets were passed.
    pub(super) count: i32,
    /// By which the program that steers knows that no client asks: [`crate::steering`].
    pub(super) inquiry: i32,
}

/// Placeholders for jump targets.
const NEXT: i16 = i16::MAX;
const DROP: i16 = i16::MAX - 1;
const IPV6: i16 = i16::MAX - 2;
const LOOK: i16 = i16::MAX - 3;
const PORTS_IPV6: i16 = i16::MAX - 4;
const FLAGS: i16 = i16::MAX - 5;
const KNOWN: i16 = i16::MAX - 6;
const UNKNOWN: i16 = i16::MAX - 7;
const ON: i16 = i16::MAX - 8;
const ON_IPV6: i16 = i16::MAX - 9;
const ADDRESS: i16 = i16::MAX - 10;
const SEND: i16 = i16::MAX - 11;

/// Helpers, by their numbers in linux/bpf.h.
const MAP_UPDATE_ELEM: i32 = 2;
const SKB_STORE_BYTES: i32 = 9;
const L3_CSUM_REPLACE: i32 = 10;
const REDIRECT: i32 = 23;
const SKB_LOAD_BYTES: i32 = 26;
const SKB_LOAD_BYTES_RELATIVE: i32 = 68;
const SKC_LOOKUP_TCP: i32 = 99;

/// `BPF_HDR_START_NET`, `BPF_F_CURRENT_NETNS`, `BPF_F_RECOMPUTE_CSUM`, `TCP_LISTEN`.
const FROM_NETWORK_HEADER: i32 = 1;
const THIS_NAMESPACE: i32 = -1;
const RECOMPUTE: i32 = 1;
const LISTENS: i32 = 10;

/// Answers: `TCX_NEXT`, `TCX_DROP`.
const TO_NEXT: i32 = -1;
const TO_NOBODY: i32 = 2;

/// Fields of `struct __sk_buff`.
const PACKET_TYPE: i16 = 4;
const PROTOCOL: i16 = 16;
const VLAN_TCI: i16 = 24;
const INTERFACE: i16 = 40;

/// The field `state` of `struct bpf_sock`.
const STATE: i16 = 72;

/// EtherTypes as they stand in a frame.
const ETHERTYPE_IPV4: i32 = 0x0800_u16.to_be() as i32;
const ETHERTYPE_IPV6: i32 = 0x86dd_u16.to_be() as i32;

/// The length of an Ethernet header, where the network header begins.
const ETHERNET: i32 = 14;

/// The number of TCP.
const TCP: i32 = 6;

/// The flags SYN and ACK, and SYN alone (RFC 9293, section 3.1).
const SYN_AND_ACK: i32 = 0x12;
const SYN: i32 = 0x02;

/// Offsets on the stack: of the key, the tuple, the network header, the TCP header, both hardware addresses of the
/// frame, and a number.
const AT_KEY: i16 = -24;
const AT_TUPLE: i16 = -64;
const AT_HEADER: i16 = -104;
const AT_TCP: i16 = -120;
const AT_FRAME: i16 = -136;
const AT_NUMBER: i16 = -144;

/// The lengths of the tuples of both families, and where their ports are.
const TUPLE_IPV4: i32 = 12;
const TUPLE_IPV6: i32 = 36;

/// Copies from the network header on, from the offset in R2, to the stack. R0 is 0 then.
fn read(code: &mut Vec<Instruction>, to: i16, length: i32) {
    code.extend([
        copy(R::R1, R::R6),
        copy(R::R3, R::R10),
        add(R::R3, to.into()),
        set(R::R4, length),
        set(R::R5, FROM_NETWORK_HEADER),
        call(SKB_LOAD_BYTES_RELATIVE),
    ]);
}

/// Copies from the stack to an offset in the frame. R0 is 0 then.
fn write(code: &mut Vec<Instruction>, offset: i32, from: i16, length: i32, flags: i32) {
    code.extend([
        copy(R::R1, R::R6),
        set(R::R2, offset),
        copy(R::R3, R::R10),
        add(R::R3, from.into()),
        set(R::R4, length),
        set(R::R5, flags),
        call(SKB_STORE_BYTES),
    ]);
}

/// Looks up what is on the stack. R0 is a pointer to the value, or 0.
fn look_up(code: &mut Vec<Instruction>, of: i32, key: i16) {
    code.extend(map(R::R1, of));
    code.extend([
        copy(R::R2, R::R10),
        add(R::R2, key.into()),
        call(MAP_LOOKUP_ELEM),
    ]);
}

/// The program. R6 is its argument, R7 the length of the tuple, R8 the offset of the TCP header.
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
        load8(R2, R10, AT_HEADER + 9),
        jump_unless_equal(R2, TCP, NEXT),
        load16(R2, R10, AT_HEADER + 6),
        and(R2, 0x1fff_u16.to_be().into()),
        jump_unless_equal(R2, 0, NEXT),
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
        load8(R2, R10, AT_HEADER + 6),
        jump_unless_equal(R2, TCP, NEXT),
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
        copy(R2, R8),
    ]);
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
    code.extend([
        load8(R2, R10, AT_TCP + 13),
        and(R2, SYN_AND_ACK),
        jump_unless_equal(R2, SYN, KNOWN),
        load32(R2, R10, AT_TCP + 4),
        swap32(R2),
        add(R2, 1),
        store32(R10, AT_NUMBER, R2),
    ]);
    code.extend(map(R1, maps.begun));
    code.extend([
        copy(R2, R10),
        add(R2, AT_TUPLE.into()),
        copy(R3, R10),
        add(R3, AT_NUMBER.into()),
        set(R4, 0),
        call(MAP_UPDATE_ELEM),
        jump(NEXT),
    ]);
    labels.push((KNOWN, code.len()));
    // The kernel runs the program that steers in this look-up.
    code.extend([set(R2, 0), store32(R10, AT_NUMBER, R2)]);
    look_up(&mut code, maps.inquiry, AT_NUMBER);
    code.extend([
        jump_if_equal(R0, 0, NEXT),
        copy(R9, R0),
        set(R2, 1),
        store32(R9, 0, R2),
        copy(R1, R6),
        copy(R2, R10),
        add(R2, AT_TUPLE.into()),
        copy(R3, R7),
        set(R4, THIS_NAMESPACE),
        set(R5, 0),
        call(SKC_LOOKUP_TCP),
        set(R2, 0),
        store32(R9, 0, R2),
        jump_if_equal(R0, 0, UNKNOWN),
        load32(R9, R0, STATE),
        copy(R1, R0),
        call(SK_RELEASE),
        jump_unless_equal(R9, LISTENS, NEXT),
    ]);
    labels.push((UNKNOWN, code.len()));
    look_up(&mut code, maps.begun, AT_TUPLE);
    code.extend([
        jump_if_equal(R0, 0, ON),
        load32(R1, R0, 0),
        load32(R2, R10, AT_TCP + 4),
        swap32(R2),
        jump_if_same(R1, R2, NEXT),
    ]);
    labels.push((ON, code.len()));
    code.extend([
        jump_if_equal(R7, TUPLE_IPV6, ON_IPV6),
        load8(R9, R10, AT_HEADER + 8),
    ]);
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
