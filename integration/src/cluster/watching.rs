//! Hearing of objects as the API server tells of them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Cluster;
use super::component::DOOR_PORT;

/// What a watch told, and when it came.
#[derive(Debug)]
pub struct Told {
    /// When its line was read.
    pub at: Instant,
    /// `ADDED`, `MODIFIED`, …
    pub kind: String,
    /// The object.
    pub object: Value,
}

impl Cluster {
    /// Watches the objects of a kind from now on, until the receiver is dropped and something
    /// changes, or the cluster ends.
    pub fn watch(&self, kind: &str, namespace: &str) -> Result<Receiver<Told>> {
        let path = self.path(kind, namespace, "")?;
        let list = self.request("GET", &format!("{path}?limit=1"), None)?.1;
        let version = list
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .context("a list without a version")?
            .to_owned();
        let mut stream = self
            .host
            .run(|| TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, DOOR_PORT))))?;
        // HTTP/1.0: the body is what comes until the end, without chunks around it.
        write!(
            stream,
            "GET {path}?watch=1&resourceVersion={version} HTTP/1.0\r\nHost: localhost\r\nAccept: \
             application/json\r\n\r\n"
        )?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.contains(" 200 "), "GET {path}: {line}");
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line)?;
        }
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let at = Instant::now();
                let Ok(mut event) = serde_json::from_str::<Value>(&line) else {
                    return;
                };
                let told = Told {
                    at,
                    kind: event["type"].as_str().unwrap_or_default().to_owned(),
                    object: event["object"].take(),
                };
                if sender.send(told).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}
