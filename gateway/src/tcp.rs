//! TCP: accepting, and what becomes of a connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use fairway_config::exchange::ClaimKind;
use fairway_config::net::{ClientAddr, ListenAddr};
use fairway_config::service::AppProtocol;
use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::delivery;
use crate::descriptors::{CONNECTION, Descriptors, Permit};
use crate::dial::{self, DialError};
use crate::health;
use crate::hops::Hops;
use crate::port::Open;
use crate::relay;
use crate::slot::{Slot, Target};
use crate::socket;

/// Accepts at one socket until told to stop.
///
/// There is one such task for each listener on each worker, most of them idle. So what is rarely
/// needed is boxed; and it is a block, as the arguments of an `async fn` take their room twice
/// (rust-lang/rust#62958).
#[expect(clippy::manual_async_fn, reason = "half the size")]
pub(crate) fn listen(
    listener: TcpListener,
    slot: Arc<Slot>,
    context: Arc<Context>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send {
    async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = accept(&listener, &slot, &context) => {}
        }
        // Closing the socket would reset what waits in its queue: those clients were told that they
        // are connected.
        while let Some(permit) = take(&context.shared.descriptors, &slot)
            && let Some(Ok((stream, client))) = listener.accept().now_or_never()
        {
            begin(stream, ClientAddr(client), permit, &slot, &context);
        }
    }
}

/// Leave for a connection to who is served at a place just now.
fn take(descriptors: &Arc<Descriptors>, slot: &Slot) -> Option<Permit> {
    descriptors.take(slot.target.load().share(), CONNECTION)
}

/// Accepts for ever.
async fn accept(listener: &TcpListener, slot: &Slot, context: &Arc<Context>) {
    let descriptors = &context.shared.descriptors;
    let mut held = None;
    loop {
        // Leave first: a client that was accepted and can't be carried is worse off than one that
        // waits in the kernel's queue. An idle listener holds none.
        let accepted = poll_fn(|cx| match held.take().or_else(|| take(descriptors, slot)) {
            Some(permit) => listener
                .poll_accept(cx)
                .map(|accepted| Some((accepted, permit))),
            None => Poll::Ready(None),
        });
        match accepted.await {
            Some((Ok((stream, client)), permit)) => {
                begin(stream, ClientAddr(client), permit, slot, context);
            }
            Some((Err(error), _)) if socket::is_of_one_connection(&error) => {
                tracing::debug!(listen = %slot.listen, %error, "accept");
            }
            Some((Err(error), permit)) => {
                drop(permit);
                Box::pin(descriptors.exhausted(&error)).await;
            }
            None => {
                let target = slot.target.load_full();
                held = Some(Box::pin(descriptors.wait(target.share(), CONNECTION)).await);
            }
        }
    }
}

/// Starts what a connection is for.
fn begin(
    stream: TcpStream,
    client: ClientAddr,
    permit: Permit,
    slot: &Slot,
    context: &Arc<Context>,
) {
    let target = slot.target.load();
    let context = context.clone();
    let tracker = context.shared.connections.clone();
    match &**target {
        Target::Health(health) => {
            let health = health.clone();
            tokio::spawn(async move {
                health::serve(stream, &health, &context.probes).await;
                drop(permit);
            });
        }
        Target::Port { port, kind } => {
            let connection = Connection {
                stream,
                client,
                listen: slot.listen,
                kind: *kind,
                // Now: what the task does is seen later, and the listener may be gone then.
                port: Open::new(port.clone()),
                permit,
            };
            tokio::spawn(tracker.track_future(connection.run(context)));
        }
    }
}

/// A connection that was just accepted.
struct Connection {
    stream: TcpStream,
    client: ClientAddr,
    listen: ListenAddr,
    kind: ClaimKind,
    /// After the socket: a reset needs the way that the connection has while it is counted.
    port: Open,
    /// Given back when both sockets are closed.
    permit: Permit,
}

impl Connection {
    async fn run(self, context: Arc<Context>) {
        let (app, hops) = {
            let route = self.port.route();
            let admitted = self.port.admit(&route, self.kind, self.client.0.ip());
            let hops = admitted.and_then(|()| {
                Hops::left(&route, &self.stream, self.client)
                    .inspect_err(|why| self.port.counters.reject(*why))
            });
            match hops {
                Ok(hops) => (route.app, hops),
                Err(_rejected) => {
                    socket::reset_on_close(&self.stream);
                    return;
                }
            }
        };
        match app {
            AppProtocol::Opaque => self.carry(&context, hops).await,
            AppProtocol::Http | AppProtocol::H2c => {
                let Self {
                    stream,
                    client,
                    listen,
                    port,
                    permit,
                    ..
                } = self;
                let clock = context.shared.clock;
                // Boxed: connections that are carried must not take the room of this.
                Box::pin(
                    context
                        .http()
                        .serve(stream, listen, client, hops, port, clock),
                )
                .await;
                drop(permit);
            }
        }
    }

