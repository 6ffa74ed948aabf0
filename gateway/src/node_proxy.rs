//! Whether the Node's own proxy forwards: it is asked at its health address, as kube-proxy and what replaces it have it
//! (`--healthz-bind-address`).
//!
//! It has to say so itself that it is not well, or to fall silent: its rules go on without it, so a short restart
//! moves no address, and one that never answers (it listens elsewhere) is taken to work.

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
                reason: "NodeProxyNotReady".to_owned(),
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
    let mut answered: Option<Instant> = None;
    loop {
        let status = tokio::time::timeout(EVERY, ask(at)).await;
        let problem = match status {
            Ok(Ok(status)) => {
                answered = Some(Instant::now());
                (status != 200).then(|| {
                    format!(
                        "this node's kube-proxy says at {at} that it is not well (status {status})"
                    )
                })
            }
            Ok(Err(_)) | Err(_) => answered
                .filter(|at| at.elapsed() >= PATIENCE)
                .map(|_| format!("this node's kube-proxy answers at {at} no more")),
        };
        let is_news = *sender.borrow() != problem;
        if is_news {
            match &problem {
                Some(why) => {
                    tracing::error!(%why, "addresses of pools with forwarding: Node are not announced")
                }
                None => tracing::info!("this node's kube-proxy is well again"),
            }
            let _ = sender.send(problem);
        }
        tokio::time::sleep(EVERY).await;
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
