//! Who listens at a port, as `/proc/net/tcp` and `/proc/net/udp` have it (proc_pid_net(5)).
//!
//! bind(2) says EADDRINUSE for a socket that listens and for a connection that has the port as its own,
//! TIME-WAIT included. They mean different things: the first has the port, the second is in nobody's way.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairway_config::net::Protocol;

/// `TCP_LISTEN` of net/tcp_states.h, and `TCP_CLOSE`, which UDP sockets have that are not connected.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Whether a socket listens at this address and TCP port, or at this port of all addresses.
///
/// # Errors
/// There is no `/proc`, or it can't be read.
pub(super) fn is_listened_at(place: SocketAddr) -> io::Result<bool> {
    let takers = takers(Protocol::Tcp, &[place.port()].into())?;
    Ok(takers.iter().any(|taker| takes(*taker, place)))
}

/// The local addresses of the sockets that take new clients at one of these ports.
///
/// # Errors
/// There is no `/proc`, or it can't be read.
pub(crate) fn takers(protocol: Protocol, ports: &BTreeSet<u16>) -> io::Result<Vec<SocketAddr>> {
    let mut takers = Vec::new();
    // Of this thread: each may be in a network namespace of its own.
    let tables = match protocol {
        Protocol::Udp => ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
        _ => ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
    };
    for table in tables {
        let file = match std::fs::File::open(table) {
            Ok(file) => file,
            // The host has no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {
                continue;
            }
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file).lines().skip(1) {
            let line = line?;
            let Some((local, state)) = row(&line) else {
                continue;
            };
            let is_taker = match protocol {
                Protocol::Udp => state == UNCONNECTED,
                // The kernel lists the sockets that listen first. There may be 100,000 connections behind them.
                _ if state != LISTEN => break,
                _ => true,
            };
            if is_taker && ports.contains(&local.port()) {
                takers.push(local);
            }
        }
    }
    Ok(takers)
}

/// Whether a socket with this local address takes clients who come to a place. One at all addresses of IPv6 is taken
/// for one that takes IPv4, too, as most do.
pub(crate) fn takes(local: SocketAddr, place: SocketAddr) -> bool {
    let is_wildcard = local.ip().is_unspecified() && (local.is_ipv6() || place.is_ipv4());
    local.port() == place.port()
        && (is_wildcard || local.ip().to_canonical() == place.ip().to_canonical())
}

/// The local address of a row, and its state.
fn row(line: &str) -> Option<(SocketAddr, &str)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits, each in the order of the machine.
    let mut bytes = [0; 16];
    let mut length = 0;
    for (at, into) in (0..address.len()).step_by(8).zip(bytes.chunks_exact_mut(4)) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        into.copy_from_slice(&word.to_ne_bytes());
        length += 4;
    }
    let ip = match length {
        4 => {
            let [a, b, c, d, ..] = bytes;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        16 => IpAddr::V6(Ipv6Addr::from(bytes)),
        _ => return None,
    };
    Some((SocketAddr::new(ip, port), state))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_socket_takes_clients_of_its_address_or_of_all() {
        for (local, place, expected) in [
            ("192.0.2.1:80", "192.0.2.1:80", true),
            ("192.0.2.1:81", "192.0.2.1:80", false),
            ("192.0.2.2:80", "192.0.2.1:80", false),
            ("0.0.0.0:80", "192.0.2.1:80", true),
            ("0.0.0.0:80", "[2001:db8::1]:80", false),
            ("[::]:80", "192.0.2.1:80", true),
            ("[::]:80", "[2001:db8::1]:80", true),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80", true),
            ("[2001:db8::2]:80", "[2001:db8::1]:80", false),
        ] {
            let (local, place) = (local.parse().unwrap(), place.parse().unwrap());
            assert_eq!(takes(local, place), expected, "{local} {place}");
        }
    }
}
