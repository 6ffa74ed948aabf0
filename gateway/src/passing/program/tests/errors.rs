//! ICMP errors about what was sent to a client.

use super::sockets::{FAR, Has, OwnConnection, answer, offsets};
use super::*;

const ROUTER: [&str; 2] = ["192.0.2.254", "2001:db8:2::fe"];

/// An error of that type to the sender of a frame, which it quotes.
fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let ip = &quoted[14..];
    let mut frame = [&HERE[..], &CLIENT[..], &quoted[12..14]].concat();
    match ip[0] >> 4 {
        4 => {
            let quoted = &ip[..usize::from(ip[0] & 0xf) * 4 + 8];
            let router: std::net::Ipv4Addr = ROUTER[0].parse().unwrap();
            let mut header = vec![0x45, 0, 0, 28 + quoted.len() as u8, 0, 1, 0, 0, 64, 1, 0, 0];
            header.extend(router.octets());
            header.extend(&ip[12..16]);
            let sum = !sum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend(header);
            frame.extend([kind, 4, 0, 0, 0, 0, 0x05, 0x14]);
            frame.extend(quoted);
        }
        _ => {
            let router: std::net::Ipv6Addr = ROUTER[1].parse().unwrap();
            frame.extend([0x60, 0, 0, 0, 0, 56, 58, 64]);
            frame.extend(router.octets());
            frame.extend(&ip[8..24]);
            frame.extend([kind, 0, 0, 0, 0, 0, 0x05, 0x14]);
            frame.extend(&ip[..48]);
        }
    }
    frame
}

/// What a gateway has sent to the client.
fn sent(from: &str, change: fn(&mut Packet)) -> Vec<u8> {
    let mut packet = Packet::to(from, ACK);
    std::mem::swap(&mut packet.from, &mut packet.to);
    change(&mut packet);
    packet.frame()
}

#[test]
fn an_error_about_a_connection_that_lives_elsewhere_is_passed() {
    let passer = Passer::new();
    let none = |_: &mut Packet| {};
    let table = [
        ("fragmentation needed", error(3, &sent(V4, none)), PASSED),
        ("packet too big", error(2, &sent(V6, none)), PASSED),
        ("time exceeded", error(11, &sent(V4, none)), PASSED),
        ("no route", error(1, &sent(V6, none)), PASSED),
        (
            "about a packet with options",
            error(3, &sent(V4, |it| it.options = 3)),
            PASSED,
        ),
        ("a question", error(8, &sent(V4, none)), TO_KERNEL),
        (
            "a question over IPv6",
            error(128, &sent(V6, none)),
            TO_KERNEL,
        ),
        (
            "about a datagram",
            error(3, &sent(V4, |it| it.protocol = 17)),
            TO_KERNEL,
        ),
        (
            "about a datagram over IPv6",
            error(2, &sent(V6, |it| it.protocol = 17)),
            TO_KERNEL,
        ),
        (
            "about a later fragment",
            error(3, &sent(V4, |it| it.fragment = 3)),
            TO_KERNEL,
        ),
        (
            "of another address",
            error(3, &sent("203.0.113.2:80", none)),
            TO_KERNEL,
        ),
    ];
    for (what, frame, wanted) in table {
        assert_eq!(answer(&passer, &frame), wanted, "{what}");
    }
    // It was sent from another address than the one that hears of the error.
    for (from, at) in [(V4, 14 + 20 + 8 + 15), (V6, 14 + 40 + 8 + 23)] {
        let kind = if from == V4 { 3 } else { 2 };
        let mut frame = error(kind, &sent(from, none));
        frame[at] ^= 1;
        assert_eq!(answer(&passer, &frame), TO_KERNEL, "{from}");
        frame.truncate(at);
        assert_eq!(answer(&passer, &frame), TO_KERNEL, "{from}");
    }
}

#[test]
fn an_error_about_a_connection_here_is_this_hosts() {
    const NAME: &str =
        "passing::program::tests::errors::an_error_about_a_connection_here_is_this_hosts";
    if !in_namespace(NAME) {
        return;
    }
    for (home, kind) in [("127.0.0.1:0", 3), ("[::1]:0", 2)] {
        let passer = Passer::new();
        let own = OwnConnection::new(Has::Established, home);
        // What the client has heard last was sent to it.
        let heard = own.segments().last().unwrap();
        let at = offsets(heard).acknowledged;
        let heard = u32::from_be_bytes(heard[at..at + 4].try_into().unwrap());
        let about = |number| {
            let packet = Packet {
                from: own.address(),
                to: own.client(),
                number,
                ..Packet::to(home, ACK)
            };
            answer(&passer, &error(kind, &packet.frame()))
        };
        assert_eq!(about(heard), TO_KERNEL, "{home}");
        assert_eq!(about(heard.wrapping_sub(9)), TO_KERNEL, "{home}");
        assert_eq!(about(heard.wrapping_add(FAR[0])), PASSED, "{home}");
    }
}
