//! A client has what its endpoint said before it ended, if it takes it: one that takes nothing is not kept
//! without end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::Sender;
use std::time::Duration;

use fairway_config::net::Protocol;
use socket2::SockRef;

use crate::harness::*;

const PORT: u16 = 4009;

/// What the endpoint says: little enough for the kernel to take it all, and far more than a client takes
/// that reads nothing.
const BODY: usize = 400_000;

/// What an endpoint does when it has said all.
#[derive(Clone, Copy, Debug)]
enum EndpointEnd {
    /// It says so, and reads on.
    Half,
    /// It closes its socket.
    Closed,
    /// It says so, and resets the connection then, as a host does that forgets it.
    Reset,
}

/// A server that says so many bytes to a client and ends so; it resets when it is told.
fn says(body: usize, end: EndpointEnd) -> (SocketAddr, Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (reset, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        if stream.write_all(&vec![7; body]).is_err() {
            return;
        }
        match end {
            EndpointEnd::Half => {
                stream.shutdown(Shutdown::Write).unwrap();
                let _ = stream.read(&mut [0]);
            }
            EndpointEnd::Closed => {}
            EndpointEnd::Reset => {
                stream.shutdown(Shutdown::Write).unwrap();
                told.recv().unwrap();
                let socket = SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    });
    (addr, reset)
}

/// A client that reads little at once.
fn connect(to: SocketAddr) -> TcpStream {
    let client = tcp_socket();
    client.set_recv_buffer_size(4096).unwrap();
    client.connect(&to.into()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.into()
}

async fn serving(endpoint: SocketAddr) -> (Running, SocketAddr) {
    let place = SocketAddr::new(vip(), PORT);
    let mut settings = settings();
    settings.stall_timeout = Duration::from_millis(400);
    settings.drain_timeout = 10 * PATIENCE;
    let spec = service("stalls", place.ip(), PORT, Protocol::Tcp);
    let running = Running::start(settings, spec.with(&[endpoint])).await;
    running.listening(place).await;
    (running, place)
}

#[tokio::test]
async fn a_client_that_takes_nothing_once_its_endpoint_has_ended_is_reset() {
    for end in [EndpointEnd::Half, EndpointEnd::Closed] {
        for client_ends in [false, true] {
            let (endpoint, _reset) = says(BODY, end);
            let (running, place) = serving(endpoint).await;
            let mut client = connect(place);
            if client_ends {
                client.shutdown(Shutdown::Write).unwrap();
            }
            let port = running.gateway.ports().remove(0).1;
            let what = format!("{end:?}, the client has ended: {client_ends}");
            until("it is accepted", || async {
                port.counters.active.get() == 1
            })
            .await;
            until(&format!("{what}: it is cut"), || async {
                port.counters.active.get() == 0
            })
            .await;
            assert_eq!(port.counters.failed.get(), 1, "{what}");
            let error = client.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_has_all_whatever_became_of_its_endpoint() {
    for end in [EndpointEnd::Half, EndpointEnd::Closed, EndpointEnd::Reset] {
        let (endpoint, reset) = says(BODY, end);
        let (running, place) = serving(endpoint).await;
        let port = running.gateway.ports().remove(0).1;
        let mut client = connect(place);
        until("all is read from the endpoint", || async {
            port.counters.transmitted.get() >= BODY as u64
        })
        .await;
        let _ = reset.send(());
        let read = tokio::task::spawn_blocking(move || {
            let (mut all, mut some) = (0, [0; 8192]);
            loop {
                match client.read(&mut some) {
                    Ok(0) => return all,
                    Ok(bytes) => all += bytes,
                    Err(error) => panic!("{end:?}: after {all} bytes: {error}"),
                }
                // In all longer than the time in which it has to take something.
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        assert_eq!(within(read).await.unwrap(), BODY, "{end:?}");
        until("it has ended", || async { port.counters.active.get() == 0 }).await;
        assert_eq!(port.counters.failed.get(), 0, "{end:?}");
        running.stop().await;
    }
}

/// Which side says more than is taken.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Client,
    Endpoint,
}

/// What ends a connection whose end can't arrive.
#[derive(Clone, Copy, Debug)]
enum Gone {
    /// The endpoint is listed no more.
    Endpoint,
    /// The Service is gone.
    Service,
    /// The endpoint's host says that it knows the connection no more.
    Reset,
    /// So does the client's.
    ClientReset,
    /// The gateway is told to stop.
    Gateway,
}

/// Says so much that nothing of it is taken any more.
fn fill(stream: &mut TcpStream) {
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let some = [7; 1 << 16];
    // What has room does not come at once: as long as some of it does, there is more.
    while stream.write(&some).is_ok() {}
}

/// A listener, and the first connection to it.
fn accepts() -> (SocketAddr, std::sync::mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (accepted, first) = std::sync::mpsc::channel();
    std::thread::spawn(move || accepted.send(listener.accept().unwrap().0));
    (addr, first)
}

#[tokio::test]
async fn a_connection_whose_end_cannot_arrive_is_let_go_with_its_endpoint() {
    for speaks in [Speaks::Client, Speaks::Endpoint] {
        for gone in [
            Gone::Endpoint,
            Gone::Service,
            Gone::Reset,
            Gone::ClientReset,
            Gone::Gateway,
        ] {
            let what = format!("{speaks:?} speaks, {gone:?}");
            let (addr, accepted) = accepts();
            let place = SocketAddr::new(vip(), PORT);
            let mut settings = settings();
            settings.stall_timeout = Duration::from_millis(400);
            let spec = service("stalls", place.ip(), PORT, Protocol::Tcp);
            let running = Running::start(settings, spec.with(&[addr])).await;
            running.listening(place).await;
            let port = running.gateway.ports().remove(0).1;
            let mut client = connect(place);
            // Some protocols let the server speak first: the client says nothing then.
            let (mut client, endpoint) = tokio::task::spawn_blocking(move || {
                let mut endpoint = accepted.recv().unwrap();
                let (speaker, other) = match speaks {
                    Speaks::Client => (&mut client, &mut endpoint),
                    Speaks::Endpoint => (&mut endpoint, &mut client),
                };
                fill(speaker);
                // It says that it has ended, behind all that.
                speaker.shutdown(Shutdown::Write).unwrap();
                let _ = other;
                (client, endpoint)
            })
            .await
            .unwrap();
            assert_eq!(port.counters.active.get(), 1, "{what}");
            let mut endpoint = Some(endpoint);
            let reset = |stream: TcpStream| {
                let socket = SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            };
            match gone {
                Gone::Endpoint => running.send(spec.endpoints(&[])).await,
                Gone::Service => running.send(vec![spec.gone()]).await,
                Gone::Reset => endpoint.take().into_iter().for_each(reset),
                Gone::ClientReset => {
                    let other = connect(place);
                    reset(std::mem::replace(&mut client, other));
                }
                Gone::Gateway => running.shutdown.cancel(),
            }
            until(&format!("{what}: it is let go"), || async {
                port.counters.active.get() == 0
                    || matches!(gone, Gone::ClientReset) && port.counters.failed.get() == 1
            })
            .await;
            if !matches!(gone, Gone::ClientReset) {
                let end = client.read_to_end(&mut Vec::new());
                let error = end.expect_err(&what);
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}");
            }
            running.stop().await;
        }
    }
}
