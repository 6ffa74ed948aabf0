//! Packets where this host has a socket with the addresses and ports of the packet: one of its own connection, or what
//! is left of a former one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::*;

/// Offsets in a frame without options.
pub(super) struct FrameOffsets {
    pub(super) ports: usize,
    pub(super) number: usize,
    pub(super) acknowledged: usize,
    pub(super) flags: usize,
}

pub(super) fn offsets(frame: &[u8]) -> FrameOffsets {
    let tcp = match frame[12..14] {
        [0x08, 0x00] => 14 + usize::from(frame[14] & 0xf) * 4,
        _ => 14 + 40,
    };
    FrameOffsets {
        ports: tcp,
        number: tcp + 4,
        acknowledged: tcp + 8,
        flags: tcp + 13,
    }
}

/// The same frame with the number at an offset changed.
fn shifted(frame: &[u8], at: usize, by: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let number = u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    frame[at..at + 4].copy_from_slice(&number.wrapping_add(by).to_be_bytes());
    frame
}

/// Of another connection with the same addresses and ports.
fn foreign(frame: &[u8], by: u32) -> Vec<u8> {
    let at = offsets(frame);
    shifted(&shifted(frame, at.number, by), at.acknowledged, by)
}

/// All that loopback carries.
struct LoopbackTap(Socket);

impl LoopbackTap {
    fn open() -> Self {
        let all = Protocol::from(i32::from(0x0003_u16.to_be()));
        let tap = Socket::new(Domain::PACKET, Type::RAW, Some(all)).unwrap();
        tap.set_nonblocking(true).unwrap();
        tap.set_recv_buffer_size(32 << 20).unwrap();
        Self(tap)
    }

    /// What came from one port to another since it was opened.
    fn frames(&mut self, from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match self.0.read(&mut buffer) {
                Ok(length) => {
                    let frame = &buffer[..length];
                    let is_tcp = matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]);
                    let at = offsets(frame).ports;
                    if is_tcp && frame.get(at..at + 4) == Some(&ports[..]) {
                        frames.push(frame.to_vec());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return frames,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The state of this host's socket, as the kernel shows it (`/proc/net/tcp`).
fn state(own: SocketAddr, client: SocketAddr) -> Option<u8> {
    let table = match own {
        SocketAddr::V4(_) => "/proc/net/tcp",
        SocketAddr::V6(_) => "/proc/net/tcp6",
    };
    let table = std::fs::read_to_string(table).unwrap();
    let ends = |word: &str, at: SocketAddr| word.ends_with(&format!(":{:04X}", at.port()));
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_it = ends(words.next()?, own) && ends(words.next()?, client);
        let state = u8::from_str_radix(words.next()?, 16).ok()?;
        is_it.then_some(state)
    })
}

fn until_state(wanted: u8, own: SocketAddr, client: SocketAddr) {
    let end = Instant::now() + Duration::from_secs(20);
    while state(own, client) != Some(wanted) {
        let now = state(own, client);
        assert!(Instant::now() < end, "{now:?} in place of {wanted}");
        std::thread::yield_now();
    }
}

/// Writes more than a client takes that reads nothing.
fn fill(stream: &mut TcpStream) {
    stream.write_all(&[7; 100_000]).unwrap();
}

/// A client that takes little.
fn small_client(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_000).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// What this host has of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Has {
    Established,
    CloseWait,
    FinWait1,
    FinWait2,
    /// Nobody has the socket any more; the kernel keeps the addresses and ports.
    FinWait2WithoutOwner,
    LastAck,
    TimeWait,
    SynReceived,
}

const ALL: [Has; 8] = [
    Has::Established,
    Has::CloseWait,
    Has::FinWait1,
    Has::FinWait2,
    Has::FinWait2WithoutOwner,
    Has::LastAck,
    Has::TimeWait,
    Has::SynReceived,
];

impl Has {
    /// The number of it in the kernel's table.
    fn number(self) -> u8 {
        match self {
            Self::Established => 1,
            Self::SynReceived => 3,
            Self::FinWait1 => 4,
            Self::FinWait2 | Self::FinWait2WithoutOwner => 5,
            Self::TimeWait => 6,
            Self::CloseWait => 8,
            Self::LastAck => 9,
        }
    }

