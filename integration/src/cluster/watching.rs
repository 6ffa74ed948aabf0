//! Watches of objects of the API server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Cluster;
use super::addresses::DOOR_PORT;
use crate::lab::Host;

/// The pause before a watch that could not begin is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// How often in a row a watch may fail to begin: the API server may be away for a while.
const TRIES: usize = 600;

/// An event of a watch, and when it came.
#[derive(Debug)]
pub struct WatchEvent {
    /// When its line was read.
    pub at: Instant,
    /// `ADDED`, `MODIFIED`, …; `ERROR`, after which nothing comes, where the API server can't go on
    /// from where it was.
    pub kind: String,
    /// The object.
    pub object: Value,
}

impl Cluster {
    /// Watches the objects of a kind from now on, every state in order, until the receiver is dropped
    /// and something changes.
    pub fn watch(&self, kind: &str, namespace: &str) -> Result<Receiver<WatchEvent>> {
        let path = self.path(kind, namespace, "")?;
        let list = self.request("GET", &format!("{path}?limit=1"), None)?.1;
        self.watch_from(path, &list)
    }

    /// Watches what is at `path` from where a list of it was, every state in order, until the receiver
    /// is dropped and something changes. Where the API server ends a watch, as it does with slow ones,
    /// the next begins where it ended.
    pub(super) fn watch_from(&self, path: String, list: &Value) -> Result<Receiver<WatchEvent>> {
        let version = list.pointer("/metadata/resourceVersion");
        let version = version.and_then(Value::as_str);
        let mut watch = Watch {
            host: self.host.clone(),
            version: version.context("a list without a version")?.to_owned(),
            path,
        };
        let (sender, receiver) = mpsc::channel();
        let mut lines = watch.begin()?;
        thread::spawn(move || {
            while watch.tell(lines, &sender) {
                let Some(next) = watch.begin_again() else {
                    return;
                };
                lines = next;
            }
        });
        Ok(receiver)
    }
}

struct Watch {
    host: Host,
    path: String,
    /// What has been told last.
    version: String,
}

impl Watch {
    fn begin(&self) -> Result<BufReader<TcpStream>> {
        let Self { path, version, .. } = self;
        let door = SocketAddr::from((Ipv4Addr::LOCALHOST, DOOR_PORT));
        let mut stream = self.host.run(|| TcpStream::connect(door))?;
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
            if lines.read_line(&mut line)? == 0 {
                bail!("GET {path}: no answer");
            }
        }
        Ok(lines)
    }

    fn begin_again(&self) -> Option<BufReader<TcpStream>> {
        (0..TRIES).find_map(|_| {
            thread::sleep(AGAIN);
            self.begin().ok()
        })
    }

    /// Tells until the watch ends; whether it is to go on.
    fn tell(&mut self, lines: BufReader<TcpStream>, sender: &Sender<WatchEvent>) -> bool {
        for line in lines.lines().map_while(Result::ok) {
            let at = Instant::now();
            // The last line of a watch that is cut off.
            let Ok(mut event) = serde_json::from_str::<Value>(&line) else {
                return true;
            };
            let told = WatchEvent {
                at,
                kind: event["type"].as_str().unwrap_or_default().to_owned(),
                object: event["object"].take(),
            };
            let version = told.object.pointer("/metadata/resourceVersion");
            if let Some(version) = version.and_then(Value::as_str) {
                version.clone_into(&mut self.version);
            }
            let ends = told.kind == "ERROR";
            if sender.send(told).is_err() || ends {
                return false;
            }
        }
        true
    }
}
