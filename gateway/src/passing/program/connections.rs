//! Whether a packet belongs to a connection of this host.
//!
//! A socket with the addresses and ports of the packet is no evidence. It may be what is left of a former connection:
//! one that was ended while its address was at another gateway, so that this host has never heard the client's last
//! word; then the client has used the same port for the connection that lives at the predecessor now. The
//! numbers of a segment tell (RFC 9293, section 3.10.7.4): each connection begins with numbers of its own. The
//! bounds here are wider than those of the kernel, for what is passed by mistake is reset there: all that the client has
//! sent or may send, and all that was sent to it.
//!
//! The kernel shows no numbers of a connection in TIME-WAIT or SYN-RECEIVED, nor is there a socket for one that was
//! accepted by a SYN cookie (tcp_syncookies of Documentation/networking/ip-sysctl.rst). So there is a record of
//! each connection that begins here or is ended by its client while packets are passed. (Helpers that check cookies or show
//! those sockets are only for programs under the GPL.) A record counts for one predecessor alone: since another one
//! has had the address, a client may have used the same port there.

use super::stack::{
    ACK, ACKNOWLEDGED, AT_NUMBER, AT_RECORD, AT_TCP, AT_TUPLE, ENDED, FIN, FOREIGN, LISTENING,
    NEXT, ON, OWN, PassingMaps, RECORDED, REQUESTED, SKC_LOOKUP_TCP, SYN, SYN_AND_ACK, TCP_SOCK,
    THIS_NAMESPACE, UNKNOWN, look_up, update,
};
use crate::bpf::instructions::{
    Instruction, R, SK_RELEASE, add, add_register, add_register32, and, call, copy, jump,
    jump_if_equal, jump_if_greater, jump_if_greater_than, jump_if_same, jump_unless_equal, load8,
    load32, load64, set, store32, subtract_register32, swap32,
};

/// The field `state` of `struct bpf_sock`, and its values `TCP_SYN_SENT`, `TCP_TIME_WAIT`, `TCP_LISTEN` and
/// `TCP_NEW_SYN_RECV`.
const STATE: i16 = 72;
const SYN_SENT: i32 = 2;
const TIME_WAIT: i32 = 6;
const LISTEN: i32 = 10;
const NEW_SYN_RECV: i32 = 12;

/// Fields of `struct bpf_tcp_sock`.
const RCV_NXT: i16 = 16;
const SND_NXT: i16 = 20;
const SND_UNA: i16 = 24;
const BYTES_RECEIVED: i16 = 80;
const BYTES_ACKED: i16 = 88;

/// The largest window (RFC 7323, section 2.3).
const WINDOW: i32 = 1 << 30;

/// What an acknowledgement may be ahead of `SND_NXT`: the kernel writes that down when a packet has gone, and on another
/// processor the answer may be there by then. A packet has 512 KiB at most.
const AHEAD: i32 = 1 << 20;

/// SYN and FIN have a number, too, and are no bytes; what asks whether a peer lives has one before those.
const NO_BYTES: i32 = 3;

/// The window of a connection that is not established: it is not scaled (RFC 7323, section 2.2).
const FIRST_WINDOW: i32 = 0xffff;

