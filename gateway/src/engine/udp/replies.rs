//! From endpoints to clients, and ICMP errors of endpoints.

use std::io;

use fairway_gateway_core::flows::FlowId;
use socket2::SockAddr;

use super::packets::BATCH;
use super::proxy::{UdpContext, UdpProxy};
use super::segments::send_all;
use crate::counters::DropReason;
use crate::engine::poll::EventFlags;

impl UdpProxy {
    /// The endpoint of a flow has answered, or its socket has an error to tell.
    pub(crate) fn answers(&mut self, slot: u32, flags: EventFlags, context: &UdpContext<'_>) {
        let Some(session) = self.sessions.at(slot) else {
            return;
        };
        let id = session.id;
        if flags.contains(EventFlags::ERR)
            && let Ok(Err(error)) = rustix::net::sockopt::socket_error(&session.socket)
        {
            self.failed(id, &error.into(), context);
        }
        // The slot may have another flow now.
        if flags.contains(EventFlags::IN) && self.sessions.get(id).is_some() {
            self.reply(id, context);
        }
    }

    /// Sends the answers that wait to the client.
    fn reply(&mut self, id: FlowId, context: &UdpContext<'_>) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.unanswered = None;
        let received = self.inbox.receive(&session.socket, BATCH);
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return self.failed(id, &error, context),
        };
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        // From the socket that listens, so that an answer comes from the address that the client asked.
        if let Some(listener) = self.sessions.listener(session.listener) {
            let to = SockAddr::from(session.client.0);
            let messages = (0..count).filter_map(|at| self.inbox.get(at));
            let socket = &listener.receiving.socket;
            let sent = send_all(socket, Some(&to), messages, self.offload);
            let counters = &session.port.counters;
            counters.datagrams_transmitted.add(sent.datagrams);
            counters.transmitted.add(sent.bytes);
            if let Some(error) = sent.error {
                counters.dropped(DropReason::of(&error), sent.dropped);
                tracing::debug!(client = %session.client, %error, "answer not sent");
            }
        }
        session.port.answered(session.active.state());
        self.sessions.table.replied(id, context.shared.clock.now());
    }

    /// An ICMP error came for a flow.
    fn failed(&mut self, id: FlowId, error: &io::Error, context: &UdpContext<'_>) {
        let now = context.shared.clock.now();
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.failed(error, now);
        if error.kind() != io::ErrorKind::ConnectionRefused {
            return;
        }
        if session.unanswered.is_some() {
            self.pass_on(id, now, context);
            return;
        }
        // The refused datagram is not kept, so no other endpoint can have it: the client is told.
        session.is_refused = true;
        session.port.counters.dropped(DropReason::Refused, 1);
        let (key, has_others) = (session.key(), session.has_others());
        self.port_unreachable.tell(key, now);
        if !has_others {
            // The next datagram tries the same endpoint again.
            self.sessions.end(id);
        }
    }
}
