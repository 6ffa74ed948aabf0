//! Whether somebody listens at a TCP port, as `/proc/net/tcp` has it (proc_pid_net(5)).
//!
//! bind(2) says EADDRINUSE for a socket that listens and for a connection that has the port as its own,
//! TIME-WAIT included. They mean different things: the first has the port, the second is in nobody's way.

use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `TCP_LISTEN` of net/tcp_states.h.
const LISTEN: &str = "0A";

/// Whether a socket listens at this address and port, or at this port of all addresses.
///
/// # Errors
/// There is no `/proc`, or it can't be read.
pub(super) fn is_listened_at(place: SocketAddr) -> io::Result<bool> {
    // Of this thread: each may be in a network namespace of its own.
    if any_listener("/proc/thread-self/net/tcp6", place)? {
        return Ok(true);
    }
    Ok(place.is_ipv4() && any_listener("/proc/thread-self/net/tcp", place)?)
}

fn any_listener(table: &str, place: SocketAddr) -> io::Result<bool> {
    let file = match std::fs::File::open(table) {
        Ok(file) => file,
        // The host has no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    for line in BufReader::new(file).lines().skip(1) {
        let line = line?;
        let Some((local, state)) = row(&line) else {
            continue;
        };
        // The kernel lists the sockets that listen first. There may be 100,000 connections behind them.
        if state != LISTEN {
            return Ok(false);
        }
        let local_ip = local.ip().to_canonical();
        let is_wildcard = local.ip().is_unspecified();
        if local.port() == place.port() && (is_wildcard || local_ip == place.ip().to_canonical()) {
            return Ok(true);
        }
    }
    Ok(false)
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
