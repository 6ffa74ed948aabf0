#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, TcpStream};

use super::*;

fn place(at: SocketAddr, protocol: Protocol) -> BindKey {
    BindKey {
        listen: ListenAddr(at),
        protocol,
    }
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
    for ip in ["127.0.0.1", "::1"] {
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
    for ip in ["127.0.0.1", "::1"] {
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
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let kind = if protocol == Protocol::Tcp {
            Type::STREAM
        } else {
            Type::DGRAM
        };
        for ip in ["127.0.0.1", "::1"] {
            for holder in holders() {
                // A dual-stack wildcard holds IPv4 ports as well.
                let held: IpAddr = match (holder.wildcard, holder.dual_stack, ip) {
                    (false, _, ip) => ip.parse().unwrap(),
                    (true, false, "127.0.0.1") => "0.0.0.0".parse().unwrap(),
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
    for ip in ["127.0.0.1", "::1"] {
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
