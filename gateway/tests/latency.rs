//! One Service does not wait for another: how long an echo takes while a thousand others come, change, drain
//! and go. One test, as what it measures is the process's own; it runs twice, the second time in a network
//! namespace where external addresses are steered.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod process;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fairway_config::net::Protocol;
use fairway_gateway::metrics::{self, MetricsSnapshot};
use process::*;

const PORT: u16 = 4008;
/// Services that come and go, each with a connection.
const OTHERS: usize = 1000;
/// Connections of a Service to which nothing happens.
const CROWD: usize = 2000;

/// An echo again and again; how long each took.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Echo {
    fn start(to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                stream.write_all(b"x").unwrap();
                stream.read_exact(&mut [0]).unwrap();
                took.push(began.elapsed());
                // As a client that is not the load itself.
                std::thread::sleep(Duration::from_micros(500));
            }
            took
        });
        Self { stop, thread }
    }

    /// The 99th percentile.
    fn p99(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.thread.join().unwrap();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }
}

/// A server that echoes what one connection says after the other, on threads of its own.
fn echoes() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    addr
}

/// A server that keeps what connects to it, and is silent.
fn keeps() -> SocketAddr {
    let (listener, addr) = silent_server();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            kept.push(stream);
        }
    });
    addr
}

/// The others, each at a port of its own of one of a few addresses.
fn others(addresses: &[IpAddr]) -> Vec<(Spec, SocketAddr)> {
    (0..OTHERS)
        .map(|n| {
            let port = 5000 + (n / addresses.len()) as u16;
            let addr = SocketAddr::new(addresses[n % addresses.len()], port);
            let spec = service(&format!("other-{n}"), addr.ip(), port, Protocol::Tcp);
            (spec, addr)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_echo_does_not_wait_for_a_thousand_services_that_come_change_drain_and_go() {
    let (echo, crowd) = (vip(), vip());
    let one = service("echo", echo, PORT, Protocol::Tcp);
    let crowded = service("crowd", crowd, PORT, Protocol::Tcp);
    let (silent, other_silent) = (keeps(), keeps());
    let mut changes = one.with(&[echoes()]);
    changes.extend(crowded.with(&[silent]));
    let node = vip();
    let mut settings = settings();
    settings.core.node_addresses = Some(vec![node]);
    let running = Running::start(settings, changes).await;
    let (echo, crowd) = (SocketAddr::new(echo, PORT), SocketAddr::new(crowd, PORT));
    running.listening(echo).await;
    running.listening(crowd).await;
    let connect = move |places: Vec<SocketAddr>| {
        tokio::task::spawn_blocking(move || {
            let connect = |place: &SocketAddr| TcpStream::connect(place).unwrap();
            places.iter().map(connect).collect::<Vec<_>>()
        })
    };
    let _crowd = within(connect(vec![crowd; CROWD])).await.unwrap();

    let measured = Echo::start(echo);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let without = measured.p99();

    let measured = Echo::start(echo);
    let addresses = [vip(), vip(), vip(), vip()];
    let others = others(&addresses);
    // They come.
    for some in others.chunks(100) {
        let changes = some.iter().flat_map(|(spec, _)| spec.with(&[silent]));
        running.send(changes.collect()).await;
    }
    until("all listen", || async {
        running.gateway.row().listening == OTHERS + 2
    })
    .await;
    let places = others.iter().map(|(_, addr)| *addr).collect();
    let open = within(connect(places)).await.unwrap();
    let all = (CROWD + OTHERS + 1) as u64;
    until("all connections are carried", || async {
        connections(&running) == all
    })
    .await;
    scraping_holds_nobody_up(&running, echo, without).await;
    // They change: their connections' endpoint goes, and is cut after its time to drain.
    let examined = running.gateway.examined_connections();
    for some in others.chunks(100) {
        let changes = some
            .iter()
            .flat_map(|(spec, _)| spec.endpoints(&[other_silent]));
        running.send(changes.collect()).await;
    }
    until("those of the endpoint that went are cut", || async {
        connections(&running) == all - OTHERS as u64
    })
    .await;
    drop(open);
    let places = others.iter().map(|(_, addr)| *addr).collect();
    let open = within(connect(places)).await.unwrap();
    until("all connections are carried again", || async {
        connections(&running) == all
    })
    .await;
    // They go, and drain.
    for some in others.chunks(100) {
        let changes = some.iter().map(|(spec, _)| spec.gone());
        running.send(changes.collect()).await;
    }
    until("all are cut", || async {
        // Of ports that are gone nobody counts any more: their clients know.
        open.iter().all(|stream| {
            stream.set_nonblocking(true).unwrap();
            !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        })
    })
    .await;
    let with = measured.p99();
    println!("p99 of an echo: {without:?} without, {with:?} with a thousand others");

    // Each cut looks at the connections of its own port, and at those at its own address.
    let examined = running.gateway.examined_connections() - examined;
    assert!(
        (OTHERS..=6 * OTHERS).contains(&(examined as usize)),
        "{examined} connections were looked at to cut {} of {all}",
        2 * OTHERS
    );
    // One look at all of them for each cut took 250 ms.
    let bound = 10 * without + Duration::from_millis(30);
    assert!(with < bound, "p99 {with:?}, without the others {without:?}");

    let flooded = vip();
    let mut spec = service("flooded", flooded, PORT, Protocol::Tcp);
    spec.held.node_ports = [(spec.service.ports[0].key(), PORT + 20_000)].into();
    for place in [
        SocketAddr::new(flooded, PORT),
        SocketAddr::new(node, PORT + 20_000),
    ] {
        a_flood_at_a_port_without_endpoints_holds_nobody_up(&running, echo, &spec, place).await;
    }
    a_burst_at_one_service_lets_others_in(&running, &spec).await;
    running.stop().await;
    if !is_steered() {
        println!("with steering:");
        print!("{}", again_with_steering(&["--nocapture"]));
    }
}

/// Metrics are made again and again while all Services are there.
async fn scraping_holds_nobody_up(running: &Running, echo: SocketAddr, without: Duration) {
    let ports = running.gateway.ports().into_iter();
    let ports = ports.map(|(service, port)| ((service, port.route().key), port));
    let metrics = MetricsSnapshot {
        ports: ports.collect(),
        ..MetricsSnapshot::default()
    };
    assert!(metrics.ports.len() > OTHERS);
    let measured = Echo::start(echo);
    let scrapes = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        let mut scrapes = 0;
        while began.elapsed() < Duration::from_secs(1) {
            assert!(!metrics::render(&metrics).is_empty());
            scrapes += 1;
        }
        scrapes
    });
    let scrapes = scrapes.await.unwrap();
    let with = measured.p99();
    println!("p99 of an echo: {with:?} beside {scrapes} scrapes");
    let bound = 10 * without + Duration::from_millis(30);
    assert!(with < bound, "p99 {with:?}, without scrapes {without:?}");
}

/// A port that is flooded loses its endpoints and gets others.
async fn a_flood_at_a_port_without_endpoints_holds_nobody_up(
    running: &Running,
    echo: SocketAddr,
    spec: &Spec,
    place: SocketAddr,
) {
    running.send(spec.with(&[ends()])).await;
    running.listening(place).await;
    let stop = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..2)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Closed by a reset: so that no port is used up.
                    if let Ok(stream) = TcpStream::connect(place) {
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    }
                }
            })
        })
        .collect();
    let measured = Echo::start(echo);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let without = measured.p99();
    let measured = Echo::start(echo);
    for endpoints in [vec![], vec![ends()], vec![], vec![ends()], vec![]] {
        let state = if endpoints.is_empty() {
            fairway_config::exchange::ListenerState::Refusing
        } else {
            fairway_config::exchange::ListenerState::Listening
        };
        running.send(spec.endpoints(&endpoints)).await;
        running.listener(place, |it| *it == state).await;
    }
    let with = measured.p99();
    stop.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|thread| thread.join().unwrap());
    println!(
        "p99 of an echo: {without:?} beside a flood at {place}, {with:?} while its port comes and goes"
    );
    let bound = 10 * without + Duration::from_millis(30);
    assert!(with < bound, "p99 {with:?}, without changes {without:?}");
}

