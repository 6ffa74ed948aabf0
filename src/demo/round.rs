//! One round of real requests, and what came back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::backends;
use super::targets::Targets;

/// How many requests each Service gets: a multiple of the backends, so that equal shares show.
const REQUESTS: usize = 9;

/// How many datagrams, each of a socket of its own: so many that no backend of three is left out by
/// chance (once in ten billion rounds).
const DATAGRAMS: usize = 60;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the round printed, and whether everything was as it should be.
pub(super) struct RoundResult {
    pub(super) text: String,
    pub(super) well: bool,
}

/// How the answers should be spread over the backends.
#[derive(Clone, Copy)]
enum ExpectedSpread {
    Equal,
    One,
    /// By the client's address and port, which are random: each backend gets some.
    ByChance,
}

/// Sends the requests and compares the answers with what is expected.
pub(super) fn run(targets: &Targets) -> RoundResult {
    let Targets {
        web,
        sticky,
        chat,
        echo,
        api,
    } = *targets;
    let mut outcome = RoundResult {
        text: String::new(),
        well: true,
    };
    let n = REQUESTS;
    outcome.show(
        &format!("web: {n} connections to {web}"),
        ExpectedSpread::Equal,
        (0..n).map(|_| request(&mut connect(web)?, web)),
    );
    outcome.show(
        &format!("sticky: {n} connections of one client to {sticky}"),
        ExpectedSpread::One,
        (0..n).map(|_| request(&mut connect(sticky)?, sticky)),
    );
    let mut kept = connect(chat);
    outcome.show(
        &format!("chat: {n} requests on one HTTP connection to {chat}"),
        ExpectedSpread::Equal,
        (0..n).map(|_| match &mut kept {
            Ok(stream) => request(stream, chat),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }),
    );
    outcome.show(
        &format!("echo: {DATAGRAMS} UDP datagrams of {DATAGRAMS} sockets to {echo}"),
        ExpectedSpread::ByChance,
        (0..DATAGRAMS).map(|_| datagram(echo)),
    );
    outcome.show(
        &format!("api: {n} connections to the node port {api}"),
        ExpectedSpread::Equal,
        (0..n).map(|_| request(&mut connect(api)?, api)),
    );
    outcome
}

impl RoundResult {
    /// Counts the answers and writes a line: who answered how often, and what went wrong.
    fn show(
        &mut self,
        what: &str,
        wanted: ExpectedSpread,
        answers: impl Iterator<Item = io::Result<String>>,
    ) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut errors = Vec::new();
        for answer in answers {
            match answer {
                Ok(name) => *counts.entry(name).or_default() += 1,
                Err(error) => errors.push(error.to_string()),
            }
        }
        let known = counts
            .keys()
            .all(|name| backends::NAMES.contains(&name.as_str()));
        let spread = match wanted {
            ExpectedSpread::One => counts.len() == 1,
            ExpectedSpread::ByChance => counts.len() == backends::NAMES.len(),
            ExpectedSpread::Equal => {
                let share = REQUESTS / backends::NAMES.len();
                counts.len() == backends::NAMES.len() && counts.values().all(|n| *n == share)
            }
        };
        let well = known && spread && errors.is_empty();
        self.well &= well;
        let counts: Vec<String> = counts
            .iter()
            .map(|(name, n)| format!("{name} {n}"))
            .collect();
        let verdict = if well { "ok" } else { "WRONG" };
        let _ = writeln!(self.text, "{what}: {} ({verdict})", counts.join(", "));
        if let Some(first) = errors.first() {
            let _ = writeln!(
                self.text,
                "    {} went wrong, the first with: {first}",
                errors.len()
            );
        }
    }
}

fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One HTTP request on a connection that stays open; gives the body.
fn request(stream: &mut TcpStream, target: SocketAddr) -> io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(buffer.get(..n).unwrap_or_default());
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        // The backends' bodies are one line each.
        let Some(name) = body.strip_suffix('\n') else {
            continue;
        };
        if !head.starts_with("HTTP/1.1 200") {
            let status = head.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("{status}: {name}")));
        }
        return Ok(name.to_owned());
    }
}

/// One datagram from a socket of its own, which makes it a flow of its own.
fn datagram(target: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"who is there?")?;
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..n).unwrap_or_default()).into_owned())
}
