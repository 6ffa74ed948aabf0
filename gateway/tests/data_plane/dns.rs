//! Names as backends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use fairway_config::net::Protocol;
use fairway_config::service::TargetPort;
use tokio::net::UdpSocket;

use crate::harness::*;

const PORT: u16 = 4003;

/// What a name server answers: addresses, or SERVFAIL.
type Zone = Arc<Mutex<Option<Vec<Ipv4Addr>>>>;

/// A name server that answers every question about A records with the zone, for one second.
async fn name_server(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((bytes, from)) = socket.recv_from(&mut query).await {
            let answer = answer(&query[..bytes], zone.lock().unwrap().as_deref());
            let _ = socket.send_to(&answer, from).await;
        }
    });
    addr
}

/// RFC 1035, section 4: header, the question again, answers that point to its name.
fn answer(query: &[u8], zone: Option<&[Ipv4Addr]>) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
    let question = &query[12..12 + name + 5];
    let is_a = question[name + 1..name + 3] == [0, 1];
    let answers = if is_a { zone.unwrap_or_default() } else { &[] };
    let mut message = query[..2].to_vec();
    message.extend([0x81, if zone.is_some() { 0x80 } else { 0x82 }, 0, 1, 0]);
    message.push(u8::try_from(answers.len()).unwrap());
    message.extend([0, 0, 0, 0]);
    message.extend(question);
    for address in answers {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        message.extend(address.octets());
    }
    message
}

#[tokio::test]
async fn a_name_is_followed_and_its_last_answer_stays_when_the_name_server_fails() {
    let addr = vip();
    let vip_addr = SocketAddr::new(addr, PORT);
    let (one, two) = (vip(), vip());
    let first = echo_at(SocketAddr::new(one, 0)).await;
    let second = echo_at(SocketAddr::new(two, first.port())).await;
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => unreachable!("of 127.0.0.0/8"),
    };
    let zone = Zone::new(Mutex::new(Some(vec![v4(one)])));
    let mut settings = settings();
    settings.name_server = Some(name_server(zone.clone()).await);
    let mut spec = service("named", addr, PORT, Protocol::Tcp);
    spec.service.has_selector = false;
    spec.service.asks.external_name = Some("backend.test".into());
    spec.service.ports[0].target = TargetPort::Number(first.port());
    let mut running = Running::start(settings, vec![spec.change()]).await;
    running.listening(vip_addr).await;
    assert_eq!(greeted(vip_addr).await.1, first);
    // The answer changes, and is asked for again when its second is over.
    *zone.lock().unwrap() = Some(vec![v4(two)]);
    until("the new answer is used", || async {
        greeted(vip_addr).await.1 == second
    })
    .await;
    // The name server fails: said so, and the last answer stays.
    *zone.lock().unwrap() = None;
    running
        .report(&spec.name, |report| {
            report.is_some_and(|report| {
                report.notices.iter().any(|notice| {
                    &*notice.reason == "NameNotResolved" && notice.message.contains("last answer")
                })
            })
        })
        .await;
    assert_eq!(greeted(vip_addr).await.1, second);
    // Mended.
    *zone.lock().unwrap() = Some(vec![v4(one)]);
    running
        .report(&spec.name, |report| {
            report.is_some_and(|report| report.notices.is_empty())
        })
        .await;
    until("the new answer is used", || async {
        greeted(vip_addr).await.1 == first
    })
    .await;
    running.stop().await;
}
