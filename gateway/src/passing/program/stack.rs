//! What the parts of the program have in common: jump targets, helpers, offsets, and what they do on the stack.

use crate::bpf::instructions::{Instruction, MAP_LOOKUP_ELEM, R, add, call, copy, map, set};

/// The file descriptors of the program's maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassingMaps {
    /// From key to value.
    pub(crate) passed: i32,
    /// From the addresses and ports of a connection to a record of it.
    pub(crate) begun: i32,
    /// From the addresses and number of an IPv4 packet whose first fragment was passed to when that was, in nanoseconds.
    pub(crate) fragments: i32,
    /// How many packets were passed.
    pub(crate) count: i32,
    /// By which the program that steers knows that no client asks: [`crate::steering`].
    pub(crate) inquiry: i32,
}

/// Placeholders for jump targets.
pub(super) const NEXT: i16 = i16::MAX;
pub(super) const DROP: i16 = i16::MAX - 1;
pub(super) const IPV6: i16 = i16::MAX - 2;
pub(super) const LOOK: i16 = i16::MAX - 3;
pub(super) const PORTS_IPV6: i16 = i16::MAX - 4;
pub(super) const FLAGS: i16 = i16::MAX - 5;
pub(super) const KNOWN: i16 = i16::MAX - 6;
pub(super) const UNKNOWN: i16 = i16::MAX - 7;
pub(super) const ON: i16 = i16::MAX - 8;
pub(super) const ON_IPV6: i16 = i16::MAX - 9;
pub(super) const ADDRESS: i16 = i16::MAX - 10;
pub(super) const SEND: i16 = i16::MAX - 11;
pub(super) const SEGMENT: i16 = i16::MAX - 12;
pub(super) const FRAGMENT: i16 = i16::MAX - 13;
pub(super) const FIRST: i16 = i16::MAX - 14;
pub(super) const ERROR_IPV6: i16 = i16::MAX - 16;
pub(super) const QUOTED: i16 = i16::MAX - 17;
pub(super) const LISTENING: i16 = i16::MAX - 18;
pub(super) const ENDED: i16 = i16::MAX - 19;
pub(super) const REQUESTED: i16 = i16::MAX - 20;
pub(super) const RECORDED: i16 = i16::MAX - 21;
pub(super) const ACKNOWLEDGED: i16 = i16::MAX - 22;
pub(super) const OWN: i16 = i16::MAX - 23;
pub(super) const FOREIGN: i16 = i16::MAX - 24;
pub(super) const WHOLE: i16 = i16::MAX - 26;

/// Helpers, by their numbers in linux/bpf.h.
pub(super) const MAP_UPDATE_ELEM: i32 = 2;
pub(super) const KTIME_GET_NS: i32 = 5;
pub(super) const SKB_STORE_BYTES: i32 = 9;
pub(super) const L3_CSUM_REPLACE: i32 = 10;
pub(super) const REDIRECT: i32 = 23;
pub(super) const SKB_LOAD_BYTES: i32 = 26;
pub(super) const SKB_LOAD_BYTES_RELATIVE: i32 = 68;
pub(super) const TCP_SOCK: i32 = 96;
pub(super) const SKC_LOOKUP_TCP: i32 = 99;

/// `BPF_HDR_START_NET`, `BPF_F_CURRENT_NETNS`, `BPF_F_RECOMPUTE_CSUM`.
pub(super) const FROM_NETWORK_HEADER: i32 = 1;
pub(super) const THIS_NAMESPACE: i32 = -1;
pub(super) const RECOMPUTE: i32 = 1;

/// Answers: `TCX_NEXT`, `TCX_DROP`.
pub(super) const TO_NEXT: i32 = -1;
pub(super) const TO_NOBODY: i32 = 2;

/// Fields of `struct __sk_buff`.
pub(super) const PACKET_TYPE: i16 = 4;
pub(super) const PROTOCOL: i16 = 16;
pub(super) const VLAN_TCI: i16 = 24;
pub(super) const INTERFACE: i16 = 40;

/// EtherTypes as they stand in a frame.
pub(super) const ETHERTYPE_IPV4: i32 = 0x0800_u16.to_be() as i32;
pub(super) const ETHERTYPE_IPV6: i32 = 0x86dd_u16.to_be() as i32;

/// The length of an Ethernet header, where the network header begins.
pub(super) const ETHERNET: i32 = 14;

/// The numbers of protocols, and of none: a later fragment of TCP.
pub(super) const TCP: i32 = 6;
pub(super) const ICMP: i32 = 1;
pub(super) const ICMPV6: i32 = 58;
pub(super) const LATER_FRAGMENT: i32 = 256;

/// The field of flags and fragment offset (RFC 791): the offset, and that more fragments follow.
pub(super) const FRAGMENT_OFFSET: i32 = 0x1fff_u16.to_be() as i32;
pub(super) const MORE_FRAGMENTS: i32 = 0x2000_u16.to_be() as i32;

/// The flags SYN and ACK, and each alone (RFC 9293, section 3.1).
pub(super) const SYN_AND_ACK: i32 = 0x12;
pub(super) const SYN: i32 = 0x02;
pub(super) const ACK: i32 = 0x10;
pub(super) const FIN: i32 = 0x01;

/// Offsets on the stack: of the key, the tuple, the network header, the TCP header, both hardware addresses of the
/// frame, a number, a record, the begin of an ICMP error with the network header that it quotes, and a fragment's key
/// and value.
pub(super) const AT_KEY: i16 = -24;
pub(super) const AT_TUPLE: i16 = -64;
pub(super) const AT_HEADER: i16 = -104;
pub(super) const AT_TCP: i16 = -120;
pub(super) const AT_FRAME: i16 = -136;
pub(super) const AT_NUMBER: i16 = -144;
pub(super) const AT_RECORD: i16 = -152;
pub(super) const AT_ERROR: i16 = -200;
pub(super) const AT_FRAGMENT: i16 = -216;
pub(super) const AT_MOMENT: i16 = -224;

/// The lengths of the tuples of both families, and where their ports are.
pub(super) const TUPLE_IPV4: i32 = 12;
pub(super) const TUPLE_IPV6: i32 = 36;

/// Copies from the network header on, from the offset in R2, to the stack. R0 is 0 then.
pub(super) fn read(code: &mut Vec<Instruction>, to: i16, length: i32) {
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
pub(super) fn write(code: &mut Vec<Instruction>, offset: i32, from: i16, length: i32, flags: i32) {
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
pub(super) fn look_up(code: &mut Vec<Instruction>, of: i32, key: i16) {
    code.extend(map(R::R1, of));
    code.extend([
        copy(R::R2, R::R10),
        add(R::R2, key.into()),
        call(MAP_LOOKUP_ELEM),
    ]);
}

/// Sets the value of a key, both on the stack.
pub(super) fn update(code: &mut Vec<Instruction>, of: i32, key: i16, value: i16) {
    code.extend(map(R::R1, of));
    code.extend([
        copy(R::R2, R::R10),
        add(R::R2, key.into()),
        copy(R::R3, R::R10),
        add(R::R3, value.into()),
        set(R::R4, 0),
        call(MAP_UPDATE_ELEM),
    ]);
}
