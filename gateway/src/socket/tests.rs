#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};

use super::*;

fn place(at: SocketAddr, protocol: Protocol) -> BindKey {
    BindKey {
        listen: ListenAddr(at),
        protocol,
    }
}

/// A port that a test has let go of is not to be another one's before it is done.
static PORTS: Mutex<()> = Mutex::new(());

/// Addresses of both families that a test has its ports at, alone as long as it holds what comes with them.
/// (An IPv4 address of its own; in IPv6 a host has one for itself.)
fn addresses() -> ([String; 2], MutexGuard<'static, ()>) {
    let alone = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    (
        [
            format!("127.{}.{low}.77", 64 | (high & 63)),
            "::1".to_owned(),
        ],
        alone,
    )
}

fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 0)
}

#[test]
fn a_filter_that_the_kernel_does_not_take_is_an_error_of_its_own() {
    // Neither an instruction nor the end of a program.
    let refused = [SockFilter::new(u16::MAX, 0, 0, 0)];
    let at = place(any_port("127.0.0.1"), Protocol::Udp);
    let error = bind(at, &refused, 1, false).unwrap_err();
    assert!(matches!(error, BindError::NotGuarded(_)), "{error:?}");
    assert_eq!(error.reason(), "NotGuardedAgainstLoops");
    let without = bind(at, &[], 2, false).unwrap();
    assert!(matches!(without, Sockets::Udp(sockets) if sockets.len() == 2));
}

/// How a process listened that is gone.
#[derive(Clone, Copy, Debug)]
enum Predecessor {
    /// At sockets of the place itself.
    Bound,
    /// At a socket to which the kernel steers. (What is steered keeps the port that the client asked for: a
    /// connection accepted at such a socket is as one accepted here.)
    Steered,
    /// At the admin address, or that for metrics.
    Admin,
}

/// How far a connection of it is.
#[derive(Clone, Copy, Debug)]
enum Left {
    Established,
    /// The client has ended.
    CloseWait,
    /// The predecessor has, and the client has not got it yet or has not answered.
    FinWait,
    /// Both have, the predecessor first.
    TimeWait,
    /// The client ended first, and has not got the predecessor's end.
    LastAck,
}

/// A listener of the predecessor.
fn predecessor(how: Predecessor, ip: &str) -> TcpListener {
    match how {
        Predecessor::Bound => {
            // A port that is free.
            let free = TcpListener::bind(any_port(ip))
                .unwrap()
                .local_addr()
                .unwrap();
            match bind(place(free, Protocol::Tcp), &[], 1, false).unwrap() {
                Sockets::Tcp(mut sockets) => sockets.remove(0),
                Sockets::Udp(_) => unreachable!(),
            }
        }
        Predecessor::Steered => group(any_port(ip), 1).unwrap().remove(0),
        Predecessor::Admin => TcpListener::bind(any_port(ip)).unwrap(),
    }
}

/// Connections of a predecessor at its port, in that state; what is returned keeps them there.
fn left(listener: &TcpListener, left: Left) -> Vec<TcpStream> {
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(false).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_nonblocking(false).unwrap();
    match left {
        Left::Established => vec![client, server],
        Left::CloseWait => {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            vec![client, server]
        }
        Left::FinWait => {
            server.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop(server);
            vec![client]
        }
        Left::TimeWait => {
            drop(server);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            Vec::new()
        }
        Left::LastAck => {
            // What the client does not read keeps the end from it.
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(server.read(&mut [0]).unwrap(), 0);
            server.set_nonblocking(true).unwrap();
            while server.write(&[0; 1 << 16]).is_ok() {}
            drop(server);
            vec![client]
        }
    }
}

#[test]
fn connections_of_a_predecessor_keep_nobody_away_from_its_port() {
    let mut failed = Vec::new();
    let (ips, _alone) = addresses();
    for ip in ips.iter().map(String::as_str) {
        for how in [Predecessor::Bound, Predecessor::Steered, Predecessor::Admin] {
            for state in [
                Left::Established,
                Left::CloseWait,
                Left::FinWait,
                Left::TimeWait,
                Left::LastAck,
            ] {
                let listener = predecessor(how, ip);
                let address = listener.local_addr().unwrap();
                let _kept = left(&listener, state);
                drop(listener);
                let at = place(address, Protocol::Tcp);
                // As the next process does: for places that are steered, for others, for its own.
                let what = format!("{ip} {how:?} {state:?}");
                if let Err(error) = probe(at) {
                    failed.push(format!("{what}: steered: {error}"));
                }
                if let Err(error) = bind(at, &[], 2, false).map(drop) {
                    failed.push(format!("{what}: bound: {error}"));
                }
                if let Err(error) = TcpListener::bind(address).map(drop) {
                    failed.push(format!("{what}: admin: {error}"));
                }
            }
        }
    }
    assert_eq!(failed, Vec::<String>::new());
}