    /// Whether a program can't know the numbers of such a socket.
    fn hides_numbers(self) -> bool {
        matches!(
            self,
            Self::FinWait2WithoutOwner | Self::TimeWait | Self::SynReceived
        )
    }
}

/// A connection of this host in a state, and what the client has sent on it.
pub(super) struct OwnConnection {
    kept: (TcpListener, Option<TcpStream>, Option<TcpStream>),
    sent: Vec<Vec<u8>>,
}

impl OwnConnection {
    pub(super) fn new(has: Has, home: &str) -> Self {
        let mut tap = LoopbackTap::open();
        let listener = TcpListener::bind(home).unwrap();
        let own = listener.local_addr().unwrap();
        if has == Has::SynReceived {
            wait_for_data(&listener);
        }
        let mut client = small_client(own);
        let from = client.local_addr().unwrap();
        if has == Has::SynReceived {
            until_state(has.number(), own, from);
            let sent = tap.frames(from, own);
            let kept = (listener, None, Some(client));
            return Self { kept, sent };
        }
        let (mut server, _) = listener.accept().unwrap();
        // All that is written is queued.
        SockRef::from(&server)
            .set_send_buffer_size(200_000)
            .unwrap();
        client.write_all(b"a question").unwrap();
        server.read_exact(&mut [0; 10]).unwrap();
        server.write_all(b"an answer").unwrap();
        client.read_exact(&mut [0; 9]).unwrap();
        let (mut server, mut client) = (Some(server), Some(client));
        match has {
            Has::Established | Has::SynReceived => {}
            Has::CloseWait => client.as_ref().unwrap().shutdown(Shutdown::Write).unwrap(),
            Has::FinWait1 => {
                fill(server.as_mut().unwrap());
                server = None;
            }
            Has::FinWait2 => server.as_ref().unwrap().shutdown(Shutdown::Write).unwrap(),
            Has::FinWait2WithoutOwner => server = None,
            Has::LastAck => {
                client.as_ref().unwrap().shutdown(Shutdown::Write).unwrap();
                until_state(Has::CloseWait.number(), own, from);
                fill(server.as_mut().unwrap());
                server = None;
            }
            Has::TimeWait => {
                server = None;
                until_state(Has::FinWait2.number(), own, from);
                client = None;
            }
        }
        until_state(has.number(), own, from);
        let sent = tap.frames(from, own);
        assert!(sent.len() > 3, "{has:?}: {} frames", sent.len());
        let kept = (listener, server, client);
        Self { kept, sent }
    }

    /// What it sent behind its SYN.
    pub(super) fn segments(&self) -> impl Iterator<Item = &Vec<u8>> {
        let is_syn = |frame: &[u8]| frame[offsets(frame).flags] & SYN != 0;
        self.sent.iter().filter(move |it| !is_syn(it))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.kept.0.local_addr().unwrap()
    }

    /// Where the client is, of one that is still there.
    pub(super) fn client(&self) -> SocketAddr {
        self.kept.2.as_ref().unwrap().local_addr().unwrap()
    }

    fn syn(&self) -> &[u8] {
        let is_syn = |frame: &[u8]| frame[offsets(frame).flags] & SYN != 0;
        self.sent.iter().find(|it| is_syn(it)).unwrap()
    }
}

/// The kernel waits for data before there is a connection: `TCP_DEFER_ACCEPT` (tcp(7)).
fn wait_for_data(listener: &TcpListener) {
    let seconds: libc::c_int = 30;
    // SAFETY: the kernel reads the number during the call alone.
    #[expect(unsafe_code, reason = "no crate in use has this option")]
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0);
}

pub(super) fn answer(passer: &Passer, frame: &[u8]) -> u32 {
    bpf::run_on(&passer.program, frame).unwrap().0
}

/// How far the numbers of one connection are from those of another one.
pub(super) const FAR: [u32; 3] = [0x5000_0000, 0x8000_0000, 0xb000_0000];