/// Goes to NEXT where the packet belongs to this host, to ON where it does not. R8 is 0 for a segment; else it is an ICMP
/// error, and its number stands where an acknowledgement does: it is of what was sent to the client.
pub(super) fn decide(
    code: &mut Vec<Instruction>,
    labels: &mut Vec<(i16, usize)>,
    maps: &PassingMaps,
) {
    use R::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};
    code.extend([
        load8(R2, R10, AT_TCP + 13),
        and(R2, SYN_AND_ACK),
        jump_unless_equal(R2, SYN, UNKNOWN),
        load32(R2, R10, AT_TCP + 4),
        swap32(R2),
        add(R2, 1),
        store32(R10, AT_RECORD, R2),
    ]);
    update(code, maps.begun, AT_TUPLE, AT_RECORD);
    code.push(jump(NEXT));
    labels.push((UNKNOWN, code.len()));
    // The kernel runs the program that steers in this look-up.
    code.extend([set(R2, 0), store32(R10, AT_NUMBER, R2)]);
    look_up(code, maps.inquiry, AT_NUMBER);
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
        set(R9, 0),
        jump_if_equal(R0, 0, RECORDED),
        copy(R9, R0),
        load32(R1, R9, STATE),
        jump_if_equal(R1, LISTEN, LISTENING),
        jump_if_equal(R1, NEW_SYN_RECV, REQUESTED),
        jump_if_equal(R1, TIME_WAIT, ENDED),
        // This host asks from that address, and knows no numbers yet.
        jump_if_equal(R1, SYN_SENT, OWN),
        copy(R1, R9),
        call(TCP_SOCK),
        jump_if_equal(R0, 0, OWN),
        jump_unless_equal(R8, 0, ACKNOWLEDGED),
        load32(R1, R10, AT_TCP + 4),
        swap32(R1),
        load32(R2, R0, RCV_NXT),
        subtract_register32(R1, R2),
        load64(R2, R0, BYTES_RECEIVED),
    ]);
    bound_before(code);
    code.extend([
        add_register32(R1, R2),
        add(R2, WINDOW),
        jump_if_greater_than(R1, R2, FOREIGN),
        load8(R1, R10, AT_TCP + 13),
        and(R1, ACK),
        jump_if_equal(R1, 0, OWN),
    ]);
    labels.push((ACKNOWLEDGED, code.len()));
    code.extend([
        load32(R1, R10, AT_TCP + 8),
        swap32(R1),
        load32(R3, R0, SND_NXT),
        load32(R2, R0, SND_UNA),
        subtract_register32(R1, R2),
        subtract_register32(R3, R2),
        load64(R2, R0, BYTES_ACKED),
    ]);
    bound_before(code);
    code.extend([
        add_register32(R1, R2),
        add_register(R3, R2),
        add(R3, AHEAD),
        jump_if_greater_than(R1, R3, FOREIGN),
    ]);
    labels.push((OWN, code.len()));
    code.extend([
        copy(R1, R9),
        call(SK_RELEASE),
        jump_unless_equal(R8, 0, NEXT),
        load8(R1, R10, AT_TCP + 13),
        and(R1, FIN),
        jump_if_equal(R1, 0, NEXT),
        load32(R1, R10, AT_TCP + 4),
        swap32(R1),
        store32(R10, AT_RECORD, R1),
    ]);
    update(code, maps.begun, AT_TUPLE, AT_RECORD);
    code.push(jump(NEXT));
    let release = [copy(R1, R9), call(SK_RELEASE)];
    labels.push((FOREIGN, code.len()));
    code.extend(release);
    code.push(jump(ON));
    // How far behind the record a number may be.
    labels.push((LISTENING, code.len()));
    code.extend(release);
    code.extend([set(R9, 0), jump(RECORDED)]);
    labels.push((REQUESTED, code.len()));
    code.extend(release);
    code.extend([set(R9, FIRST_WINDOW), jump(RECORDED)]);
    labels.push((ENDED, code.len()));
    code.extend(release);
    code.push(set(R9, -1));
    labels.push((RECORDED, code.len()));
    // An ICMP error does no harm where nobody knows it.
    code.push(jump_unless_equal(R8, 0, ON));
    look_up(code, maps.begun, AT_TUPLE);
    code.extend([
        jump_if_equal(R0, 0, ON),
        load32(R1, R0, 4),
        load32(R2, R10, AT_RECORD + 4),
        jump_if_same(R1, R2, 1),
        jump(ON),
        load32(R1, R0, 0),
        load32(R2, R10, AT_TCP + 4),
        swap32(R2),
        subtract_register32(R2, R1),
        jump_if_greater_than(R2, R9, ON),
        jump(NEXT),
    ]);
}

/// R2: bytes that went one way. How far a number may be before the present one is in R2 then.
fn bound_before(code: &mut Vec<Instruction>) {
    code.extend([
        add(R::R2, NO_BYTES),
        jump_if_greater(R::R2, WINDOW, 1),
        jump(1),
        set(R::R2, WINDOW),
    ]);
}