#[test]
fn a_udp_port_is_free_as_soon_as_its_sockets_are_closed() {
    let (ips, _alone) = addresses();
    for ip in ips.iter().map(String::as_str) {
        let Sockets::Udp(sockets) =
            bind(place(any_port(ip), Protocol::Udp), &[], 1, false).unwrap()
        else {
            panic!("no UDP");
        };
        let address = sockets[0].local_addr().unwrap();
        // A flow's own socket goes elsewhere, and may outlive it.
        let flow = UdpSocket::bind(any_port(ip)).unwrap();
        flow.connect(address).unwrap();
        flow.send(b"x").unwrap();
        drop(sockets);
        bind(place(address, Protocol::Udp), &[], 2, false).unwrap();
    }
}

/// A socket of another program.
#[derive(Clone, Copy, Debug)]
struct OtherSocket {
    wildcard: bool,
    reuse_address: bool,
    reuse_port: bool,
    /// For a wildcard of IPv6: IPv4 comes in there too.
    dual_stack: bool,
}

fn hold(holder: OtherSocket, at: SocketAddr, kind: Type) -> Socket {
    let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
    if at.is_ipv6() {
        socket.set_only_v6(!holder.dual_stack).unwrap();
    }
    socket.set_reuse_address(holder.reuse_address).unwrap();
    socket.set_reuse_port(holder.reuse_port).unwrap();
    socket.bind(&at.into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(1).unwrap();
    }
    socket
}

/// Every kind of socket that has a port, at an address of its own or at all.
fn holders() -> impl Iterator<Item = OtherSocket> {
    (0..16).map(|bits| OtherSocket {
        wildcard: bits & 1 != 0,
        reuse_address: bits & 2 != 0,
        reuse_port: bits & 4 != 0,
        dual_stack: bits & 8 != 0,
    })
}

#[test]
fn the_port_of_another_program_is_not_shared_whatever_it_says_of_sharing() {
    let (ips, _alone) = addresses();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let kind = if protocol == Protocol::Tcp {
            Type::STREAM
        } else {
            Type::DGRAM
        };
        for ip in ips.iter().map(String::as_str) {
            for holder in holders() {
                // A dual-stack wildcard holds IPv4 ports as well.
                let held: IpAddr = match (holder.wildcard, holder.dual_stack, ip) {
                    (false, _, ip) => ip.parse().unwrap(),
                    (true, false, ip) if ip != "::1" => "0.0.0.0".parse().unwrap(),
                    (true, _, _) => "::".parse().unwrap(),
                };
                let socket = hold(holder, SocketAddr::new(held, 0), kind);
                let port = socket.local_addr().unwrap().as_socket().unwrap().port();
                let address = SocketAddr::new(ip.parse().unwrap(), port);
                let at = place(address, protocol);
                for (how, result) in [
                    ("bind", bind(at, &[], 2, false).map(drop)),
                    ("probe", probe(at)),
                ] {
                    let error = result.expect_err(&format!("{how} {address} {holder:?}"));
                    assert!(
                        matches!(error, BindError::PortInUse { .. }),
                        "{how} {address} {holder:?}: {error}"
                    );
                }
                drop(socket);
                bind(at, &[], 2, false).unwrap();
                probe(at).unwrap();
            }
        }
    }
}

#[test]
fn a_port_that_connections_alone_have_is_said_to_be_so() {
    let (ips, _alone) = addresses();
    for ip in ips.iter().map(String::as_str) {
        // One that another program accepted: it has its port for itself.
        let socket = Socket::new(Domain::for_address(any_port(ip)), Type::STREAM, None).unwrap();
        socket.bind(&any_port(ip).into()).unwrap();
        socket.listen(1).unwrap();
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        let at = place(address, Protocol::Tcp);
        let error = bind(at, &[], 1, false).unwrap_err();
        assert_eq!(error.reason(), "PortInUse");
        assert!(error.to_string().contains("nobody listens"), "{error}");
        // What is steered needs no socket there.
        probe(at).unwrap();
    }
}

