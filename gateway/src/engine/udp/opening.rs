//! A flow begins: a client is admitted, an endpoint chosen, a socket connected to it.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use fairway_config::net::EndpointAddr;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::flows::{FlowId, FlowKey};
use fairway_gateway_core::route::{RoutePort, Tick};

use super::eviction_log::FlowBound;
use super::packets;
use super::proxy::{UdpContext, UdpProxy};
use super::session::{UdpSession, are_ports_taken, connected};
use crate::counters::{DropReason, Rejection};
use crate::descriptors::Permit;
use crate::endpoint_state::Active;
use crate::engine::poll::Token;
use crate::hops::{HopFilter, Hops};
use crate::port::Port;
use crate::port_clients::CountedClient;
use crate::slot::Target;

/// How many endpoints may refuse one datagram before the client is told.
const TRIES: usize = 8;

impl UdpProxy {
    /// Opens a flow for a client, to another endpoint than those that refused it. Nothing where that can't be,
    /// which is counted.
    pub(super) fn open(
        &mut self,
        number: u32,
        key: FlowKey,
        refused_by: Vec<EndpointAddr>,
        now: Tick,
        context: &UdpContext<'_>,
    ) -> Option<FlowId> {
        let listener = self.sessions.listener(number)?;
        let hop_filter = listener.receiving.token.hop_filter();
        let target = listener.receiving.slot.target.load_full();
        let Target::Port { port, kind } = &*target else {
            return None;
        };
        port.counters.touch();
        let client = key.client.0;
        let route = port.route();
        // A route changes before its sockets do, which take too much for a moment.
        if hop_filter == HopFilter::TakeAll && HopFilter::of(&route) == HopFilter::DropForwarded {
            port.counters.reject(Rejection::Loop);
            return None;
        }
        port.admit(&route, *kind, client.ip(), &context.shared.clock)
            .ok()?;
        let counted = self.count(port, &route, client.ip(), now)?;
        let picked = (refused_by.len() < TRIES)
            .then(|| port.pick_for_flow(&route, client, now, &refused_by))
            .flatten();
        let Some(picked) = picked else {
            if refused_by.is_empty() {
                port.counters.reject(Rejection::NoEndpoint);
            } else {
                port.counters.dropped(DropReason::Refused, 1);
            }
            self.port_unreachable.tell(key, now);
            return None;
        };
        let (endpoint, state) = (picked.at.endpoint.addr, picked.at.state.clone());
        self.make_room(number, port, &route, now);
        let Some(permit) = self.permit(port, &route, now, context) else {
            port.counters.reject(Rejection::Limit);
            return None;
        };
        let socket = match self.connect(endpoint, &route, now) {
            Ok(socket) => socket,
            Err(error) => {
                let why = if are_ports_taken(&error) {
                    DialFailure::Exhausted
                } else {
                    DialFailure::of(&error)
                };
                port.datagram_failed(&state, why, now);
                if why == DialFailure::Exhausted {
                    port.counters.reject(Rejection::Limit);
                }
                tracing::debug!(%endpoint, %error, "flow not opened");
                return None;
            }
        };
        if self.offload {
            packets::enable_gro(&socket);
        }
        let id = self.enter(key, &route, now, context);
        let token = Token::Flow(id.slot());
        let wait = (context.poll, &context.shared.descriptors);
        let listener = self.sessions.listener_mut(number)?;
        if let Err(error) = listener.watch(number, &socket, token, wait) {
            tracing::warn!(%error, "a flow can't be watched");
            port.counters.reject(Rejection::Limit);
            self.sessions.end(id);
            return None;
        }
        port.counters.flows.increment();
        if refused_by.is_empty() {
            port.counters.completed.increment();
        }
        self.sessions.insert(UdpSession {
            id,
            socket,
            listener: number,
            at: 0,
            listen: key.listen,
            client: key.client,
            endpoint,
            active: Active::new(state),
            port: port.clone(),
            unanswered: None,
            is_refused: false,
            refused_by,
            counted,
            _permit: permit,
        });
        Some(id)
    }

    /// Counts a flow for its client, where the port has a limit; none in the other Option: the client is over it, which is
    /// counted.
    fn count(
        &mut self,
        port: &Port,
        route: &RoutePort,
        client: IpAddr,
        now: Tick,
    ) -> Option<Option<CountedClient>> {
        if !route.limits.counts_clients() {
            return Some(None);
        }
        let mut entered = port.enter(route, client, now, |_, _| false);
        if entered.is_err() && self.sessions.expire_for_more(now) {
            entered = port.enter(route, client, now, |_, _| false);
        }
        let entered = entered.inspect_err(|why| port.refuse_many(*why, 1, now));
        entered.ok().map(Some)
    }

    /// Where the port has as many flows as it may have, one of its own is evicted, and where it has more, two. They are of
    /// this listener on this worker. Where all are of others, the port has one more: a client is not turned away for the
    /// worker that the kernel chose for it.
    fn make_room(&mut self, number: u32, port: &Port, route: &RoutePort, now: Tick) {
        let Some(most) = route.limits.flows else {
            return;
        };
        for _ in 0..2 {
            if port.counters.flows.get() < u64::from(most.get()) {
                return;
            }
            let bound = FlowBound::Port;
            self.eviction_log.evicted(&route.service, bound, now);
            if !self.sessions.evict_at(number) {
                return;
            }
        }
    }

    /// Enters a flow into the table. Where that is full, it evicts one.
    pub(super) fn enter(
        &mut self,
        key: FlowKey,
        route: &RoutePort,
        now: Tick,
        context: &UdpContext<'_>,
    ) -> FlowId {
        self.sessions.grow(&context.shared.flow_pool);
        let is_known = self.sessions.table.knows(key);
        let (id, evicted) = self
            .sessions
            .table
            .open(key, &route.service, route.limits.idle, now);
        match evicted {
            // Its time was over, and it had the same key.
            Some(old) if is_known => drop(self.sessions.take(old)),
            Some(evicted) => {
                self.sessions.evicted(evicted);
                let bound = FlowBound::Flows;
                self.eviction_log.evicted(&route.service, bound, now);
            }
            None => {}
        }
        id
    }

    /// Leave to open one more socket. Where there is none, a flow of the same Service is evicted.
    fn permit(
        &mut self,
        port: &Port,
        route: &RoutePort,
        now: Tick,
        context: &UdpContext<'_>,
    ) -> Option<Permit> {
        let descriptors = &context.shared.descriptors;
        if let Some(permit) = descriptors.take(Some(&port.share), 1) {
            return Some(permit);
        }
        let bound = FlowBound::Descriptors;
        self.eviction_log.evicted(&route.service, bound, now);
        let evicted = self.sessions.table.evict_of(&route.service)?;
        self.sessions.evicted(evicted);
        descriptors.take(Some(&port.share), 1)
    }

    /// A socket that is connected to an endpoint. Where the host has no port left for it, a flow is evicted.
    ///
    /// # Errors
    /// As [`connected`].
    fn connect(
        &mut self,
        endpoint: EndpointAddr,
        route: &RoutePort,
        now: Tick,
    ) -> io::Result<OwnedFd> {
        let hops = Hops::of_datagrams(route);
        match connected(endpoint, hops) {
            Err(error) if are_ports_taken(&error) => {
                let bound = FlowBound::HostPorts;
                self.eviction_log.evicted(&route.service, bound, now);
                let evicted = self.sessions.table.evict_for(&route.service);
                self.sessions.evicted(evicted.ok_or(error)?);
                connected(endpoint, hops)
            }
            connected => connected,
        }
    }
}
