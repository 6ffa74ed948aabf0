//! Which user of this host has made a connection to the admin address.
//!
//! TCP has no `SO_PEERCRED`. But by the loopback address the far end is a socket of this host, and the kernel tells of each
//! TCP socket whose it is (sock_diag(7)): one question, whatever the number of connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of linux/netlink.h.
const REQUEST: u16 = 1;
/// `AF_INET`, `AF_INET6`, `IPPROTO_TCP`.
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
/// `struct nlmsghdr`, and `struct inet_diag_req_v2` behind it.
const HEADER: usize = 16;
const QUESTION: usize = HEADER + 56;
/// Where `struct inet_diag_msg`, behind the header of the answer, has the ports and addresses, and the user.
const PLACE: usize = HEADER + 4;
const PLACE_LENGTH: usize = 2 + 2 + 16 + 16;
const USER: usize = HEADER + 64;

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// The user that has the far end of a TCP connection within this host.
///
/// # Errors
/// The kernel does not say so.
pub(super) fn user_of(peer: SocketAddr, local: SocketAddr) -> io::Result<u32> {
    let flags = SocketFlags::CLOEXEC;
    let asking: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&asking, Timeout::Recv, Some(PATIENCE))?;
    let question = question(peer, local);
    send(&asking, &question, SendFlags::empty())?;
    let mut room = [0; 1024];
    let (_, length) = recv(&asking, &mut room, RecvFlags::empty())?;
    let answer = room.get(..length).unwrap_or_default();
    user_in(answer, &question).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The question for the socket whose own address is `peer`, and that is connected to `local`.
fn question(peer: SocketAddr, local: SocketAddr) -> [u8; QUESTION] {
    let (from, to) = (peer.ip().to_canonical(), local.ip().to_canonical());
    let family = if from.is_ipv4() { INET } else { INET6 };
    let parts: [&[u8]; 14] = [
        &(QUESTION as u32).to_ne_bytes(),
        &BY_FAMILY.to_ne_bytes(),
        &REQUEST.to_ne_bytes(),
        // Sequence and sender: there is one question.
        &[0; 8],
        &[family, TCP, 0, 0],
        // In any state.
        &u32::MAX.to_ne_bytes(),
        &peer.port().to_be_bytes(),
        &local.port().to_be_bytes(),
        &sixteen(from),
        &sixteen(to),
        // At any interface, and with any cookie.
        &[0; 4],
        &u32::MAX.to_ne_bytes(),
        &u32::MAX.to_ne_bytes(),
        &[],
    ];
    let mut question = [0; QUESTION];
    for (to, from) in question.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    question
}

/// An address in 16 bytes; an IPv4 one in the first four of them.
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The user in the answer to a question. None: it is another answer. (Where there is no such connection the kernel tells
/// of a socket that listens at the address.)
fn user_in(answer: &[u8], question: &[u8; QUESTION]) -> Option<u32> {
    let kind = answer.get(4..6)?;
    let asked = question.get(HEADER + 8..HEADER + 8 + PLACE_LENGTH)?;
    let told = answer.get(PLACE..PLACE + PLACE_LENGTH)?;
    let user = answer.get(USER..)?.first_chunk()?;
    (kind == BY_FAMILY.to_ne_bytes() && asked == told).then(|| u32::from_ne_bytes(*user))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_user_of_a_connection_is_known() {
        for (listens, dials) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            let Ok(listener) = TcpListener::bind(listens) else {
                // There is no IPv6 here.
                continue;
            };
            let dials: IpAddr = dials.parse().unwrap();
            let to = SocketAddr::new(dials, listener.local_addr().unwrap().port());
            let client = TcpStream::connect(to).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(
                user_of(peer, server.local_addr().unwrap()).unwrap(),
                own,
                "{listens}"
            );
            // Nobody has that one: the listener itself must not be taken for it.
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert!(user_of(nobody, server.local_addr().unwrap()).is_err());
            drop(client);
        }
    }

    #[test]
    fn another_answer_says_nothing() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let question = question(at("127.0.0.1:4711"), at("127.0.0.1:9901"));
        let mut answer = vec![0; 88];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer[PLACE..PLACE + PLACE_LENGTH]
            .copy_from_slice(&question[HEADER + 8..HEADER + 8 + PLACE_LENGTH]);
        answer[USER..USER + 4].copy_from_slice(&1000_u32.to_ne_bytes());
        assert_eq!(user_in(&answer, &question), Some(1000));
        for length in [0, 20, USER, USER + 3] {
            assert_eq!(user_in(&answer[..length], &question), None);
        }
        answer[PLACE + 1] ^= 1;
        assert_eq!(user_in(&answer, &question), None, "another port");
        answer[PLACE + 1] ^= 1;
        answer[4] = 2;
        assert_eq!(user_in(&answer, &question), None, "an error");
    }
}
