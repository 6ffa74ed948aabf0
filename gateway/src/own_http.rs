//! The HTTP server of Fairway's own addresses: admin, metrics and health check ports.
//!
//! A probe must be answered whatever other clients do. So:
//! - a connection is accepted at once. Where that is one too many, another one is closed: the one that has waited
//!   longest for the head of its request; where there is none, the oldest of those whose answer is being made; at
//!   last the oldest of those that are being answered;
//! - the whole head of a request has to arrive within [`HEAD`];
//! - a connection carries one request, and is not kept open after the answer;
//! - no connection lasts longer than [`LIFETIME`].
//!
//! Each listener has its own [connections](OwnConnections), and so has each Service's health check port: the clients
//! of one do not use up the room of another.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// How long a request's head may take to arrive.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long answers under way may take once the process stops.
const FINISH: Duration = Duration::from_secs(5);
/// The longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far a connection's request has come. Where there is no room, the least is closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RequestStage {
    /// Its head has not arrived.
    Head,
    /// Its answer is being made, or waits for its turn.
    Preparing,
    /// Its answer is being written.
    Answering,
}

/// The open connections of one listener.
#[derive(Debug)]
pub(crate) struct OwnConnections {
    most: usize,
    started: Instant,
    open: Mutex<OpenPeers>,
}

#[derive(Debug, Default)]
struct OpenPeers {
    /// The number of the last connection.
    last: u64,
    /// In the order in which they are closed where there is no room.
    connections: BTreeMap<(RequestStage, u64), Arc<Peer>>,
}

/// A connection as the others see it.
#[derive(Debug)]
struct Peer {
    end: CancellationToken,
    /// When the client last took bytes of its answer, in milliseconds since the start of the listener.
    taken: AtomicU64,
}

/// One of the open connections of a listener, until it is dropped.
#[derive(Debug)]
pub(crate) struct OwnConnection {
    of: Arc<OwnConnections>,
    peer: Arc<Peer>,
    place: Mutex<ConnectionPlace>,
}

#[derive(Debug)]
struct ConnectionPlace {
    key: (RequestStage, u64),
    /// A permit that it holds until it ends.
    permit: Option<OwnedSemaphorePermit>,
}

