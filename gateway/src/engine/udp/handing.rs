//! UDP flows go to another process, which goes on with them (`take_over`). They keep the sockets to their endpoints.

use fairway_config::net::{ClientAddr, EndpointAddr, ListenAddr};
use fairway_gateway_core::flows::FlowKey;

use super::proxy::{UdpContext, UdpProxy};
use super::session::UdpSession;
use crate::endpoint_state::Active;
use crate::engine::handover::{FrozenPart, TakenFlow};
use crate::engine::mailbox::Receiving;
use crate::engine::poll::{Epoll, Token};
use crate::handed::{HandedFlow, HandedOwner, WholeFlow};

/// The most flows that are frozen at once. They have a descriptor each.
const MOST_FLOWS: usize = 50;

impl UdpProxy {
    /// The numbers of its listening sockets.
    pub(in crate::engine) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.sessions.numbers()
    }

    /// The listening socket of that number.
    pub(in crate::engine) fn receiving(&self, number: u32) -> Option<&Receiving> {
        Some(&self.sessions.listener(number)?.receiving)
    }

    /// Freezes some flows, from that slot on.
    pub(in crate::engine) fn freeze(&mut self, from: u32, poll: &Epoll) -> FrozenPart<WholeFlow> {
        let mut part = FrozenPart {
            frozen: Vec::new(),
            next: None,
            later: 0,
        };
        for slot in from..self.sessions.slots() {
            if part.frozen.len() == MOST_FLOWS {
                part.next = Some(slot);
                break;
            }
            let Some(session) = self.sessions.at(slot) else {
                continue;
            };
            let (id, replied) = (session.id, self.sessions.table.has_replied(session.id));
            match whole(session, replied) {
                Ok(whole) => part.frozen.push(whole),
                // It stays, and ends with its listener.
                Err(error) => {
                    tracing::debug!(%error, "a flow is not handed over");
                    continue;
                }
            }
            self.sessions.watch_no_more(id, poll);
            let session = self.sessions.end(id);
            self.frozen
                .extend(session.map(|session| (session, replied)));
        }
        part
    }

    /// Forgets the flows that the other process has taken, and goes on with the rest.
    pub(in crate::engine) fn settle(
        &mut self,
        mut taken: impl Iterator<Item = bool>,
        context: &UdpContext<'_>,
    ) {
        for (session, replied) in std::mem::take(&mut self.frozen) {
            if taken.next() == Some(true) {
                drop(session);
            } else {
                self.go_on(session, replied, context);
            }
        }
        self.sessions.shrink(&context.shared.flow_pool);
    }

    /// Goes on with a flow that another process has handed over.
    pub(in crate::engine) fn take(&mut self, taken: TakenFlow, context: &UdpContext<'_>) {
        let says = taken.whole.says;
        let listen = ListenAddr(says.owner.listen);
        let endpoint = EndpointAddr(says.endpoint);
        let Some(listener) = self.sessions.number_of(listen) else {
            return;
        };
        taken.port.counters.touch();
        taken.port.counters.flows.increment();
        let (client, now) = (says.client.ip(), context.shared.clock.now());
        let counted = taken.port.take_in(&taken.port.route(), client, now);
        let session = UdpSession {
            // It gets its own below.
            id: fairway_gateway_core::flows::FlowId::NONE,
            socket: taken.whole.socket,
            listener,
            at: 0,
            listen,
            client: ClientAddr(says.client),
            endpoint,
            active: Active::new(taken.port.endpoint(endpoint)),
            port: taken.port,
            unanswered: None,
            is_refused: false,
            refused_by: Vec::new(),
            counted,
            _permit: taken.permit,
        };
        self.go_on(session, says.replied, context);
    }

    /// Leaves the listening sockets to another process.
    pub(in crate::engine) fn let_go(&mut self, poll: &Epoll) {
        let numbers: Vec<u32> = self.sessions.numbers().collect();
        for number in numbers {
            if let Some(receiving) = self.receiving(number) {
                poll.remove(&receiving.socket);
            }
            self.sessions.close(number);
        }
    }

    fn go_on(&mut self, mut session: UdpSession, replied: bool, context: &UdpContext<'_>) {
        let now = context.shared.clock.now();
        let (key, number): (FlowKey, u32) = (session.key(), session.listener);
        let route = session.port.route();
        let id = self.enter(key, &route, now, context);
        drop(route);
        if replied {
            self.sessions.table.replied(id, now);
        }
        session.id = id;
        let wait = (context.poll, &context.shared.descriptors);
        let Some(listener) = self.sessions.listener_mut(number) else {
            self.sessions.end(id);
            return;
        };
        let token = Token::Flow(id.slot());
        if let Err(error) = listener.watch(number, &session.socket, token, wait) {
            tracing::warn!(%error, "a flow can't be watched");
            self.sessions.end(id);
            return;
        }
        self.sessions.insert(session);
    }
}

/// What another process needs of a flow.
fn whole(session: &UdpSession, replied: bool) -> std::io::Result<WholeFlow> {
    use std::os::fd::AsFd as _;
    let route = session.port.route();
    Ok(WholeFlow {
        socket: session.socket.as_fd().try_clone_to_owned()?,
        says: HandedFlow {
            owner: HandedOwner {
                namespace: route.service.namespace.to_string(),
                service: route.service.name.to_string(),
                protocol: route.key.protocol,
                port: route.key.port,
                listen: session.listen.0,
                worker: 0,
            },
            client: session.client.0,
            endpoint: session.endpoint.0,
            replied,
        },
    })
}
