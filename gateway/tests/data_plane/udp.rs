//! UDP: flows and where they go.

use std::net::SocketAddr;

use fairway_config::net::Protocol;
use tokio::net::UdpSocket;

use crate::harness::*;

const PORT: u16 = 4002;

fn udp(of: &str) -> (Spec, SocketAddr) {
    let vip = vip();
    (
        service(of, vip, PORT, Protocol::Udp),
        SocketAddr::new(vip, PORT),
    )
}

async fn client(vip: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Connected, so that an answer from anywhere but the VIP is not received.
    client.connect(vip).await.unwrap();
    client
}

/// Sends a datagram until it is answered, as UDP clients do, and says who answered.
async fn asked(client: &UdpSocket, what: &[u8]) -> SocketAddr {
    let mut answer = vec![0; 65_536];
    within(async {
        loop {
            // An error tells of an earlier datagram.
            let _ = client.send(what).await;
            let received = tokio::time::timeout(
                std::time::Duration::from_millis(200),
                client.recv(&mut answer),
            );
            let Ok(Ok(bytes)) = received.await else {
                continue;
            };
            let answer = &answer[..bytes];
            let space = answer.iter().position(|byte| *byte == b' ').unwrap();
            if &answer[space + 1..] == what {
                return String::from_utf8_lossy(&answer[..space]).parse().unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn answers_come_from_the_vip_and_flows_stay_on_their_endpoint() {
    let (spec, vip) = udp("echo");
    let backends = [udp_echo().await, udp_echo().await];
    let running = Running::start(settings(), spec.with(&backends)).await;
    running.listening(vip).await;
    let one = client(vip).await;
    let seen = distinct(10, || asked(&one, b"x")).await;
    assert_eq!(seen.len(), 1);
    let all = distinct(16, || async { asked(&client(vip).await, b"y").await }).await;
    assert_eq!(all, backends.into());
    running.stop().await;
}

#[tokio::test]
async fn the_largest_datagram_passes() {
    let (spec, vip) = udp("large");
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let running = Running::start(settings(), spec.with(&[backend.local_addr().unwrap()])).await;
    running.listening(vip).await;
    let client = client(vip).await;
    let largest = vec![3; 65_507];
    client.send(&largest).await.unwrap();
    let mut received = vec![0; 65_536];
    let (bytes, from) = within(backend.recv_from(&mut received)).await.unwrap();
    assert!(received[..bytes] == largest);
    backend.send_to(&largest, from).await.unwrap();
    let bytes = within(client.recv(&mut received)).await.unwrap();
    assert!(received[..bytes] == largest);
    running.stop().await;
}

#[tokio::test]
async fn a_flow_moves_the_moment_its_endpoint_goes() {
    let (spec, vip) = udp("moves");
    let (old, new) = (udp_echo().await, udp_echo().await);
    let running = Running::start(settings(), spec.with(&[old])).await;
    running.listening(vip).await;
    let client = client(vip).await;
    assert_eq!(asked(&client, b"1").await, old);
    running.send(spec.endpoints(&[new])).await;
    until("the flow has moved", || async {
        asked(&client, b"2").await == new
    })
    .await;
    running.send(spec.endpoints(&[])).await;
    until("no flow is left", || async {
        running.gateway.row().flows == 0
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_flow_leaves_an_endpoint_that_refuses() {
    let (spec, vip) = udp("refuses");
    let (alive, dead) = (udp_echo().await, dead());
    let running = Running::start(settings(), spec.with(&[alive, dead])).await;
    running.listening(vip).await;
    for _ in 0..6 {
        assert_eq!(asked(&client(vip).await, b"x").await, alive);
    }
    running.stop().await;
}

#[tokio::test]
async fn without_endpoints_the_kernel_says_that_the_port_is_unreachable() {
    let (spec, vip) = udp("empty");
    let running = Running::start(settings(), spec.with(&[])).await;
    let client = client(vip).await;
    client.send(b"x").await.unwrap();
    let error = within(client.recv(&mut [0; 10])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    running.stop().await;
}

/// Rows of one length, mixed lengths and empty datagrams: each arrives as it was, in order, and is
/// counted once, whether the kernel may join them or not.
#[tokio::test]
async fn every_datagram_of_a_burst_arrives_as_it_was() {
    for offload in [true, false] {
        let (spec, vip) = udp("burst");
        let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut settings = settings();
        settings.udp_offload = offload;
        let running = Running::start(settings, spec.with(&[backend.local_addr().unwrap()])).await;
        running.listening(vip).await;
        let lengths: Vec<usize> = (0..40)
            .map(|n| match n % 10 {
                0..6 => 64,
                6 => 0,
                7 => 1200,
                8 => 1200,
                _ => 3,
            })
            .collect();
        let datagrams = |flow: u8| lengths.iter().map(move |length| vec![flow; *length]);
        let mut room = vec![0; 2048];
        for flow in 0..6 {
            let client = client(vip).await;
            for datagram in datagrams(flow) {
                client.send(&datagram).await.unwrap();
            }
            // Each is sent back, so both ways are seen.
            for datagram in datagrams(flow) {
                let (length, from) = within(backend.recv_from(&mut room)).await.unwrap();
                assert_eq!(&room[..length], datagram, "offload: {offload}");
                backend.send_to(&room[..length], from).await.unwrap();
            }
            for datagram in datagrams(flow) {
                let length = within(client.recv(&mut room)).await.unwrap();
                assert_eq!(&room[..length], datagram, "offload: {offload}");
            }
        }
        let port = running.gateway.ports().remove(0).1;
        let counters = &port.counters;
        let (count, bytes) = (6 * 40, 6 * lengths.iter().sum::<usize>() as u64);
        let (up, down) = (
            &counters.datagrams_received,
            &counters.datagrams_transmitted,
        );
        until("all are counted", || async { down.get() >= count }).await;
        assert_eq!((up.get(), down.get()), (count, count));
        until("all bytes are counted", || async {
            counters.transmitted.get() >= bytes
        })
        .await;
        assert_eq!(
            (counters.received.get(), counters.transmitted.get()),
            (bytes, bytes)
        );
        assert_eq!(counters.flows.get(), 6);
        running.stop().await;
    }
}

/// Many more clients than flows there may be, all at once: some go without an answer, and none hears
/// what another asked.
#[tokio::test]
async fn a_full_table_keeps_clients_apart() {
    let (spec, vip) = udp("full");
    let mut settings = settings();
    settings.max_flows = Some(4);
    let running = Running::start(settings, spec.with(&[udp_echo().await, udp_echo().await])).await;
    running.listening(vip).await;
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(client(vip).await);
    }
    let mut room = vec![0; 2048];
    let mut answers = 0;
    for round in 0..40 {
        for (number, client) in clients.iter().enumerate() {
            client
                .send(format!("{round} of {number}").as_bytes())
                .await
                .unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            while let Ok(length) = client.try_recv(&mut room) {
                let answer = String::from_utf8_lossy(&room[..length]).into_owned();
                assert!(
                    answer.ends_with(&format!(" of {number}")),
                    "{number}: {answer}"
                );
                answers += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    // Whoever asks again is heard in the end.
    for (number, client) in clients.iter().enumerate() {
        let what = format!("at last of {number}");
        asked(client, what.as_bytes()).await;
    }
    println!("{answers} answers at once");
    running.stop().await;
}
