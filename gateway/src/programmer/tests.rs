#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use fairway_config::exchange::ClaimKind;
use fairway_config::net::EndpointAddr;
use fairway_config::service::{ForwardTo, PortKey};
use fairway_gateway_core::build::RouteSettings;
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort};
use socket2::SockFilter;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::local::LocalRoutes;
use crate::port::Port;
use crate::settings::GatewaySettings;
use crate::shared::GatewayShared;
use crate::slot::Target;
use crate::socket::{self, Sockets};
use crate::worker::WorkerThreads;

/// The filters that the kernel takes, as it seems to a programmer, and where its sockets are.
#[derive(Default)]
struct Kernel {
    without_filters: AtomicBool,
    bound: Mutex<Vec<SocketAddr>>,
}

impl Kernel {
    fn bind(
        &self,
        place: BindKey,
        filter: &[SockFilter],
        count: usize,
        freebind: bool,
    ) -> Result<Sockets, BindError> {
        if self.without_filters.load(Ordering::Relaxed) && !filter.is_empty() {
            return Err(BindError::NotGuarded("there is no memory".to_owned()));
        }
        let sockets = socket::bind(place, filter, count, freebind)?;
        let bound: Vec<_> = match &sockets {
            Sockets::Tcp(listeners) => listeners
                .iter()
                .map(|listener| listener.local_addr().unwrap())
                .collect(),
            Sockets::Udp(sockets) => sockets
                .iter()
                .map(|socket| socket.local_addr().unwrap())
                .collect(),
        };
        self.bound.lock().unwrap().extend(bound);
        Ok(sockets)
    }

    /// Where the last socket is.
    fn last(&self) -> SocketAddr {
        *self.bound.lock().unwrap().last().unwrap()
    }

    fn count(&self) -> usize {
        self.bound.lock().unwrap().len()
    }
}

async fn programmer(kernel: &Arc<Kernel>) -> Programmer {
    let routes = RouteSettings::new("test".into());
    let settings = GatewaySettings::new("test".into(), routes);
    let shared = Arc::new(GatewayShared::new(
        &settings,
        Clock::start(),
        CancellationToken::new(),
    ));
    let worker = WorkerThreads::start(0, shared.clone()).unwrap();
    let bind = {
        let kernel = kernel.clone();
        move |place, filter: &[SockFilter], count, freebind| {
            kernel.bind(place, filter, count, freebind)
        }
    };
    let routes = LocalRoutes::open(false).await;
    let descriptors = shared.descriptors.clone();
    let opener = Opener::with(Box::new(bind), vec![worker], descriptors, routes);
    Programmer::new(opener, settings.drain_timeout)
}

fn service() -> ServiceName {
    ServiceName::new("web", "shop")
}

fn route(protocol: Protocol, forward_to: ForwardTo) -> Arc<RoutePort> {
    let endpoint = Endpoint::new(EndpointAddr(([127, 0, 0, 1], 9).into()));
    let endpoints = EndpointSet::new(vec![endpoint], Vec::new());
    let key = PortKey { protocol, port: 80 };
    Arc::new(RoutePort {
        loop_guard: match forward_to {
            ForwardTo::Endpoints => Vec::new(),
            ForwardTo::NodePorts => vec![[127, 0, 0, 1].into()],
        },
        ..RoutePort::new(service(), key, endpoints)
    })
}

/// What a Service wants whose port is served at any port of an address that no other test uses.
fn wanted(port: &Arc<Port>, protocol: Protocol, kind: ClaimKind) -> Wanted {
    Wanted {
        place: BindKey {
            listen: ListenAddr(([127, 9, 9, 9], 0).into()),
            protocol,
        },
        port: 80,
        target: Target::Port {
            port: port.clone(),
            kind,
        },
    }
}

/// Whether a socket is there.
fn stands(place: SocketAddr) -> bool {
    UdpSocket::bind(place).is_err()
}

/// Waits until no socket is there. A process that another test starts has all sockets of this one until it
/// runs its program.
async fn gone(place: SocketAddr) {
    let gone = async {
        while stands(place) {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
    gone.expect("the socket goes");
}

#[tokio::test]
async fn a_listener_that_can_not_be_guarded_any_more_fails_until_it_can() {
    for kind in [ClaimKind::NodePort, ClaimKind::Vip] {
        let kernel = Arc::new(Kernel::default());
        let mut programmer = programmer(&kernel).await;
        let port = Arc::new(Port::new(route(Protocol::Udp, ForwardTo::Endpoints), 1));
        let shop = || vec![(service(), vec![wanted(&port, Protocol::Udp, kind)])];
        let state = |programmer: &Programmer| programmer.listeners(&service()).remove(0).state;
        kernel.without_filters.store(true, Ordering::Relaxed);
        programmer.apply(shop()).await;
        assert_eq!(state(&programmer), ListenerState::Listening);
        let open = kernel.last();
        assert!(stands(open));

        // The Service forwards to node ports from now on.
        port.set_route(route(Protocol::Udp, ForwardTo::NodePorts));
        assert_eq!(programmer.apply(shop()).await, [service()].into());
        let ListenerState::Failed { reason, message } = state(&programmer) else {
            panic!("{:?}", state(&programmer));
        };
        assert_eq!(reason, "NotGuardedAgainstLoops");
        assert!(message.contains("there is no memory"), "{message}");
        // No socket stays without its guard.
        gone(open).await;
        // It is tried again, and reported when it stands.
        tokio::time::sleep_until(programmer.next_retry().unwrap()).await;
        assert_eq!(programmer.retry().await, [service()].into());
        assert!(matches!(state(&programmer), ListenerState::Failed { .. }));
        kernel.without_filters.store(false, Ordering::Relaxed);
        tokio::time::sleep_until(programmer.next_retry().unwrap()).await;
        assert_eq!(programmer.retry().await, [service()].into());
        assert_eq!(state(&programmer), ListenerState::Listening);
        assert!(programmer.next_retry().is_none());
        assert!(stands(kernel.last()));

        // What needs no guard any more has none, whatever the kernel takes.
        kernel.without_filters.store(true, Ordering::Relaxed);
        let guarded = kernel.last();
        port.set_route(route(Protocol::Udp, ForwardTo::Endpoints));
        programmer.apply(shop()).await;
        assert_eq!(state(&programmer), ListenerState::Listening);
        gone(guarded).await;
        assert!(stands(kernel.last()));
        programmer.close().await;
        programmer.end(false).await;
    }
}

#[tokio::test]
async fn sockets_stay_where_what_they_take_does_not_change() {
    let kernel = Arc::new(Kernel::default());
    let mut programmer = programmer(&kernel).await;
    for (protocol, forward_to, bound) in [
        // TCP tells connections apart as it accepts them.
        (Protocol::Tcp, ForwardTo::Endpoints, 1),
        (Protocol::Tcp, ForwardTo::NodePorts, 1),
        (Protocol::Udp, ForwardTo::NodePorts, 2),
        (Protocol::Udp, ForwardTo::NodePorts, 2),
        (Protocol::Udp, ForwardTo::Endpoints, 3),
        (Protocol::Udp, ForwardTo::Endpoints, 3),
    ] {
        let port = Arc::new(Port::new(route(protocol, forward_to), 1));
        let shop = vec![wanted(&port, protocol, ClaimKind::NodePort)];
        programmer.apply(vec![(service(), shop)]).await;
        assert_eq!(kernel.count(), bound, "{protocol} {forward_to:?}");
    }
    programmer.close().await;
    programmer.end(false).await;
}
