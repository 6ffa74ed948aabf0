//! Endpoints that fail are left alone, and taken back.

use std::net::SocketAddr;
use std::time::Duration;

use fairway_config::net::Protocol;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

const PORT: u16 = 4010;

fn is_left_alone(running: &Running, endpoint: SocketAddr) -> bool {
    let rows = running.gateway.endpoints();
    let row = rows.iter().find(|row| row.endpoint.0 == endpoint);
    let row = row.expect("the endpoint is listed");
    row.state == "unreachable" && row.why.contains("it is left alone")
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_left_alone_and_taken_back() {
    let vip = SocketAddr::new(vip(), PORT);
    let spec = service("left", vip.ip(), PORT, Protocol::Tcp);
    let (alive, gone) = (echo().await, dead());
    let running = Running::start(settings(), spec.with(&[alive, gone])).await;
    running.listening(vip).await;
    for _ in 0..60 {
        assert_eq!(greeted(vip).await.1, alive);
    }
    assert!(is_left_alone(&running, gone));
    let (_, port) = running.gateway.ports().remove(0);
    let refused = || port.counters.connect_errors()["refused"];
    assert!((3..10).contains(&refused()), "{} dials", refused());

    echo_at(gone).await;
    until("it is taken back", || async {
        greeted(vip).await;
        !is_left_alone(&running, gone)
    })
    .await;
    let found = distinct(8, || async { greeted(vip).await.1 }).await;
    assert_eq!(found.len(), 2, "{found:?}");
    running.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_resets_what_it_accepts_is_left_alone_though_it_is_reached() {
    let vip = SocketAddr::new(vip(), PORT);
    let spec = service("resets", vip.ip(), PORT, Protocol::Tcp);
    let resetting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resets = resetting.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = resetting.accept().await {
            tokio::spawn(async move {
                // The gateway has the connection by then.
                tokio::time::sleep(Duration::from_millis(20)).await;
                socket2::SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            });
        }
    });
    let alive = echo().await;
    let running = Running::start(settings(), spec.with(&[alive, resets])).await;
    running.listening(vip).await;
    let mut failed = 0;
    for _ in 0..60 {
        let greeting = async { TcpStream::connect(vip).await?.read_u8().await };
        failed += usize::from(within(greeting).await.is_err());
    }
    // Five show it; others are trials, one after 2 s.
    assert!((5..8).contains(&failed), "{failed} clients were reset");
    assert!(is_left_alone(&running, resets));
    let (_, port) = running.gateway.ports().remove(0);
    assert!(port.counters.connect_errors()["reset"] >= 5);
    running.listening(vip).await;
    running.stop().await;
}