    /// Carries bytes that nobody looks at.
    async fn carry(self, context: &Context, hops: Option<Hops>) {
        let counters = &self.port.counters;
        counters.touch();
        let client = &self.stream;
        // Boxed, so that it takes no room once it is done: most connections live long after.
        let dialled = Box::pin(async {
            tokio::select! {
                biased;
                dialled = dial::dial(&context.shared, &self.port, self.client.0.ip(), hops) => Some(dialled),
                _ = relay::reset(client) => None,
                () = self.port.cut.cancelled() => None,
            }
        })
        .await;
        let dialled = match dialled {
            Some(Ok(dialled)) => dialled,
            Some(Err(error)) => {
                if let DialError::Unreachable(_) = error {
                    counters.failed.increment();
                }
                tracing::debug!(client = %self.client, listen = %self.listen, %error, "connection reset");
                socket::reset_on_close(client);
                return;
            }
            None => {
                counters.failed.increment();
                socket::reset_on_close(client);
                return;
            }
        };
        let endpoint = &dialled.stream;
        let descriptors = &context.shared.descriptors;
        let (received, transmitted) = (&counters.received, &counters.transmitted);
        let ended = tokio::select! {
            biased;
            ended = relay::relay(client, endpoint, received, transmitted, descriptors) => ended.is_ok(),
            () = dialled.state.state().cut.cancelled() => false,
        };
        if !ended {
            socket::reset_on_close(endpoint);
        }
        // The endpoint has nothing to do with what is left.
        drop(dialled);
        if ended && delivery::delivered(client, &self.port.cut).await {
            counters.completed.increment();
        } else {
            counters.failed.increment();
            socket::reset_on_close(client);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use arc_swap::ArcSwap;
    use fairway_config::names::ServiceName;
    use fairway_config::net::Protocol;
    use fairway_config::service::{ForwardTo, PortKey};
    use fairway_gateway_core::route::{EndpointSet, RoutePort, Sources};

    use super::*;
    use crate::flows::Flows;
    use crate::port::Port;
    use crate::settings::Settings;
    use crate::shared::Shared;

    fn context() -> Arc<Context> {
        let core = fairway_gateway_core::build::Settings {
            gateway: "test".into(),
            node_name: None,
            zone: None,
            forward_to: ForwardTo::Endpoints,
            slices_are_known: false,
            class: "fairway.dev/gateway".into(),
            default_class: true,
            allow_loopback: true,
            admin: Vec::new(),
            serve_node_ports: fairway_gateway_core::build::ServeNodePorts::Always,
            node_addresses: None,
        };
        let settings = Settings::new("test".into(), core);
        let shared = Shared::new(&settings, CancellationToken::new());
        Arc::new(Context::new(Arc::new(shared), Flows::new(0, 16)))
    }

    fn port() -> Arc<Port> {
        let key = PortKey {
            protocol: Protocol::Tcp,
            port: 80,
        };
        let route = RoutePort {
            service: ServiceName::new("web", "shop"),
            key,
            name: None,
            app: AppProtocol::Opaque,
            claims: Vec::new(),
            sources: Sources::default(),
            affinity: None,
            endpoints: Arc::new(EndpointSet::new(Vec::new(), Vec::new())),
            loop_guard: Vec::new(),
        };
        Arc::new(Port::new(Arc::new(route), 1))
    }

    #[tokio::test]
    async fn a_connection_counts_from_its_accept_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = listener.local_addr().unwrap();
        let _client = TcpStream::connect(listen).await.unwrap();
        let (stream, client) = listener.accept().await.unwrap();
        let (context, port) = (context(), port());
        let slot = Slot {
            listen: ListenAddr(listen),
            target: ArcSwap::from_pointee(Target::Port {
                port: port.clone(),
                kind: ClaimKind::Vip,
            }),
        };
        let permit = take(&context.shared.descriptors, &slot).unwrap();
        begin(stream, ClientAddr(client), permit, &slot, &context);
        // Its task has not run yet, on the one thread of this test.
        assert_eq!(port.counters.active.get(), 1);
        // There is no endpoint.
        context.shared.connections.close();
        context.shared.connections.wait().await;
        assert_eq!(port.counters.active.get(), 0);
    }
}
