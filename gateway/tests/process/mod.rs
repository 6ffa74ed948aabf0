//! For tests of what the whole process takes, or how long it takes: each is a program of its own.

#[path = "../data_plane/harness.rs"]
mod harness;

use std::net::{SocketAddr, TcpListener};

pub use harness::*;

/// How many connections of clients are open, those that still look for an endpoint included.
pub fn connections(running: &Running) -> u64 {
    running.gateway.row().connections
}

/// How many connections and flows the endpoints of the present routes have.
pub fn connections_to_endpoints(running: &Running) -> u64 {
    let rows = running.gateway.endpoints();
    rows.iter().map(|row| row.active).sum()
}

/// A TCP server that accepts nothing: the kernel completes the handshakes of up to 4096 clients, without a file
/// descriptor of this process.
pub fn silent_server() -> (TcpListener, SocketAddr) {
    let socket = tcp_socket();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("binds");
    socket.listen(4096).expect("listens");
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr().expect("is bound");
    (listener, addr)
}
