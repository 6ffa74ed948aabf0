//! With time-outs that are short.

use super::*;
use crate::http::limits::HEAD_BYTES;
use tokio::time::{Instant, sleep};

/// Longer than a loaded machine takes for a step, and short for a test.
const TIME: Duration = Duration::from_secs(2);

/// The time-outs of an edge, where heads have [`TIME`].
fn times() -> HttpTimes {
    HttpTimes {
        head: TIME,
        endpoint: TIME,
        look: Duration::from_millis(100),
        ..HttpTimes::default()
    }
}

async fn edge(backends: &[SocketAddr]) -> Edge {
    Edge::with_times(route(AppProtocol::Http, backends, None), times()).await
}

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_is_cut_at_its_deadline() {
    let backend = Backend::http1("a").await;
    let mut edge = edge(&[backend.addr]).await;
    let stream = TcpStream::connect(edge.addr).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let started = Instant::now();
    let dripping = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: "
            .iter()
            .chain([b'x'; 1000].iter())
        {
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(TIME / 10).await;
        }
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("x-fairway-error: request_timeout\r\n"),
        "{answer}"
    );
    assert!(started.elapsed() < 2 * TIME, "{:?}", started.elapsed());
    edge.ended().await;
    dripping.abort();
    eventually("it counts as failed", || {
        edge.port.counters.failed.get() == 1
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_cut_without_a_word() {
    let mut edge = edge(&[]).await;
    let started = Instant::now();
    assert_eq!(edge.raw(b"").await, "");
    edge.ended().await;
    assert!(started.elapsed() <= 2 * TIME, "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_second_request_of_a_connection_has_a_deadline_of_its_own() {
    let backend = Backend::http1("a").await;
    let edge = edge(&[backend.addr]).await;
    let mut stream = TcpStream::connect(edge.addr).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 4096];
    let mut answer = String::new();
    while !answer.ends_with("hello") {
        let read = stream.read(&mut some).await.unwrap();
        assert_ne!(read, 0, "it ended after {answer}");
        answer += std::str::from_utf8(&some[..read]).unwrap();
    }
    // Idle for longer than a head may take.
    sleep(TIME * 3 / 2).await;
    let started = Instant::now();
    stream.write_all(b"GET / HT").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 408 "),
        "{}",
        answer.escape_ascii()
    );
    assert!(started.elapsed() >= TIME, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_head_without_end_is_cut_at_its_size() {
    let edge = edge(&[]).await;
    let stream = TcpStream::connect(edge.addr).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let writing = tokio::spawn(async move {
        let _ = write.write_all(b"GET / HTTP/1.1\r\nX: ").await;
        for _ in 0..3 * HEAD_BYTES / 100 {
            if write.write_all(&[b'x'; 100]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let mut first = [0; 13];
    read.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 431 ");
    writing.abort();
}

#[tokio::test]
async fn an_upgrade_that_is_not_answered_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = edge(&[listener.local_addr().unwrap()]).await;
    let answer = edge
        .raw(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(
        answer.contains("x-fairway-error: upstream_timeout\r\n"),
        "{answer}"
    );
}