impl OwnConnections {
    /// A listener without connections, which may have at most `most`.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: most.max(1),
            started: Instant::now(),
            open: Mutex::default(),
        })
    }

    /// Adds a connection. Closes another one where that is too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Arc<OwnConnection> {
        let peer = Arc::new(Peer {
            end: CancellationToken::new(),
            taken: AtomicU64::new(0),
        });
        let mut open = self.lock();
        if open.connections.len() >= self.most
            && let Some((_, first)) = open.connections.pop_first()
        {
            first.end.cancel();
        }
        let key = open.insert(RequestStage::Head, peer.clone());
        drop(open);
        Arc::new(OwnConnection {
            of: self.clone(),
            peer,
            place: Mutex::new(ConnectionPlace { key, permit: None }),
        })
    }

    /// Closes the connections whose client has taken no byte of its answer for `after`.
    pub(crate) fn end_stalled(&self, after: Duration) {
        let since = self.now().saturating_sub(millis(after));
        let answering = (RequestStage::Answering, 0)..;
        for (_, peer) in self.lock().connections.range(answering) {
            if peer.taken.load(Ordering::Relaxed) < since {
                peer.end.cancel();
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().connections.len()
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, OpenPeers> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenPeers {
    fn insert(&mut self, stage: RequestStage, peer: Arc<Peer>) -> (RequestStage, u64) {
        self.last += 1;
        let key = (stage, self.last);
        self.connections.insert(key, peer);
        key
    }
}

impl OwnConnection {
    /// The connections of the same listener.
    pub(crate) fn all(&self) -> &OwnConnections {
        &self.of
    }

    /// Holds a permit until the connection ends.
    pub(crate) fn hold(&self, permit: OwnedSemaphorePermit) {
        self.lock().permit = Some(permit);
    }

    fn set_stage(&self, stage: RequestStage) {
        self.peer.taken.store(self.of.now(), Ordering::Relaxed);
        let mut place = self.lock();
        let mut open = self.of.lock();
        // One that was told to end is no longer in the list.
        if let Some(peer) = open.connections.remove(&place.key) {
            place.key = open.insert(stage, peer);
        }
    }

    fn stage(&self) -> RequestStage {
        self.lock().key.0
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionPlace> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnConnection {
    fn drop(&mut self) {
        let key = self.lock().key;
        self.of.lock().connections.remove(&key);
    }
}

/// Serves one connection until it ends. `answer` is called once; the request's extensions have the
/// [`OwnConnection`].
pub(crate) async fn carry<A, F, B>(
    stream: TcpStream,
    connection: Arc<OwnConnection>,
    stopping: &CancellationToken,
    answer: A,
) where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    let asked = |mut request: Request<Incoming>| {
        connection.set_stage(RequestStage::Preparing);
        request.extensions_mut().insert(connection.clone());
        let (answer, connection) = (answer(request), &connection);
        async move {
            let response = answer.await;
            connection.set_stage(RequestStage::Answering);
            Ok::<_, std::convert::Infallible>(response)
        }
    };
    let watched = TimedStream {
        stream,
        connection: connection.clone(),
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(watched), service_fn(asked));
    tokio::pin!(serving);
    let mut is_late = false;
    loop {
        let patience = if is_late { LIFETIME - HEAD } else { HEAD };
        // How a client's connection ends is of no interest to anyone.
        tokio::select! {
            _ = &mut serving => return,
            () = connection.peer.end.cancelled() => return,
            () = stopping.cancelled() => break,
            () = tokio::time::sleep(patience) => {
                if is_late || connection.stage() == RequestStage::Head {
                    return;
                }
                is_late = true;
            }
        }
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(FINISH, serving).await;
}

/// A stream that notes when its client last took bytes.
struct TimedStream {
    stream: TcpStream,
    connection: Arc<OwnConnection>,
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.taken();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        self.taken();
        Poll::Ready(written)
    }
}

impl TimedStream {
    fn taken(&self) {
        let now = self.connection.of.now();
        self.connection.peer.taken.store(now, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// Which of the connections were told to end.
    fn ended(all: &[Arc<OwnConnection>]) -> Vec<usize> {
        let ended = all.iter().enumerate();
        ended
            .filter(|(_, it)| it.peer.end.is_cancelled())
            .map(|(at, _)| at)
            .collect()
    }

    #[test]
    fn without_room_the_one_goes_that_waits_longest_for_its_head() {
        let connections = OwnConnections::new(3);
        let mut all: Vec<_> = (0..3).map(|_| connections.admit()).collect();
        all[0].set_stage(RequestStage::Answering);
        assert_eq!(ended(&all), [0_usize; 0]);
        all.push(connections.admit());
        assert_eq!(ended(&all), [1]);
        all[2].set_stage(RequestStage::Preparing);
        all[3].set_stage(RequestStage::Preparing);
        all.push(connections.admit());
        all.push(connections.admit());
        assert_eq!(ended(&all), [1, 2, 4], "what is not asked goes first");
        all[5].set_stage(RequestStage::Answering);
        all.push(connections.admit());
        assert_eq!(ended(&all), [1, 2, 3, 4], "what is answered goes last");
        assert_eq!(connections.len(), 3);
        all.clear();
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn one_that_was_told_to_end_gets_no_place_again() {
        let connections = OwnConnections::new(1);
        let first = connections.admit();
        let second = connections.admit();
        first.set_stage(RequestStage::Answering);
        assert_eq!(connections.len(), 1);
        drop(first);
        assert_eq!(connections.len(), 1);
        drop(second);
        assert_eq!(connections.len(), 0);
    }

    #[test]
    fn only_who_takes_nothing_of_an_answer_is_stalled() {
        let connections = OwnConnections::new(8);
        let all: Vec<_> = (0..3).map(|_| connections.admit()).collect();
        all[1].set_stage(RequestStage::Preparing);
        all[2].set_stage(RequestStage::Answering);
        connections.end_stalled(Duration::from_secs(60));
        assert_eq!(ended(&all), [0_usize; 0]);
        while connections.now() < 2 {
            std::thread::yield_now();
        }
        connections.end_stalled(Duration::ZERO);
        assert_eq!(ended(&all), [2]);
    }
}
