//! The endpoint: it records what arrives on each connection, and answers each request that has come whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::escapes::ByteScript;
use super::strict::{Come, StrictRequest};
use super::strict_fields::HttpFault;
use crate::lab::{Host, Served};
use crate::servers::{accept, listen};

/// The time between two parts of a message.
pub const BETWEEN_PARTS: Duration = Duration::from_millis(15);

/// A field of every answer of the endpoint, which tells them from answers of proxies.
pub const BY_ENDPOINT: &str = "x-endpoint";

/// What arrived since it was asked last.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// All bytes, those of a connection together.
    pub bytes: Vec<u8>,
    /// The requests that came whole, in the order in which they came.
    pub requests: Vec<StrictRequest>,
    /// What is wrong with what came on a connection; it has ended then.
    pub fault: Option<HttpFault>,
}

/// What an endpoint recorded, and what it is to answer.
#[derive(Clone, Debug, Default)]
pub struct ByteRecorder(Arc<Mutex<RecordedBytes>>);

#[derive(Debug, Default)]
struct RecordedBytes {
    connections: u64,
    bytes: BTreeMap<u64, Vec<u8>>,
    requests: Vec<StrictRequest>,
    fault: Option<HttpFault>,
    /// What answers a request for `/case`; nothing: as every other.
    answer: Option<ByteScript>,
}

impl ByteRecorder {
    /// What arrived since this was called last.
    pub fn take(&self) -> Arrived {
        self.with(|it| Arrived {
            bytes: std::mem::take(&mut it.bytes)
                .into_values()
                .flatten()
                .collect(),
            requests: std::mem::take(&mut it.requests),
            fault: it.fault.take(),
        })
    }

    /// Requests for `/case` are answered with this from now on.
    pub fn answer_with(&self, script: &ByteScript) {
        self.with(|it| it.answer = Some(script.clone()));
    }

    fn with<T>(&self, work: impl FnOnce(&mut RecordedBytes) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve(self, mut stream: TcpStream) {
        let id = self.with(|it| {
            it.connections += 1;
            it.connections
        });
        let (mut pending, mut room) = (Vec::new(), vec![0; 64 << 10]);
        let mut is_continued = false;
        loop {
            let Ok(length @ 1..) = stream.read(&mut room).await else {
                return;
            };
            let new = room.get(..length).unwrap_or_default();
            pending.extend(new);
            self.with(|it| it.bytes.entry(id).or_default().extend(new));
            loop {
                match StrictRequest::read(&pending) {
                    Ok(Come::Part { expects }) => {
                        if expects && !is_continued {
                            is_continued = true;
                            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                        }
                        break;
                    }
                    Ok(Come::Whole(request, taken)) => {
                        is_continued = false;
                        pending.drain(..taken);
                        let script = self.note(&request);
                        let answer = script.unwrap_or_else(|| usual(&request));
                        if say(&mut stream, &answer).await.is_err() || answer.closes {
                            return;
                        }
                    }
                    Err(fault) => {
                        self.with(|it| it.fault = it.fault.or(Some(fault)));
                        let text = format!(
                            "HTTP/1.1 400 Bad Request\r\n{BY_ENDPOINT}: refuses\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        );
                        let _ = stream.write_all(text.as_bytes()).await;
                        return;
                    }
                }
            }
        }
    }

    /// Notes a request; what is to be answered, where that is not the usual.
    fn note(&self, request: &StrictRequest) -> Option<ByteScript> {
        self.with(|it| {
            it.requests.push(request.clone());
            it.answer.clone().filter(|_| request.target == "/case")
        })
    }
}

/// The usual answer: it says what was asked.
fn usual(request: &StrictRequest) -> ByteScript {
    let status = match request.method.as_str() {
        // A proxy would make a tunnel of a 200.
        "CONNECT" => "405 Method Not Allowed",
        _ => "200 OK",
    };
    let mut body = format!("{} {}", request.method, request.target).into_bytes();
    let length = body.len();
    if request.method == "HEAD" {
        body.clear();
    }
    let head =
        format!("HTTP/1.1 {status}\r\n{BY_ENDPOINT}: answers\r\nContent-Length: {length}\r\n\r\n");
    ByteScript {
        parts: vec![[head.as_bytes(), body.as_slice()].concat()],
        closes: false,
    }
}

async fn say(stream: &mut TcpStream, script: &ByteScript) -> std::io::Result<()> {
    for (index, part) in script.parts.iter().enumerate() {
        if index > 0 {
            tokio::time::sleep(BETWEEN_PARTS).await;
        }
        stream.write_all(part).await?;
    }
    Ok(())
}

/// Has recorders listen, each at its address.
pub fn record(host: &Host, recorders: Vec<(SocketAddr, ByteRecorder)>) -> Result<Served> {
    host.serve(move || {
        for (at, recorder) in recorders {
            let listener = listen(at)?;
            tokio::spawn(accept(listener, move |stream| {
                recorder.clone().serve(stream)
            }));
        }
        Ok(std::future::pending())
    })
}
