//! Servers on plain TCP and UDP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::lab::{Host, Served};

/// Answers each line over TCP with `NAME PEER`, its own name and the peer's address, at each of the
/// addresses with the name beside it.
pub fn named(host: &Host, servers: &[(&str, SocketAddr)]) -> Result<Served> {
    let servers = owned(servers);
    host.serve(move || {
        for (name, at) in servers {
            let listener = listen(at)?;
            tokio::spawn(accept(listener, move |stream| {
                answer_lines(stream, name.clone())
            }));
        }
        Ok(std::future::pending())
    })
}

/// A list of servers that may outlive who named them.
pub(super) fn owned(servers: &[(&str, SocketAddr)]) -> Vec<(String, SocketAddr)> {
    let all = servers.iter();
    all.map(|(name, at)| ((*name).to_owned(), *at)).collect()
}

/// Answers each datagram with `NAME PEER`, like [`named`].
pub fn named_udp(host: &Host, servers: &[(&str, SocketAddr)]) -> Result<Served> {
    let servers = owned(servers);
    host.serve(move || {
        for (name, at) in servers {
            let socket = std::net::UdpSocket::bind(at).with_context(|| at.to_string())?;
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket)?;
            tokio::spawn(async move {
                let mut buffer = [0; 2048];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
                    let _ = socket
                        .send_to(format!("{name} {peer}").as_bytes(), peer)
                        .await;
                }
            });
        }
        Ok(std::future::pending())
    })
}

/// Sends back what it gets over TCP; at the end of input it has sent back everything and ends too.
pub fn echo(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, |mut stream: TcpStream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }))
    })
}

/// Says `hello` and ends, as a server of HTTP that keeps nothing alive.
pub fn brief(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, |mut stream: TcpStream| async move {
            let _ = stream.write_all(b"hello").await;
        }))
    })
}

/// Accepts and never says or reads anything.
pub fn mute(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, |stream: TcpStream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        }))
    })
}

/// Says as much as is taken, and reads nothing.
pub fn talkative(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, |mut stream: TcpStream| async move {
            let block = vec![b'x'; 1 << 16];
            while stream.write_all(&block).await.is_ok() {}
        }))
    })
}

/// Accepts, and resets the connection before it says anything.
pub fn resetting(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let listener = listen(at)?;
        Ok(accept(listener, |stream: TcpStream| async move {
            // With a linger time of 0 close(2) resets: see socket(7).
            let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }))
    })
}

/// Listens and never accepts, as a process that was stopped: the kernel takes two connections, and then none.
pub fn stopped(host: &Host, at: SocketAddr) -> Result<Served> {
    host.serve(move || {
        let family = if at.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &at)?;
        rustix::net::listen(&socket, 1)?;
        Ok(async move {
            std::future::pending::<()>().await;
            drop(socket);
        })
    })
}

/// A listener on the host of the calling thread. At once after another one on the same address too.
pub(crate) fn listen(at: SocketAddr) -> Result<TcpListener> {
    // The standard library sets SO_REUSEADDR.
    let listener = std::net::TcpListener::bind(at).with_context(|| at.to_string())?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Serves every connection on a task of its own.
pub(crate) async fn accept<F>(listener: TcpListener, mut serve: impl FnMut(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream));
    }
}

pub(super) async fn answer_lines(mut stream: TcpStream, name: String) {
    let Ok(peer) = stream.peer_addr() else { return };
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        if write
            .write_all(format!("{name} {peer}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}
