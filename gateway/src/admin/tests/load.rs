//! Many clients at once, slow ones, and clients that never read: a probe is answered all the same.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A probe that is not answered within a second has failed: kubelet's default for `timeoutSeconds`.
async fn probe(admin: &Admin, what: &str) {
    for path in ["/livez", "/readyz", "/readyz?verbose"] {
        let answer = tokio::time::timeout(Duration::from_secs(1), admin.get(path)).await;
        let (status, _) = answer.unwrap_or_else(|_| panic!("{what}: {path} timed out"));
        assert_eq!(status, 200, "{what}: {path}");
    }
}

/// What many clients do at once, each on a connection of its own.
#[derive(Clone, Copy, Debug)]
enum Misbehaving {
    Idle,
    HalfAHead,
    AByteNowAndThen,
    NeverRead,
    AskAndNeverReadAgain,
}

impl Misbehaving {
    async fn come(self, admin: &Admin) -> TcpStream {
        let mut stream = TcpStream::connect(admin.addr).await.unwrap();
        match self {
            Self::Idle => {}
            Self::HalfAHead => stream.write_all(b"GET /livez HT").await.unwrap(),
            Self::AByteNowAndThen => stream.write_all(b"G").await.unwrap(),
            Self::NeverRead | Self::AskAndNeverReadAgain => {
                let path = match self {
                    Self::NeverRead => "/metrics",
                    _ => "/livez",
                };
                let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
        }
        stream
    }
}

#[tokio::test]
async fn a_probe_is_answered_in_time_whatever_two_hundred_clients_do() {
    for metrics_alone in [false, true] {
        for crowd in [
            Misbehaving::Idle,
            Misbehaving::HalfAHead,
            Misbehaving::AByteNowAndThen,
            Misbehaving::NeverRead,
            Misbehaving::AskAndNeverReadAgain,
        ] {
            let what = format!("{crowd:?}, metrics alone: {metrics_alone}");
            let admin = Admin::start(metrics_alone).await;
            // More than the kernel's buffers hold.
            admin.shown.padding.store(8 << 20, Ordering::Relaxed);
            let mut clients = Vec::new();
            for _ in 0..200 {
                clients.push(crowd.come(&admin).await);
            }
            for byte in b"ET /l" {
                probe(&admin, &what).await;
                if matches!(crowd, Misbehaving::AByteNowAndThen) {
                    for client in &mut clients {
                        // Some were told to go.
                        let _ = client.write_all(&[*byte]).await;
                    }
                }
            }
            drop(clients);
        }
    }
}

#[tokio::test]
async fn a_probe_is_answered_while_metrics_and_lists_are_made() {
    for metrics_alone in [false, true] {
        let admin = Admin::start(metrics_alone).await;
        let shown = admin.shown.clone();
        let (held, release) = std::sync::mpsc::channel::<()>();
        let making = std::thread::spawn(move || {
            let _making = shown.making.lock().unwrap();
            let _ = release.recv();
        });
        let paths = ["/metrics", "/api/v1/services"];
        let mut asking = Vec::new();
        for n in 0..100 {
            let mut stream = TcpStream::connect(admin.addr).await.unwrap();
            let path = paths[n % 2];
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            asking.push(stream);
        }
        probe(&admin, "busy").await;
        drop(held);
        making.join().unwrap();
        probe(&admin, "not busy any more").await;
    }
}

#[tokio::test]
async fn a_scrape_is_answered_though_others_never_read_theirs() {
    let admin = Admin::start(true).await;
    admin.shown.padding.store(8 << 20, Ordering::Relaxed);
    let mut lazy = Vec::new();
    for _ in 0..20 {
        lazy.push(Misbehaving::NeverRead.come(&admin).await);
    }
    let scrape = tokio::time::timeout(Duration::from_secs(20), admin.get("/metrics"));
    let (status, body) = scrape.await.unwrap();
    assert_eq!((status, body.lines().last()), (200, Some("up 1")));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_slowly_has_five_seconds_as_a_whole() {
    let admin = Admin::start(false).await;
    let mut slow = TcpStream::connect(admin.addr).await.unwrap();
    let began = tokio::time::Instant::now();
    let head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: ".iter();
    for byte in head.chain(std::iter::repeat(&b'a')) {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_shutdown_ends_it_though_a_connection_is_open() {
    let admin = Admin::start(false).await;
    let mut kept = TcpStream::connect(admin.addr).await.unwrap();
    kept.write_all(b"GET /li").await.unwrap();
    // It was accepted before this one.
    assert_eq!(admin.get("/livez").await.0, 200);
    admin.shutdown.cancel();
    admin.serving.await.unwrap();
    let mut rest = Vec::new();
    // Closed or reset, as not all was read that it said.
    let _ = kept.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}
