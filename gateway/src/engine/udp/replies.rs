//! From endpoints to clients, and ICMP errors of endpoints.

use std::io;

use fairway_gateway_core::flows::FlowId;
use socket2::SockAddr;

use super::packets::BATCH;
use super::proxy::{UdpContext, UdpProxy};
use super::segments::send_all;
use crate::counters::DropReason;
use crate::engine::poll::{EventFlags, Token};

/// How much one listener's flows may do in a round, in messages that are sent on.
const ROUND: usize = 4 * BATCH;

/// An error counts as so many messages: the flow may go on to another endpoint by a new socket.
const FAILURE: usize = 16;

impl UdpProxy {
    /// Flows of a listener that has many have something to tell. What there is no time for is told again in
    /// the next round, after what others have to tell.
    pub(crate) fn answers_at(&mut self, number: u32, context: &UdpContext<'_>) {
        let listener = self.sessions.listener(number);
        let Some(flows) = listener.and_then(|listener| listener.sub_epoll.as_ref()) else {
            return;
        };
        let mut ready = std::mem::take(&mut self.ready);
        if let Err(error) = flows.epoll.take(&mut ready) {
            tracing::debug!(%error, "flows of a listener");
        }
        let mut done = 0;
        for (token, flags) in &ready {
            if done >= ROUND {
                break;
            }
            if let Token::Flow(slot) = token {
                done += self.answers(*slot, *flags, context);
            }
        }
        self.ready = ready;
    }

    /// The endpoint of a flow has answered, or its socket has an error to tell. How many messages were sent
    /// on, or could have been in that time.
    pub(crate) fn answers(
        &mut self,
        slot: u32,
        flags: EventFlags,
        context: &UdpContext<'_>,
    ) -> usize {
        let Some(session) = self.sessions.at(slot) else {
            return 0;
        };
        let id = session.id;
        let mut done = 0;
        if flags.contains(EventFlags::ERR)
            && let Ok(Err(error)) = rustix::net::sockopt::socket_error(&session.socket)
        {
            self.failed(id, &error.into(), context);
            done += FAILURE;
        }
        // The slot may have another flow now.
        if flags.contains(EventFlags::IN) && self.sessions.get(id).is_some() {
            done += self.reply(id, context);
        }
        done
    }

    /// Sends the answers that wait to the client. How many messages they were.
    fn reply(&mut self, id: FlowId, context: &UdpContext<'_>) -> usize {
        let Some(session) = self.sessions.get_mut(id) else {
            return 0;
        };
        session.unanswered = None;
        let received = self.inbox.receive(&session.socket, BATCH);
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
            Err(error) => {
                self.failed(id, &error, context);
                return FAILURE;
            }
        };
        let Some(session) = self.sessions.get(id) else {
            return 0;
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
        let now = context.shared.clock.now();
        session.port.answered(session.active.state(), now);
        self.sessions.table.replied(id, now);
        count
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