#[test]
fn of_two_that_want_a_port_at_the_same_moment_one_fails() {
    let (ips, _alone) = addresses();
    const ROUNDS: usize = 300;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for ip in ips.iter().map(String::as_str) {
            let free = bind(place(any_port(ip), protocol), &[], 1, false).unwrap();
            let at = match &free {
                Sockets::Tcp(sockets) => sockets[0].local_addr().unwrap(),
                Sockets::Udp(sockets) => sockets[0].local_addr().unwrap(),
            };
            drop(free);
            let at = place(at, protocol);
            let together = Barrier::new(2);
            let race = || {
                let mut won = Vec::with_capacity(ROUNDS);
                for _ in 0..ROUNDS {
                    together.wait();
                    let sockets = bind(at, &[], 2, false);
                    won.push(sockets.is_ok());
                    // It is held until both have tried.
                    together.wait();
                }
                won
            };
            let (one, other) = std::thread::scope(|scope| {
                let one = scope.spawn(race);
                let other = scope.spawn(race);
                (one.join().unwrap(), other.join().unwrap())
            });
            let both = one
                .iter()
                .zip(&other)
                .filter(|(one, other)| **one && **other);
            assert_eq!(both.count(), 0, "{at:?}: both have the port");
        }
    }
}

#[test]
fn groups_that_are_made_at_the_same_moment_have_ports_of_their_own() {
    const ROUNDS: usize = 400;
    let (ips, _alone) = addresses();
    for ip in &ips {
        let make = || -> Vec<_> {
            let made = (0..ROUNDS).map(|_| group(any_port(ip), 2).unwrap());
            made.collect()
        };
        let all: Vec<Vec<TcpListener>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            let made = threads.into_iter().map(|thread| thread.join().unwrap());
            made.flatten().collect()
        });
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let ports: std::collections::BTreeSet<u16> = all.iter().map(|it| port(&it[0])).collect();
        assert_eq!(ports.len(), all.len(), "groups share a port");
        assert!(all.iter().all(|it| port(&it[0]) == port(&it[1])));
    }
}

/// Tells a process of this program that it is to be [`another_process`], and what to hold.
const OTHER: &str = "FAIRWAY_TEST_OTHER_PROCESS";

/// A user that is nobody's.
const OTHER_USER: u32 = 65_534;

/// How another process is to bind a socket.
#[derive(Clone, Copy, Debug)]
struct OtherProcess {
    user: u32,
    reuse_address: bool,
    reuse_port: bool,
}

/// All kinds of them. Only root can be another user.
fn other_processes() -> impl Iterator<Item = OtherProcess> {
    let me = rustix::process::geteuid();
    let users = [Some(me.as_raw()), me.is_root().then_some(OTHER_USER)];
    users.into_iter().flatten().flat_map(|user| {
        (0..4).map(move |bits| OtherProcess {
            user,
            reuse_address: bits & 1 != 0,
            reuse_port: bits & 2 != 0,
        })
    })
}

/// Another process with a socket, until it is dropped.
struct Holding {
    child: Child,
    _until: Option<ChildStdin>,
    /// Where it has the socket; else the error that it met.
    at: Result<SocketAddr, String>,
}

