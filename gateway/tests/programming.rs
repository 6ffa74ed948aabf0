//! How long a change took, from its author to the first connection that it can serve. In a process
//! of its own, whose recorder counts nothing else.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod process;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fairway_config::exchange::{Batch, Change};
use fairway_config::net::Protocol;
use fairway_gateway::metrics::{PROGRAMMING_DURATION, Recorder};
use process::*;

const PORT: u16 = 4007;

/// How many changes were programmed, and how many seconds they took together.
fn programmed(recorder: &Recorder) -> (u64, f64) {
    let text = recorder.render();
    let value = |what: &str| -> f64 {
        let name = format!("{PROGRAMMING_DURATION}_{what} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("it is there from the start").parse().unwrap()
    };
    (value("count") as u64, value("sum"))
}

async fn send(running: &Running, changes: Vec<Change>, age: Option<Duration>) {
    let since = age.and_then(|age| Instant::now().checked_sub(age));
    let batch = Batch {
        since,
        ..Batch::synced(changes)
    };
    running.objects.send(batch).await.unwrap();
}

#[tokio::test]
async fn a_change_took_as_long_as_it_is_old_and_a_start_nothing() {
    let recorder = Recorder::install().unwrap();
    let (first, second, third) = (vip(), vip(), vip());
    let at = |addr| SocketAddr::new(addr, PORT);
    let backend = echo().await;
    let spec = service("first", first, PORT, Protocol::Tcp);
    let running = Running::start(settings(), spec.with(&[backend])).await;
    running.listening(at(first)).await;
    assert_eq!(programmed(&recorder).0, 0);

    let spec = service("second", second, PORT, Protocol::Tcp);
    let age = Some(Duration::from_secs(100));
    // What no connection can be made to yet is not programmed.
    let mut bare = service("second", second, PORT, Protocol::Tcp);
    bare.held.addresses.clear();
    send(&running, bare.with(&[backend]), age).await;
    send(&running, vec![spec.change()], age).await;
    running.listening(at(second)).await;
    until("it is recorded", || async { programmed(&recorder).0 == 1 }).await;
    let (_, took) = programmed(&recorder);
    assert!(
        (100.0..100.0 + PATIENCE.as_secs_f64()).contains(&took),
        "{took}"
    );

    // What nobody changed took no time.
    let spec = service("third", third, PORT, Protocol::Tcp);
    send(&running, spec.with(&[backend]), None).await;
    running.listening(at(third)).await;
    send(&running, vec![spec.gone()], age).await;
    until("it is gone", || async {
        running.gateway.listeners().len() == 2
    })
    .await;
    assert_eq!(programmed(&recorder), (1, took));
    running.stop().await;
}
