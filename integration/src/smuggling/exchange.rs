//! One case through one proxy, and what was seen of it on both sides.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::cases::{AnswerWanted, CorpusCase, RequestWanted};
use super::escapes::ByteScript;
use super::recorder::{Arrived, BETWEEN_PARTS, BY_ENDPOINT, ByteRecorder};
use super::strict::{Come, StrictAnswer};
use super::strict_fields::HttpFault;
use crate::clients;

/// The target of the request that follows each case on a connection of its own, to find out whether the proxy's
/// connection to the endpoint is in step.
const PROBE: &str = "/probe";

/// How long a client waits, for nothing tells it that nothing more comes.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// For the first byte.
    pub first: Duration,
    /// For more.
    pub more: Duration,
}

impl Quiet {
    /// As long as it takes where nothing else takes the machine's time.
    pub const SHORT: Self = Self {
        first: Duration::from_millis(500),
        more: Duration::from_millis(120),
    };

    /// For a case that was not seen as it should be, for the machine may have been busy.
    pub const LONG: Self = Self {
        first: Duration::from_secs(3),
        more: Duration::from_millis(800),
    };
}

/// Where a case goes, and who records it.
#[derive(Clone, Debug)]
pub struct CorpusLane {
    /// The proxy's address.
    pub to: SocketAddr,
    /// The endpoint's record.
    pub recorder: ByteRecorder,
}

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub struct ClientView {
    /// What came.
    pub bytes: Vec<u8>,
    /// The other side ended the connection.
    pub is_over: bool,
}

impl ClientView {
    /// The whole answers that came, and what is wrong with what came behind them.
    pub fn answers(&self, method: &str) -> (Vec<StrictAnswer>, Option<HttpFault>) {
        let (mut answers, mut rest) = (Vec::new(), self.bytes.as_slice());
        while !rest.is_empty() {
            match StrictAnswer::read(rest, method, self.is_over) {
                Ok(Come::Whole(answer, length)) => {
                    answers.push(answer);
                    rest = rest.get(length..).unwrap_or_default();
                }
                Ok(Come::Part { .. }) => return (answers, Some("an answer that is not whole")),
                Err(fault) => return (answers, Some(fault)),
            }
        }
        (answers, None)
    }
}

/// Whether an answer is the endpoint's, and not the proxy's.
pub fn is_endpoints(answer: &StrictAnswer) -> bool {
    answer.value(BY_ENDPOINT).is_some()
}

/// What was seen of a case of a request.
#[derive(Clone, Debug)]
pub struct RequestOutcome {
    /// What the client saw.
    pub client: ClientView,
    /// The method that it began with.
    pub method: String,
    /// What arrived, without the probe.
    pub arrived: Arrived,
    /// What is wrong with the probe's answer.
    pub probe: Option<String>,
}

/// What was seen of a case of an answer.
#[derive(Clone, Debug)]
pub struct AnswerOutcome {
    /// What the client saw.
    pub client: ClientView,
    /// What it saw of its next request on the same connection, where that was open.
    pub next: Option<ClientView>,
    /// What is wrong with the probe's answer.
    pub probe: Option<String>,
}

/// Sends a case's request.
pub fn send_request(
    lane: &CorpusLane,
    case: &CorpusCase<RequestWanted>,
    quiet: Quiet,
) -> io::Result<RequestOutcome> {
    lane.recorder.take();
    let client = {
        let mut stream = clients::connect_tcp(lane.to)?;
        converse(&mut stream, &case.script, quiet)
    };
    let probe = probe(lane, quiet);
    let mut arrived = lane.recorder.take();
    arrived.requests.retain(|it| it.target != PROBE);
    let bytes = case.script.bytes();
    let method = bytes.split(|it| *it == b' ').next().unwrap_or_default();
    Ok(RequestOutcome {
        client,
        method: String::from_utf8_lossy(method).trim().to_owned(),
        arrived,
        probe,
    })
}

/// Asks for a case's answer.
pub fn ask_answer(
    lane: &CorpusLane,
    case: &CorpusCase<AnswerWanted>,
    quiet: Quiet,
) -> io::Result<AnswerOutcome> {
    lane.recorder.answer_with(&case.script);
    let mut stream = clients::connect_tcp(lane.to)?;
    let wanted = &case.wanted;
    let client = converse(
        &mut stream,
        &get(wanted.method, "/case", wanted.minor),
        quiet,
    );
    let next = match client.is_over {
        true => None,
        false => Some(converse(&mut stream, &get("GET", "/next", 1), quiet)),
    };
    drop(stream);
    let probe = probe(lane, quiet);
    lane.recorder.take();
    Ok(AnswerOutcome {
        client,
        next,
        probe,
    })
}

fn get(method: &str, target: &str, minor: u8) -> ByteScript {
    let head = format!("{method} {target} HTTP/1.{minor}\r\nHost: corpus\r\n\r\n");
    ByteScript {
        parts: vec![head.into_bytes()],
        closes: false,
    }
}

/// Asks on a connection of its own; what is wrong with the answer.
fn probe(lane: &CorpusLane, quiet: Quiet) -> Option<String> {
    let view = clients::connect_tcp(lane.to).map(|mut stream| {
        let patient = Quiet {
            first: quiet.first.max(Duration::from_secs(2)),
            // The answer comes in one piece.
            more: Duration::from_millis(5),
        };
        converse(&mut stream, &get("GET", PROBE, 1), patient)
    });
    match view {
        Err(error) => Some(format!("the next client is not let in: {error}")),
        Ok(view) => match view.answers("GET") {
            (answers, None) if matches!(answers.as_slice(), [it] if it.status == 200 && it.body == b"GET /probe") => {
                None
            }
            _ => Some(format!(
                "the next client is answered {}",
                super::escapes::shown(&view.bytes, 200)
            )),
        },
    }
}

/// Says something, and reads until nothing more comes.
fn converse(stream: &mut TcpStream, script: &ByteScript, quiet: Quiet) -> ClientView {
    let mut view = ClientView::default();
    for (index, part) in script.parts.iter().enumerate() {
        if index > 0 {
            thread::sleep(BETWEEN_PARTS);
        }
        // Who has been refused may be unable to say more.
        if stream.write_all(part).is_err() {
            break;
        }
    }
    let mut room = vec![0; 64 << 10];
    loop {
        let patience = match view.bytes.is_empty() {
            true => quiet.first,
            false => quiet.more,
        };
        let _ = stream.set_read_timeout(Some(patience));
        match stream.read(&mut room) {
            Ok(0) => {
                view.is_over = true;
                return view;
            }
            Ok(length) => view.bytes.extend(room.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let kind = error.kind();
                view.is_over = !matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                return view;
            }
        }
    }
}