impl Holding {
    fn start(how: OtherProcess, at: SocketAddr, protocol: Protocol) -> Self {
        let OtherProcess {
            user,
            reuse_address,
            reuse_port,
        } = how;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", BECOMES_ANOTHER, "--nocapture"])
            .env(
                OTHER,
                format!("{user} {reuse_address} {reuse_port} {protocol} {at}"),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let at = said.lines().find_map(|line| {
            let line = line.unwrap();
            let (_, at) = line.split_once("holds ")?;
            Some(at.parse().map_err(|_| at.to_owned()))
        });
        Self {
            _until: child.stdin.take(),
            child,
            at: at.expect("it says what it holds"),
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What [`Holding`] runs, in a process that was started for the test of this name.
const BECOMES_ANOTHER: &str = "socket::tests::another_process_does_not_get_into_a_port_of_ours";

fn another_process(what: &str) {
    let words: Vec<&str> = what.split(' ').collect();
    let [user, reuse_address, reuse_port, protocol, at] = words[..] else {
        panic!("{what}");
    };
    let user: u32 = user.parse().unwrap();
    if user != rustix::process::geteuid().as_raw() {
        // Of this thread, which makes the socket.
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(user)).unwrap();
    }
    let at: SocketAddr = at.parse().unwrap();
    let kind = if protocol == "UDP" {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let socket = Socket::new(Domain::for_address(at), kind, None).unwrap();
    socket.set_reuse_address(reuse_address == "true").unwrap();
    socket.set_reuse_port(reuse_port == "true").unwrap();
    let held = socket.bind(&at.into()).and_then(|()| match protocol {
        "UDP" => Ok(()),
        _ => socket.listen(64),
    });
    if let Err(error) = held {
        return println!("\nholds {error}");
    }
    println!(
        "\nholds {}",
        socket.local_addr().unwrap().as_socket().unwrap()
    );
    // It ends with who started it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    if protocol == "UDP" {
        let socket = UdpSocket::from(socket);
        loop {
            let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
            socket.send_to(b"other", from).unwrap();
        }
    }
    let listener = TcpListener::from(socket);
    for stream in listener.incoming() {
        let _ = stream.and_then(|mut stream| stream.write_all(b"other"));
    }
}

/// Whom a client meets at that place.
fn met(at: SocketAddr, protocol: Protocol) -> String {
    let patience = Some(Duration::from_secs(20));
    let mut answer = [0; 16];
    let length = if protocol == Protocol::Udp {
        let client = UdpSocket::bind(any_port(&at.ip().to_string())).unwrap();
        client.set_read_timeout(patience).unwrap();
        client.connect(at).unwrap();
        client.send(b"?").unwrap();
        client.recv(&mut answer).unwrap()
    } else {
        let mut client = TcpStream::connect(at).unwrap();
        client.set_read_timeout(patience).unwrap();
        client.read(&mut answer).unwrap()
    };
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[test]
fn a_port_that_another_process_holds_is_left_to_it_and_the_error_says_what_to_do() {
    let (ips, _alone) = addresses();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for ip in ips.iter().map(String::as_str) {
            for how in other_processes() {
                let other = Holding::start(how, any_port(ip), protocol);
                let address = *other.at.as_ref().unwrap();
                let at = place(address, protocol);
                for (what, result) in [
                    ("bind", bind(at, &[], 2, false).map(drop)),
                    ("bind one", bind(at, &[], 1, false).map(drop)),
                    ("probe", probe(at)),
                ] {
                    let what = format!("{what} {protocol} {address} {how:?}");
                    let error = result.expect_err(&what);
                    assert_eq!(error.reason(), "PortInUse", "{what}: {error}");
                    let said = error.to_string();
                    for part in ["is held by another process", "tried again", "ss -lnp"] {
                        assert!(said.contains(part), "{what}: {said}");
                    }
                }
                for _ in 0..8 {
                    assert_eq!(met(address, protocol), "other", "{protocol} {how:?}");
                }
            }
        }
    }
}

#[test]
fn another_process_does_not_get_into_a_port_of_ours() {
    if let Ok(what) = std::env::var(OTHER) {
        return another_process(&what);
    }
    let (ips, _alone) = addresses();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for ip in ips.iter().map(String::as_str) {
            for count in [1, 2] {
                let ours = bind(place(any_port(ip), protocol), &[], 1, false).unwrap();
                let address = match &ours {
                    Sockets::Tcp(sockets) => sockets[0].local_addr().unwrap(),
                    Sockets::Udp(sockets) => sockets[0].local_addr().unwrap(),
                };
                drop(ours);
                let _ours = bind(place(address, protocol), &[], count, false).unwrap();
                let me = rustix::process::geteuid().as_raw();
                for how in other_processes() {
                    // One of the same user that asks for just that address and for SO_REUSEPORT: the kernel
                    // can't tell it from a worker of ours.
                    if count > 1 && how.reuse_port && how.user == me {
                        continue;
                    }
                    let other = Holding::start(how, address, protocol);
                    let what = format!("{count} {protocol} {address} {how:?}");
                    let error = other.at.as_ref().expect_err(&what);
                    assert!(error.contains("in use"), "{what}: {error}");
                }
            }
        }
    }
}