/// A server that takes what comes and ends it.
fn ends() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    });
    addr
}

/// More connections come at once than the kernel's queue holds: each is there before it is accepted, and
/// waits there until it is, also where its client has gone.
///
/// Where connections are steered, some places share a queue: that of one of the three may be the one that is
/// full, but no more.
async fn a_burst_at_one_service_lets_others_in(running: &Running, spec: &Spec) {
    let place = SocketAddr::new(spec.held.addresses[0], PORT);
    running.send(spec.endpoints(&[ends()])).await;
    running.listening(place).await;
    let mut measured = Vec::new();
    for n in 0..3 {
        let addr = vip();
        let other = service(&format!("beside-{n}"), addr, PORT, Protocol::Tcp);
        running.send(other.with(&[echoes()])).await;
        let addr = SocketAddr::new(addr, PORT);
        running.listening(addr).await;
        measured.push(addr);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let bursts: Vec<_> = (0..3)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let kind = socket2::Type::STREAM.nonblocking();
                    let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
                    socket.set_linger(Some(Duration::ZERO)).unwrap();
                    // On this host it is done when this returns, or never.
                    let _ = socket.connect(&place.into());
                    count += 1;
                }
                count
            })
        })
        .collect();
    let clients: Vec<_> = measured
        .into_iter()
        .map(|echo| tokio::task::spawn_blocking(move || connects(echo)))
        .collect();
    let mut slow = 0;
    for client in clients {
        let took = within(client).await.unwrap();
        let median = took[took.len() / 2];
        let (count, worst) = (took.len(), took[took.len() - 1]);
        println!("connections of another Service: median {median:?}, worst {worst:?} of {count}");
        // One whose first packet is dropped waits for a second (RFC 6298).
        slow += usize::from(median > Duration::from_millis(900));
    }
    stop.store(true, Ordering::Relaxed);
    let bursts: u64 = bursts.into_iter().map(|it| it.join().unwrap()).sum();
    println!("beside {bursts} connections of one");
    let most = usize::from(is_steered());
    assert!(slow <= most, "{slow} of 3 other Services are held up");
}

/// Connects again and again for a while; how long each took to its first answer, in order.
fn connects(echo: SocketAddr) -> Vec<Duration> {
    let start = Instant::now();
    let mut took = Vec::new();
    while start.elapsed() < Duration::from_secs(4) {
        let began = Instant::now();
        let mut stream = TcpStream::connect(echo).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        took.push(began.elapsed());
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        drop(stream);
        std::thread::sleep(Duration::from_millis(1));
    }
    took.sort_unstable();
    took
}
