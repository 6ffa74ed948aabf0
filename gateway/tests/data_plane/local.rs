//! Local routes. The test runs itself again in a network namespace of its own.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use fairway_config::net::Protocol;

use crate::harness::*;

const PORT: u16 = 4004;

/// Set for the run inside.
const INSIDE: &str = "FAIRWAY_TEST_INSIDE";

/// Whether this is the run in a network namespace of its own, without root through a user
/// namespace. Outside it makes that run and waits for it.
pub fn in_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare(1) of util-linux is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("1 passed"), "there is no test {test}");
    false
}

/// Runs ip(8).
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 is there");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
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
