//! From clients to endpoints.

use std::io;

use fairway_config::net::ClientAddr;
use fairway_gateway_core::flows::{FlowId, FlowKey};
use fairway_gateway_core::route::Tick;

use super::packets::{self, BATCH};
use super::proxy::{UdpContext, UdpProxy};
use super::segments::send_all;
use crate::counters::DropReason;

/// How many batches are taken from one socket before others have their turn.
const TURNS: usize = 4;

/// How many messages are taken at once from a listener whose last batch was mostly new flows: a new flow costs
/// as much time as some tens of datagrams of a known one, and others wait meanwhile.
const NEW_FLOWS: usize = BATCH / 4;

impl UdpProxy {
    /// Takes the datagrams that wait at a listener and sends them on.
    pub(crate) fn receive(&mut self, number: u32, context: &UdpContext<'_>) {
        for _ in 0..TURNS {
            let Some(listener) = self.sessions.listener(number) else {
                return;
            };
            let most = listener.batch;
            match self.inbox.receive(&listener.receiving.socket, most) {
                Ok(count) => {
                    let opened = self.batch(number, count, context);
                    let is_flood = opened >= NEW_FLOWS / 2;
                    if let Some(listener) = self.sessions.listener_mut(number) {
                        listener.batch = if is_flood { NEW_FLOWS } else { BATCH };
                    }
                    if count < most || is_flood {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let listen = listener.receiving.slot.listen;
                    return tracing::debug!(%listen, %error, "receive");
                }
            }
        }
    }

    /// Sends the datagrams of a batch on, those of one flow together. How many flows were opened.
    fn batch(&mut self, number: u32, count: usize, context: &UdpContext<'_>) -> usize {
        let Some(listener) = self.sessions.listener(number) else {
            return 0;
        };
        let listen = listener.receiving.slot.listen;
        let now = context.shared.clock.now();
        let mut opened = 0;
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        for at in 0..count {
            let Some(client) = self.inbox.get(at).and_then(|message| message.from) else {
                continue;
            };
            let key = FlowKey {
                client: ClientAddr(client),
                listen,
            };
            if let Some(id) = self.sessions.table.received(key, now)
                && self.goes_on(id)
            {
                sorted.push((id, at));
                continue;
            }
            opened += 1;
            if let Some(id) = self.open(number, key, Vec::new(), now, context) {
                self.keep(id, at);
                // At once: the next flow that opens may evict it.
                self.forward(id, &[(id, at)], now, context);
            }
        }
        // Stable: the datagrams of a flow stay in order.
        sorted.sort_by_key(|(id, _)| id.slot());
        for group in sorted.chunk_by(|(one, _), (other, _)| one == other) {
            if let Some((id, _)) = group.first() {
                self.forward(*id, group, now, context);
            }
        }
        self.sorted = sorted;
        opened
    }

    /// Whether a flow goes on with its endpoint. Where that one fails its checks and another one does not, the flow has
    /// ended and begins anew with another endpoint: a client whose endpoint is silent may go on for ever with the same port.
    fn goes_on(&mut self, id: FlowId) -> bool {
        let is_left_alone = self.sessions.get(id).is_some_and(|session| {
            let port = &session.port;
            session.active.state().health.fails_checks()
                && port.available(&port.route()).is_out(session.endpoint)
        });
        if is_left_alone {
            self.sessions.leave(id);
        }
        !is_left_alone
    }

    /// Keeps a flow's first datagram, which has that index in the batch.
    fn keep(&mut self, id: FlowId, at: usize) {
        if let Some(session) = self.sessions.get_mut(id)
            && let Some(first) = self.inbox.get(at).and_then(|it| it.datagrams().next())
        {
            session.keep(first);
        }
    }

    /// Sends some messages of the batch to the endpoint of their flow, or to another one where it refuses.
    fn forward(
        &mut self,
        id: FlowId,
        group: &[(FlowId, usize)],
        now: Tick,
        context: &UdpContext<'_>,
    ) {
        if self.send(id, group, now) {
            return;
        }
        // The endpoint refuses: the same once more, to another one.
        if let Some(id) = self.pass_on(id, now, context) {
            self.send(id, group, now);
        }
    }

    /// Sends some messages of the batch to the endpoint of their flow; false where it refuses.
    fn send(&self, id: FlowId, group: &[(FlowId, usize)], now: Tick) -> bool {
        let Some(session) = self.sessions.get(id) else {
            return true;
        };
        if session.is_refused {
            return false;
        }
        let messages = group.iter().filter_map(|(_, at)| self.inbox.get(*at));
        let counters = &session.port.counters;
        let sent = send_all(&session.socket, None, messages, self.offload);
        counters.datagrams_received.add(sent.datagrams);
        counters.received.add(sent.bytes);
        let is_refused = sent.is_refused();
        if let Some(error) = sent.error {
            if error.kind() != io::ErrorKind::WouldBlock {
                session.failed(&error, now);
            }
            tracing::debug!(endpoint = %session.endpoint, %error, "datagram not sent");
            if !is_refused {
                counters.dropped(DropReason::of(&error), sent.dropped);
            }
        }
        !is_refused
    }

    /// The endpoint of a flow refused: the flow goes on with another one, which gets what the first one
    /// did not take. Nothing where none is left; the client is told so.
    pub(super) fn pass_on(
        &mut self,
        id: FlowId,
        now: Tick,
        context: &UdpContext<'_>,
    ) -> Option<FlowId> {
        let mut session = self.sessions.end(id)?;
        let mut refused_by = std::mem::take(&mut session.refused_by);
        refused_by.push(session.endpoint);
        let (number, key) = (session.listener, session.key());
        let unanswered = session.unanswered.take();
        drop(session);
        let id = self.open(number, key, refused_by, now, context)?;
        if let Some(datagram) = unanswered
            && let Some(session) = self.sessions.get_mut(id)
        {
            let sent = packets::send(&session.socket, None, &[&datagram], None);
            let counters = &session.port.counters;
            match sent {
                Ok(()) => {
                    counters.datagrams_received.increment();
                    counters.received.add(datagram.len() as u64);
                }
                Err(error) => session.failed(&error, now),
            }
            session.keep(&datagram);
        }
        Some(id)
    }
}
