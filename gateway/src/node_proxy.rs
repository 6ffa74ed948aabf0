//! Whether the Node's own proxy forwards: it is asked at its health address, as kube-proxy and what replaces it have it
//! (`--healthz-bind-address`).
//!
//! It has to say so itself that it is not well, or to fall silent: its rules go on without it, so a short restart
//! moves no address, and one that never answers (it listens elsewhere, as Cilium's does unless it is told not to) is taken
//! to work. Its mode (iptables, nftables, IPVS) makes no difference to that.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_config::exchange::{ClaimKind, ListenerReport, ListenerState};
use fairway_gateway_core::route::ForwardedPlace;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The reason of a place for which it does not forward.
pub(crate) const NODE_PROXY_NOT_READY: &str = "NodeProxyNotReady";

/// Where kube-proxy says how it is.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);

/// How often it is asked, and how long it may take to answer.
const EVERY: Duration = Duration::from_secs(1);

/// Who has answered before may be silent for so long: a restart takes less.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the Node's own proxy, as the control task has it.
#[derive(Debug, Default)]
pub(crate) struct NodeProxy {
    watching: Option<Watching>,
    /// Why it does not forward; the end of a sentence.
    problem: Option<String>,
}

#[derive(Debug)]
struct Watching {
    problem: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl NodeProxy {
    /// Begins to ask, if it has not begun. Needs a Tokio runtime.
    pub(crate) fn start(&mut self) {
        if self.watching.is_none() {
            let (sender, problem) = watch::channel(None);
            let task = tokio::spawn(ask_often(HEALTH, sender));
            self.watching = Some(Watching { problem, task });
        }
    }

    /// Waits until something else is known.
    pub(crate) async fn changed(&mut self) {
        let Some(watching) = &mut self.watching else {
            return std::future::pending().await;
        };
        if watching.problem.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.problem
            .clone_from(&watching.problem.borrow_and_update());
    }

    /// What is to be said of a place for which it forwards.
    pub(crate) fn report(&self, place: &ForwardedPlace) -> ListenerReport {
        let state = match &self.problem {
            Some(message) => ListenerState::Failed {
                reason: NODE_PROXY_NOT_READY.to_owned(),
                message: message.clone(),
            },
            None if place.endpoints == 0 => ListenerState::Refusing,
            None => ListenerState::Forwarded,
        };
        ListenerReport {
            listen: place.listen,
            protocol: place.protocol,
            port: place.listen.0.port(),
            kind: ClaimKind::Vip,
            state,
        }
    }
}

impl Drop for NodeProxy {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.task.abort();
        }
    }
}

