//! Servers for benchmarks.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::poll::{Poll, Ready};
use super::{ANSWER, REQUEST, THREADS};
use crate::lab::Host;

/// Answers each request, for as long as the client wishes.
pub const KEEPS: u16 = 8001;
/// Answers one request and closes.
pub const CLOSES: u16 = 8002;
/// Sends as much as the client takes.
pub const SENDS: u16 = 8003;
/// Sends each datagram back.
pub const ECHOES: u16 = 8004;

/// How soon it ends when it is told to.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is sent at once where as much as possible is.
const BULK: usize = 256 << 10;

/// Servers on a host; they end with this.
#[derive(Debug)]
pub struct BenchServers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl BenchServers {
    /// Servers at each of the addresses, on every port of this module.
    pub fn start(host: &Host, addresses: &[IpAddr]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for n in 0..THREADS {
            let server = host.run(|| Server::new(addresses))?;
            let stop = stop.clone();
            let thread = thread::Builder::new().name(format!("backend-{n}"));
            threads.push(thread.spawn(move || server.run(&stop))?);
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for BenchServers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

enum Socket {
    Listens(TcpListener, u16),
    Echoes(UdpSocket),
    Connection {
        stream: TcpStream,
        port: u16,
        got: usize,
    },
}

/// One thread's sockets, each by its number.
struct Server {
    poll: Poll,
    sockets: Vec<Option<Socket>>,
    free: Vec<usize>,
    bulk: Box<[u8]>,
}

impl Server {
    fn new(addresses: &[IpAddr]) -> Result<Self> {
        let mut server = Self {
            poll: Poll::new()?,
            sockets: Vec::new(),
            free: Vec::new(),
            bulk: vec![7; BULK].into(),
        };
        for address in addresses {
            for port in [KEEPS, CLOSES, SENDS] {
                let at = SocketAddr::new(*address, port);
                let socket = shared(at, SocketType::STREAM)?;
                listen(&socket, 4096)?;
                let listener = TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                server.poll.watch_level(&listener, server.sockets.len())?;
                server.sockets.push(Some(Socket::Listens(listener, port)));
            }
            let at = SocketAddr::new(*address, ECHOES);
            let socket = UdpSocket::from(shared(at, SocketType::DGRAM)?);
            socket.set_nonblocking(true)?;
            // As much as the system lets a socket have: what waits here is not lost on the way.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20);
            server.poll.watch_level(&socket, server.sockets.len())?;
            server.sockets.push(Some(Socket::Echoes(socket)));
        }
        Ok(server)
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut ready = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            if self.poll.wait(&mut ready, PATIENCE).is_err() {
                return;
            }
            for Ready { number, .. } in ready.drain(..) {
                let taken = self.sockets.get_mut(number).and_then(Option::take);
                match taken {
                    None => {}
                    Some(Socket::Listens(listener, port)) => {
                        self.accept(&listener, port);
                        self.put(number, Socket::Listens(listener, port));
                    }
                    Some(Socket::Echoes(socket)) => {
                        echo(&socket);
                        self.put(number, Socket::Echoes(socket));
                    }
                    Some(Socket::Connection {
                        mut stream,
                        port,
                        mut got,
                    }) => {
                        if self.serve(&mut stream, port, &mut got).is_ok() {
                            self.put(number, Socket::Connection { stream, port, got });
                        } else {
                            self.free.push(number);
                        }
                    }
                }
            }
        }
    }

    fn put(&mut self, number: usize, socket: Socket) {
        if let Some(place) = self.sockets.get_mut(number) {
            *place = Some(socket);
        }
    }

    fn accept(&mut self, listener: &TcpListener, port: u16) {
        while let Ok((stream, _)) = listener.accept() {
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let _ = stream.set_nodelay(true);
            let number = self.free.pop().unwrap_or_else(|| {
                self.sockets.push(None);
                self.sockets.len() - 1
            });
            if self.poll.watch(&stream, number).is_ok() {
                let got = 0;
                self.put(number, Socket::Connection { stream, port, got });
            } else {
                self.free.push(number);
            }
        }
    }

    /// An error where the connection is to be closed.
    fn serve(&self, stream: &mut TcpStream, port: u16, got: &mut usize) -> io::Result<()> {
        if port == SENDS {
            loop {
                match stream.write(&self.bulk) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => *got += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            while *got >= REQUEST {
                *got -= REQUEST;
                stream.write_all(&[7; ANSWER])?;
                if port == CLOSES {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            // A request is short: where it did not fill the buffer there is no more.
            if *got == 0 {
                return Ok(());
            }
        }
    }
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((bytes, peer)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(buffer.get(..bytes).unwrap_or_default(), peer);
    }
}

/// A socket at an address that several threads have.
pub(super) fn shared(at: SocketAddr, kind: SocketType) -> Result<rustix::fd::OwnedFd> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &at).with_context(|| at.to_string())?;
    Ok(socket)
}