#[test]
fn what_is_left_of_a_former_connection_takes_no_packet_of_one_that_lives_elsewhere() {
    const NAME: &str = "passing::program::tests::sockets::\
        what_is_left_of_a_former_connection_takes_no_packet_of_one_that_lives_elsewhere";
    if !in_namespace(NAME) {
        return;
    }
    for home in ["127.0.0.1:0", "[::1]:0"] {
        for has in ALL {
            let passer = Passer::new();
            let former = OwnConnection::new(has, home);
            for segment in former.segments() {
                for by in FAR {
                    let frame = foreign(segment, by);
                    let what = format!("{has:?} at {home}: {by:x}");
                    assert_eq!(answer(&passer, &frame), PASSED, "{what}");
                }
                // Only one of the numbers is another connection's by chance.
                if !has.hides_numbers() {
                    let at = offsets(segment);
                    for at in [at.number, at.acknowledged] {
                        let frame = shifted(segment, at, FAR[0]);
                        assert_eq!(answer(&passer, &frame), PASSED, "{has:?} at {home}");
                    }
                }
                // Here is one that listens.
                let mut other = segment.clone();
                let ports = offsets(segment).ports;
                other[ports..ports + 2].copy_from_slice(&[0, 1]);
                assert_eq!(answer(&passer, &other), PASSED, "{has:?} at {home}");
                if has == Has::SynReceived {
                    // It has begun here, and is not the one that lives elsewhere.
                    assert_eq!(answer(&passer, former.syn()), TO_KERNEL);
                    let frame = foreign(segment, FAR[0]);
                    assert_eq!(answer(&passer, &frame), PASSED, "{has:?} at {home}");
                }
            }
        }
    }
}

#[test]
fn every_packet_of_a_connection_here_is_this_hosts_in_any_state() {
    const NAME: &str = "passing::program::tests::sockets::every_packet_of_a_connection_here_is_this_hosts_in_any_state";
    if !in_namespace(NAME) {
        return;
    }
    for home in ["127.0.0.1:0", "[::1]:0"] {
        for has in ALL {
            let passer = Passer::new();
            let own = OwnConnection::new(has, home);
            if has.hides_numbers() {
                assert_eq!(answer(&passer, own.syn()), TO_KERNEL);
            }
            for segment in own.segments() {
                let what = format!("{has:?} at {home}");
                assert_eq!(answer(&passer, segment), TO_KERNEL, "{what}");
                // A keepalive, data that was sent before what is missing, and a reset that acknowledges nothing.
                let at = offsets(segment);
                let mut reset = shifted(segment, at.acknowledged, FAR[0]);
                reset[at.flags] = RST;
                let ahead = shifted(segment, at.number, 50_000);
                assert_eq!(answer(&passer, &ahead), TO_KERNEL, "{what}");
                assert_eq!(answer(&passer, &reset), TO_KERNEL, "{what}");
                if has != Has::SynReceived {
                    let before = shifted(segment, at.number, u32::MAX);
                    assert_eq!(answer(&passer, &before), TO_KERNEL, "{what}");
                }
            }
        }
    }
}

#[test]
fn who_ends_a_connection_here_is_answered_here_when_it_says_so_again() {
    const NAME: &str = "passing::program::tests::sockets::who_ends_a_connection_here_is_answered_here_when_it_says_so_again";
    if !in_namespace(NAME) {
        return;
    }
    // It began before packets were passed.
    let passer = Passer::new();
    let own = OwnConnection::new(Has::FinWait2, "127.0.0.1:0");
    let (from, to) = (own.client(), own.address());
    let mut tap = LoopbackTap::open();
    let mut end = own.segments().last().unwrap().clone();
    let flags = offsets(&end).flags;
    end[flags] |= FIN;
    assert_eq!(answer(&passer, &end), TO_KERNEL);
    drop(own.kept);
    until_state(Has::TimeWait.number(), to, from);
    let said = tap.frames(from, to);
    let end = said.iter().find(|it| it[offsets(it).flags] & FIN != 0);
    assert_eq!(answer(&passer, end.unwrap()), TO_KERNEL);
    // What packets are passed to since then knows nothing of that.
    passer.pass("127.0.0.1", LOOPBACK);
    assert_eq!(answer(&passer, end.unwrap()), PASSED);
}