async fn ask_often(at: SocketAddr, sender: watch::Sender<Option<String>>) {
    let mut health = NodeProxyHealth::new(at, Instant::now());
    loop {
        let answer = tokio::time::timeout(EVERY, ask(at)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        health.take(Instant::now(), answer);
        if health.is_silent_from_the_start() {
            tracing::info!(
                %at,
                "nobody says here whether this node's kube-proxy, or what replaces it, is well: it is taken to forward"
            );
        }
        let is_news = *sender.borrow() != health.problem;
        if is_news {
            match &health.problem {
                Some(why) => {
                    tracing::error!(%why, "addresses of pools with forwarding: Node are not announced");
                }
                None => tracing::info!("this node's kube-proxy is well again"),
            }
            let _ = sender.send(health.problem.clone());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What its answers say.
#[derive(Debug)]
struct NodeProxyHealth {
    at: SocketAddr,
    /// When it answered last, or the first question was asked.
    since: Instant,
    has_answered: bool,
    /// It has never answered, and that has been said.
    is_noted: bool,
    /// Why it does not forward; the end of a sentence.
    problem: Option<String>,
}

impl NodeProxyHealth {
    fn new(at: SocketAddr, now: Instant) -> Self {
        Self {
            at,
            since: now,
            has_answered: false,
            is_noted: false,
            problem: None,
        }
    }

    /// Takes in an answer: a status, or why there is none.
    fn take(&mut self, now: Instant, answer: io::Result<u16>) {
        let at = self.at;
        let silence = match answer {
            Ok(status) if status < 400 => {
                (self.since, self.has_answered, self.problem) = (now, true, None);
                return;
            }
            Ok(status) if status >= 500 => {
                (self.since, self.has_answered) = (now, true);
                self.problem = Some(format!(
                    "this node's kube-proxy says at {at} that it is not well (status {status})"
                ));
                return;
            }
            Ok(status) => format!("what answers is no kube-proxy, status {status}"),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => "it does not run".to_owned(),
                io::ErrorKind::TimedOut => "it takes connections and says nothing".to_owned(),
                _ => error.to_string(),
            },
        };
        // One that was not well and falls silent is not well.
        if self.has_answered && self.problem.is_none() && now - self.since >= PATIENCE {
            self.problem = Some(format!(
                "this node's kube-proxy has not answered at {at} for a minute ({silence})"
            ));
        }
    }

    /// Whether it has not answered since the first question; says so once.
    fn is_silent_from_the_start(&mut self) -> bool {
        let is_silent = !self.has_answered && self.since.elapsed() >= PATIENCE;
        is_silent && !std::mem::replace(&mut self.is_noted, true)
    }
}

/// The status of its answer. `/healthz` answers 503 while the Node is about to be removed, although all goes on
/// (KEP-3836); `/livez` does not, and what replaces kube-proxy may lack it.
async fn ask(at: SocketAddr) -> io::Result<u16> {
    match ask_for(at, "/livez").await? {
        404 => ask_for(at, "/healthz").await,
        status => Ok(status),
    }
}

async fn ask_for(at: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // `HTTP/1.1 200`
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let line = std::str::from_utf8(&line).unwrap_or_default();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..));
    status
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a server that answers like this is taken for.
    async fn judged(answer: &'static str) -> Option<u16> {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = server.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = server.accept().await.unwrap();
                let mut asked = [0; 1024];
                let length = stream.read(&mut asked).await.unwrap_or_default();
                let is_old = answer.starts_with("404 ");
                let answer = match is_old && asked[..length].starts_with(b"GET /livez ") {
                    true => "HTTP/1.1 404 Not Found\r\n\r\n",
                    false => answer.trim_start_matches("404 "),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let status = ask(at).await;
        serving.abort();
        status.ok()
    }

    #[tokio::test]
    async fn the_status_of_an_answer_is_read() {
        assert_eq!(judged("HTTP/1.1 200 OK\r\n\r\n{}").await, Some(200));
        assert_eq!(
            judged("HTTP/1.1 503 Service Unavailable\r\n\r\n").await,
            Some(503)
        );
        assert_eq!(judged("HTTP/1.0 200 OK\r\n\r\n").await, Some(200));
        // One that has no /livez.
        assert_eq!(judged("404 HTTP/1.1 200 OK\r\n\r\n").await, Some(200));
        assert_eq!(judged("SSH-2.0-OpenSSH").await, None);
        assert_eq!(judged("").await, None);
    }

    #[test]
    fn it_has_to_say_that_it_is_not_well_or_to_fall_silent_for_a_minute() {
        let silent = |kind: io::ErrorKind| Err(io::Error::from(kind));
        let (dead, frozen) = (io::ErrorKind::ConnectionRefused, io::ErrorKind::TimedOut);
        type Answers = Vec<(u64, io::Result<u16>)>;
        let cases: Vec<(Answers, Option<&str>)> = vec![
            // It listens elsewhere, or something else is there.
            (vec![(0, silent(dead)), (600, silent(dead))], None),
            (vec![(0, Ok(404)), (600, Ok(404))], None),
            (vec![(0, Ok(200))], None),
            (vec![(0, Ok(503))], Some("is not well (status 503)")),
            (vec![(0, Ok(503)), (1, Ok(200))], None),
            // A restart, and an end.
            (vec![(0, Ok(200)), (59, silent(dead))], None),
            (
                vec![(0, Ok(200)), (60, silent(dead))],
                Some("for a minute (it does not run)"),
            ),
            (
                vec![(0, Ok(200)), (60, silent(frozen))],
                Some("and says nothing"),
            ),
            (
                vec![(0, Ok(200)), (60, Ok(404))],
                Some("no kube-proxy, status 404"),
            ),
            (vec![(0, Ok(200)), (60, silent(dead)), (61, Ok(200))], None),
            // Its last word counts.
            (
                vec![(0, Ok(503)), (1, silent(dead))],
                Some("is not well (status 503)"),
            ),
        ];
        for (answers, wanted) in cases {
            let start = Instant::now();
            let said = format!("{answers:?}");
            let mut health = NodeProxyHealth::new(HEALTH, start);
            for (second, answer) in answers {
                health.take(start + Duration::from_secs(second), answer);
            }
            let problem = health.problem.as_deref();
            let is_it = match wanted {
                Some(words) => problem.is_some_and(|it| it.contains(words)),
                None => problem.is_none(),
            };
            assert!(is_it, "{said}: {problem:?}");
        }
    }

    #[test]
    fn a_place_is_forwarded_while_the_proxy_is_well_and_has_an_endpoint() {
        let place = |endpoints| ForwardedPlace {
            listen: fairway_config::net::ListenAddr("203.0.113.1:80".parse().unwrap()),
            protocol: fairway_config::net::Protocol::Tcp,
            endpoints,
        };
        let mut proxy = NodeProxy::default();
        assert_eq!(proxy.report(&place(1)).state, ListenerState::Forwarded);
        assert_eq!(proxy.report(&place(0)).state, ListenerState::Refusing);
        proxy.problem = Some("it is not well".to_owned());
        assert_eq!(proxy.report(&place(1)).state.as_str(), "failed");
    }
}
