//! Clients of TCP, UDP, HTTP and WebSocket. Everything here works from the host that the calling
//! thread is in: call it inside [`Host::run`](crate::lab::Host::run). Nothing waits for ever.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::programs;

/// How long a client waits for an answer. Also how long it takes to find out that nobody answers
/// where nobody refuses either.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client waits for the whole of something large.
const LARGE: Duration = Duration::from_secs(60);

/// Connects over TCP. Reading and writing give up after [`PATIENCE`].
pub fn connect_tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    patient(stream)
}

/// Connects over TCP from a certain address of the host.
pub fn connect_tcp_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    connect_tcp_from_port(SocketAddr::new(from, 0), to)
}

/// Connects over TCP from a certain address and port of the host.
pub fn connect_tcp_from_port(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    // A program that another test starts meanwhile would have it, too, and it would stay open.
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &from)?;
    // Connecting too gives up after the time to send, see socket(7).
    let stream = patient(TcpStream::from(socket))?;
    connect(&stream, &to)?;
    Ok(stream)
}

fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Has the coming close of a connection reset it.
pub fn reset(stream: &TcpStream) {
    // It can't fail on a TCP socket.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// Sends a line and reads one.
pub fn ask(stream: &mut TcpStream, line: &str) -> io::Result<String> {
    stream.write_all(line.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte != [b'\n'] {
        if read(stream, &mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend(byte);
    }
    String::from_utf8(answer)
        .map(|answer| answer.trim_end().to_owned())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads once. A signal of this process interrupts a read that has a time-out (signal(7)).
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Who answers on a new TCP connection: see [`crate::servers::named`].
pub fn who(to: SocketAddr) -> io::Result<String> {
    name_in(&ask(&mut connect_tcp(to)?, "who")?)
}

/// Who answers on a new TCP connection from a certain address of the host.
pub fn who_from(from: IpAddr, to: SocketAddr) -> io::Result<String> {
    name_in(&ask(&mut connect_tcp_from(from, to)?, "who")?)
}

/// A UDP socket on an address of the host, or on any; connected, so that errors come back.
pub fn udp(from: Option<IpAddr>, to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        [0u8; 4].into()
    } else {
        [0u16; 8].into()
    };
    let socket = UdpSocket::bind(SocketAddr::new(from.unwrap_or(any), 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Sends a datagram and waits for one; sends again where none comes, because UDP may lose it.
pub fn ask_udp(socket: &UdpSocket, text: &str) -> io::Result<String> {
    let mut buffer = [0; 2048];
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..5 {
        socket.send(text.as_bytes())?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                return Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or(&[])).into());
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                last = e
            }
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// Who answers a datagram from this socket.
pub fn who_on(socket: &UdpSocket) -> io::Result<String> {
    name_in(&ask_udp(socket, "who")?)
}

/// Who answers a datagram from a new socket.
pub fn who_udp(from: Option<IpAddr>, to: SocketAddr) -> io::Result<String> {
    who_on(&udp(from, to)?)
}

fn name_in(answer: &str) -> io::Result<String> {
    answer
        .split_whitespace()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an empty answer"))
}

/// An HTTP response, as far as tests look at it.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values, in the order they came in.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Response {
    /// The first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// One HTTP GET on a connection of its own, HTTP/1.1.
pub fn http_get(to: SocketAddr, path: &str) -> Result<Response> {
    http_get_from(connect_tcp(to)?, to, path)
}

/// One HTTP POST on a connection of its own, HTTP/1.1.
pub fn http_post(to: SocketAddr, path: &str, body: &str) -> Result<Response> {
    let mut stream = connect_tcp(to)?;
    stream.set_read_timeout(Some(LARGE))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
}

/// One HTTP GET on this connection, which is closed after it.
pub fn http_get_from(mut stream: TcpStream, to: SocketAddr, path: &str) -> Result<Response> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
}

/// One HTTP GET on this connection, which stays open: the answer must have a `Content-Length`.
pub fn http_get_on(stream: &mut TcpStream, host: &str, path: &str) -> Result<Response> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    read_response(stream)
}

/// One HTTP POST on this connection, which stays open: the answer must have a `Content-Length`.
pub fn http_post_on(
    stream: &mut TcpStream,
    host: &str,
    path: &str,
    body: &str,
) -> Result<Response> {
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    read_response(stream)
}

fn read_response(stream: &mut TcpStream) -> Result<Response> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = read(stream, &mut buffer)?;
        if length == 0 {
            bail!(
                "the connection was closed: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
        bytes.extend(buffer.get(..length).unwrap_or_default());
        // Head and body may come in any number of pieces.
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("\r\n\r\n") {
            let response = parse(&text)?;
            let length: usize = response
                .header("content-length")
                .with_context(|| format!("no Content-Length: {text:?}"))?
                .parse()?;
            if response.body.len() >= length {
                return Ok(response);
            }
        }
    }
}

fn parse(text: &str) -> Result<Response> {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("no head: {text:?}"))?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status: {head:?}"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked"));
    let body = if chunked {
        unchunked(body)?
    } else {
        body.to_owned()
    };
    Ok(Response {
        status,
        headers,
        body,
    })
}

/// RFC 9112, 7.1, without extensions and trailers.
fn unchunked(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body
            .split_once("\r\n")
            .context("a chunk without a length")?;
        let length = usize::from_str_radix(length.trim(), 16)?;
        if length == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..length).context("a chunk that is cut off")?);
        body = rest
            .get(length..)
            .and_then(|rest| rest.strip_prefix("\r\n"))
            .unwrap_or_default();
    }
}

/// Sends one WebSocket message and says what comes back.
pub fn websocket(url: &str, text: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let exchange = async {
            let (mut socket, _) = tokio_tungstenite::connect_async(url).await?;
            socket.send(text.into()).await?;
            let answer = socket
                .next()
                .await
                .context("it was closed without an answer")??;
            socket.close(None).await?;
            Ok(answer.into_text()?.to_string())
        };
        tokio::time::timeout(LARGE, exchange)
            .await
            .context("no answer came")?
    })
}

/// Runs a program of the system to its end.
pub fn run(program: &str, arguments: &[&str]) -> Result<Output> {
    Command::new(programs::find(program)?)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} can't be run"))
}

/// Runs a program of the system to its end, which must be a good one; what it printed.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    succeeded(program, arguments, &run(program, arguments)?)
}

/// What a program printed, whose end must be a good one.
pub fn succeeded(program: &str, arguments: &[&str], output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {}: {}\n{stdout}{stderr}",
            arguments.join(" "),
            output.status
        );
    }
    Ok(stdout)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                    4\r\nwiki\r\n6\r\npedia \r\n0\r\n\r\n";
        let response = parse(text).unwrap();
        assert_eq!(
            (response.status, response.body.as_str()),
            (200, "wikipedia ")
        );
    }
}
