//! ICMP errors about what was sent to a client (RFC 792, RFC 4443): without «fragmentation needed» and «packet too big»
//! a predecessor would send packets again and again that are too long for the way to the client (RFC 1191, RFC 8201).
//! Routers and clients send them to who owns the address.

use super::stack::{
    AT_ERROR, AT_TCP, AT_TUPLE, ERROR_IPV6, FRAGMENT_OFFSET, NEXT, QUOTED, TCP, TUPLE_IPV6, read,
};
use crate::bpf::instructions::{
    Instruction, R, add, add_register, and, copy, jump, jump_if_equal, jump_if_greater,
    jump_if_same, jump_unless_equal, load8, load16, load32, load64, set, shift_left, store16,
    store32, store64,
};

/// Destination unreachable, time exceeded, parameter problem.
const UNREACHABLE: i32 = 3;
const EXCEEDED: i32 = 11;
const PARAMETER: i32 = 12;

/// All types of ICMPv6 up to this are errors.
const LAST_ERROR: i32 = 127;

/// Where the packet begins that an error quotes.
const QUOTE: i16 = 8;

/// Reads an error at the offset in R8, with a tuple of R7 bytes that has the addresses of the packet itself. The tuple is
/// that of the connection then, and what was sent has the place of an acknowledgement (`AT_TCP`); R8 is 1.
pub(super) fn read_error(code: &mut Vec<Instruction>, labels: &mut Vec<(i16, usize)>) {
    use R::{R0, R1, R2, R7, R8, R10};
    const QUOTED_IP: i16 = AT_ERROR + QUOTE;
    code.extend([
        set(R2, 0),
        store64(R10, AT_TCP, R2),
        store64(R10, AT_TCP + 8, R2),
        copy(R2, R8),
        jump_if_equal(R7, TUPLE_IPV6, ERROR_IPV6),
    ]);
    read(code, AT_ERROR, i32::from(QUOTE) + 20);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load8(R2, R10, AT_ERROR),
        jump_if_equal(R2, UNREACHABLE, 3),
        jump_if_equal(R2, EXCEEDED, 2),
        jump_if_equal(R2, PARAMETER, 1),
        jump(NEXT),
        load8(R2, R10, QUOTED_IP + 9),
        jump_unless_equal(R2, TCP, NEXT),
        load16(R2, R10, QUOTED_IP + 6),
        and(R2, FRAGMENT_OFFSET),
        jump_unless_equal(R2, 0, NEXT),
        // It was sent from the address that the error is for.
        load32(R1, R10, QUOTED_IP + 12),
        load32(R2, R10, AT_TUPLE + 4),
        jump_if_same(R1, R2, 1),
        jump(NEXT),
        load32(R2, R10, QUOTED_IP + 16),
        store32(R10, AT_TUPLE, R2),
        load8(R2, R10, QUOTED_IP),
        and(R2, 0xf),
        shift_left(R2, 2),
        add_register(R2, R8),
        add(R2, QUOTE.into()),
    ]);
    read(code, AT_TCP, 8);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load16(R2, R10, AT_TCP + 2),
        store16(R10, AT_TUPLE + 8, R2),
        load16(R2, R10, AT_TCP),
        store16(R10, AT_TUPLE + 10, R2),
        jump(QUOTED),
    ]);
    labels.push((ERROR_IPV6, code.len()));
    read(code, AT_ERROR, i32::from(QUOTE) + 40);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load8(R2, R10, AT_ERROR),
        jump_if_greater(R2, LAST_ERROR, NEXT),
        load8(R2, R10, QUOTED_IP + 6),
        jump_unless_equal(R2, TCP, NEXT),
    ]);
    for half in [0, 8] {
        code.extend([
            load64(R1, R10, QUOTED_IP + 8 + half),
            load64(R2, R10, AT_TUPLE + 16 + half),
            jump_if_same(R1, R2, 1),
            jump(NEXT),
            load64(R2, R10, QUOTED_IP + 24 + half),
            store64(R10, AT_TUPLE + half, R2),
        ]);
    }
    code.extend([copy(R2, R8), add(R2, i32::from(QUOTE) + 40)]);
    read(code, AT_TCP, 8);
    code.extend([
        jump_unless_equal(R0, 0, NEXT),
        load16(R2, R10, AT_TCP + 2),
        store16(R10, AT_TUPLE + 32, R2),
        load16(R2, R10, AT_TCP),
        store16(R10, AT_TUPLE + 34, R2),
    ]);
    labels.push((QUOTED, code.len()));
    code.extend([
        load32(R2, R10, AT_TCP + 4),
        store32(R10, AT_TCP + 8, R2),
        set(R8, 1),
    ]);
}
