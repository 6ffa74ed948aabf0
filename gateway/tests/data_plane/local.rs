//! Local routes. The test runs itself again in a network namespace of its own.

use std::net::{IpAddr, SocketAddr};

use fairway_config::exchange::ListenerState;
use fairway_config::net::Protocol;
use fairway_namespaces::{Namespaces, run};

use crate::harness::*;

const PORT: u16 = 4004;

/// Whether this is the run in a network namespace of its own, without root through a user
/// namespace. Outside it makes that run and waits for it.
pub fn in_namespace(test: &str) -> bool {
    // Who steers needs the rights of the host's own root.
    let namespaces = match is_steered() {
        true => Namespaces::NetworkOfRoot,
        false => Namespaces::Network,
    };
    namespaces.is_inside(test)
}

/// Runs ip(8).
pub fn ip(arguments: &str) -> String {
    run(&format!("ip {arguments}"))
}

fn ours() -> String {
    ip("-4 route show table local proto 70") + &ip("-6 route show table local proto 70")
}

#[tokio::test]
async fn vips_are_made_local_and_nothing_is_left_behind() {
    if !in_namespace("local::vips_are_made_local_and_nothing_is_left_behind") {
        return;
    }
    // An operator's own, and what a crash left behind.
    ip("route add local 203.0.113.9 dev lo");
    ip("route add local 203.0.113.77 dev lo proto 70");
    let v4: IpAddr = "203.0.113.5".parse().unwrap();
    let v6: IpAddr = "2001:db8::5".parse().unwrap();
    let mut spec = service("made", v4, PORT, Protocol::Tcp);
    spec.held.addresses = vec![v4, v6];
    let operators = service(
        "operators",
        "203.0.113.9".parse().unwrap(),
        PORT,
        Protocol::Tcp,
    );
    let empty = service("empty", "203.0.113.6".parse().unwrap(), PORT, Protocol::Tcp);
    let udp = service("udp", v6, PORT, Protocol::Udp);
    let backend = echo().await;
    let mut changes = spec.with(&[backend]);
    changes.extend(operators.with(&[backend]));
    changes.extend(empty.with(&[]));
    changes.extend(udp.with(&[udp_echo().await]));
    let mut settings = settings();
    settings.make_local = true;
    let mut running = Running::start(settings, changes).await;
    for addr in [v4, v6, "203.0.113.9".parse().unwrap()] {
        let addr = SocketAddr::new(addr, PORT);
        running.listening(addr).await;
        greeted(addr).await;
    }
    // A Service without endpoints refuses, and does not let clients wait.
    let error = within(tokio::net::TcpStream::connect("203.0.113.6:4004"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let client = tokio::net::UdpSocket::bind("[::1]:0").await.unwrap();
    client.connect(SocketAddr::new(v6, PORT)).await.unwrap();
    client.send(b"x").await.unwrap();
    within(client.recv(&mut [0; 100])).await.unwrap();
    let routes = ours();
    assert!(routes.contains("203.0.113.5"), "{routes}");
    assert!(routes.contains("2001:db8::5"), "{routes}");
    assert!(!routes.contains("203.0.113.9"), "{routes}");
    assert!(!routes.contains("203.0.113.77"), "{routes}");
    running.report(&empty.name, |report| report.is_some()).await;
    running
        .send(vec![spec.gone(), udp.gone(), empty.gone()])
        .await;
    running.report(&spec.name, |report| report.is_none()).await;
    until("the routes are removed", || async { ours().is_empty() }).await;
    running.send(vec![spec.change()]).await;
    running.listening(SocketAddr::new(v4, PORT)).await;
    assert!(ours().contains("203.0.113.5"));
    running.stop().await;
    assert_eq!(ours(), "");
    assert!(ip("route show table local").contains("203.0.113.9"));
}

/// A gateway with one Service at an address that it makes local, and another of each family.
async fn made_local(backend: SocketAddr) -> (Running, Spec, [SocketAddr; 2]) {
    let addresses: [IpAddr; 2] = ["203.0.113.5", "2001:db8::5"].map(|ip| ip.parse().unwrap());
    let mut spec = service("made", addresses[0], PORT, Protocol::Tcp);
    spec.held.addresses = addresses.into();
    let mut settings = settings();
    settings.make_local = true;
    let running = Running::start(settings, spec.with(&[backend])).await;
    let places = addresses.map(|ip| SocketAddr::new(ip, PORT));
    for place in places {
        running.listening(place).await;
        greeted(place).await;
    }
    (running, spec, places)
}

/// Waits until a connection to a place is served again.
async fn served_again(place: SocketAddr) {
    until("it is served again", || async {
        let connect = tokio::net::TcpStream::connect(place);
        let connected = tokio::time::timeout(std::time::Duration::from_secs(1), connect).await;
        connected.is_ok_and(|connected| connected.is_ok())
    })
    .await;
}

#[tokio::test]
async fn a_route_that_somebody_removes_is_made_again() {
    if !in_namespace("local::a_route_that_somebody_removes_is_made_again") {
        return;
    }
    let backend = echo().await;
    let (running, _, places) = made_local(backend).await;
    for harm in [
        &["route del local 203.0.113.5 dev lo proto 70"][..],
        &["-6 route del local 2001:db8::5 dev lo proto 70 table local"],
        &[
            "-4 route flush table local proto 70",
            "-6 route flush table local proto 70",
        ],
        // The kernel says nothing of IPv4 routes that go with their interface.
        &["link set lo down", "link set lo up"],
        // Another program takes it over, and lets go of it.
        &[
            "route replace local 203.0.113.5 dev lo table local proto 71",
            "route del local 203.0.113.5 dev lo proto 71",
        ],
    ] {
        for command in harm {
            ip(command);
        }
        until(&format!("after {harm:?} the routes are there"), || async {
            let routes = ours();
            routes.contains("203.0.113.5") && routes.contains("2001:db8::5")
        })
        .await;
        for place in places {
            served_again(place).await;
        }
    }
    running.stop().await;
    assert_eq!(ours(), "");
}

#[tokio::test]
async fn an_address_that_an_operator_takes_away_is_said_to_be_gone_until_it_is_back() {
    if !in_namespace(
        "local::an_address_that_an_operator_takes_away_is_said_to_be_gone_until_it_is_back",
    ) {
        return;
    }
    // Routes are the operator's business here: for one address, and for many.
    for route in [
        "local 203.0.113.9 dev lo table local",
        "local 203.0.113.0/24 dev lo table local",
    ] {
        ip(&format!("route add {route}"));
        let place = SocketAddr::new("203.0.113.9".parse().unwrap(), PORT);
        let spec = service("operators", place.ip(), PORT, Protocol::Tcp);
        let backend = echo().await;
        let running = Running::start(settings(), spec.with(&[backend])).await;
        running.listening(place).await;
        ip(&format!("route del {route}"));
        let is_gone = |state: &ListenerState| matches!(state, ListenerState::Failed { reason, .. } if reason == "AddressNotLocal");
        running.listener(place, is_gone).await;
        ip(&format!("route add {route}"));
        running.listening(place).await;
        greeted(place).await;
        running.stop().await;
        ip(&format!("route del {route}"));
    }
}

#[tokio::test]
async fn a_released_address_goes_with_its_own_connections_or_after_their_time() {
    if !in_namespace("local::a_released_address_goes_with_its_own_connections_or_after_their_time")
    {
        return;
    }
    let backend = echo().await;
    let (running, mut spec, [first, second]) = made_local(backend).await;
    // A connection to the address that stays, and to a port that stays.
    let (mut kept, _) = greeted(second).await;
    spec.held.addresses = vec![second.ip()];
    running.send(vec![spec.change()]).await;
    until("the route of the released address is removed", || async {
        !ours().contains("203.0.113.5")
    })
    .await;

    // Back, and with a connection of its own now: it has its time to drain, and no more.
    spec.held.addresses = vec![first.ip(), second.ip()];
    running.send(vec![spec.change()]).await;
    running.listening(first).await;
    let (mut released, _) = greeted(first).await;
    spec.held.addresses = vec![second.ip()];
    running.send(vec![spec.change()]).await;
    let ended = within(tokio::io::AsyncReadExt::read(&mut released, &mut [0])).await;
    assert!(ended.is_err(), "it ended as if its endpoint had: {ended:?}");
    until("the route of the released address is removed", || async {
        !ours().contains("203.0.113.5")
    })
    .await;
    tokio::io::AsyncWriteExt::write_all(&mut kept, b"x")
        .await
        .unwrap();
    let byte = within(tokio::io::AsyncReadExt::read_u8(&mut kept)).await;
    assert_eq!(byte.unwrap(), b'x', "the other address has suffered");
    running.stop().await;
}

#[tokio::test]
async fn connections_that_are_to_have_no_time_leave_no_route() {
    if !in_namespace("local::connections_that_are_to_have_no_time_leave_no_route") {
        return;
    }
    let backend = echo().await;
    let place = SocketAddr::new("203.0.113.5".parse().unwrap(), PORT);
    let spec = service("made", place.ip(), PORT, Protocol::Tcp);
    let mut settings = settings();
    settings.make_local = true;
    settings.drain_timeout = 10 * PATIENCE;
    let running = Running::start(settings, spec.with(&[backend])).await;
    running.listening(place).await;
    let (_open, _) = greeted(place).await;
    running.shutdown.cancel();
    until("it is not accepted any more", || async {
        tokio::net::TcpStream::connect(place).await.is_err()
    })
    .await;
    running.gateway.cut();
    running.stop().await;
    assert_eq!(ours(), "");
}
