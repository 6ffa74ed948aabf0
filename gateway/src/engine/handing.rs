//! A worker's part when another process takes over: its listening sockets and its connections go there, and what the
//! other one does not take goes on here.
//!
//! Between two rounds no system call of io_uring is under way, so a connection can be frozen at once.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use fairway_config::net::Protocol;

use super::Engine;
use super::connection::TcpConnection;
use super::handover::{
    Admission, FrozenPart, HandoverCommand, OfferedPart, TakenConnection, TakenFlow,
};
use super::poll::Token;
use super::udp::UdpContext;
use crate::handed::{OfferedSocket, WholeConnection};
use crate::hops::HopFilter;
use crate::open_connection::OpenConnection;

/// The most listening sockets that are told of at once.
const MOST_SOCKETS: usize = 128;

/// The most connections that are frozen at once: each waits for all of them. They have two descriptors each.
const MOST_CONNECTIONS: usize = 25;

/// The most bytes that were read and not written yet, of all connections that are frozen at once. Of one there may be
/// two pipes full.
const MOST_BYTES: usize = 4 << 20;

impl Engine {
    /// Does a part of handing over. Whoever has asked may be gone.
    pub(super) fn hand_over(&mut self, command: HandoverCommand) {
        match command {
            HandoverCommand::Offer(after, reply) => {
                let _ = reply.send(self.offer(after));
            }
            HandoverCommand::Accept(admission, reply) => {
                self.set_admission(admission);
                let _ = reply.send(());
            }
            HandoverCommand::Freeze(from, reply) => {
                let part = self.freeze(from);
                let _ = reply.send(part);
            }
            HandoverCommand::FreezeFlows(from, reply) => {
                let part = self.datagrams.freeze(from, self.mailbox.poll());
                let _ = reply.send(part);
            }
            HandoverCommand::Settle(taken, reply) => {
                self.settle(taken);
                let _ = reply.send(());
            }
            HandoverCommand::LetGo(reply) => {
                self.let_go();
                let _ = reply.send(());
            }
            HandoverCommand::Take(connections) => {
                for connection in connections {
                    self.take(connection);
                }
            }
            HandoverCommand::TakeFlows(flows) => self.take_flows(flows),
        }
    }

    /// Tells of listening sockets whose number is greater than that one.
    fn offer(&self, after: u32) -> OfferedPart {
        let of_tcp = self.listeners.by_number.keys().copied();
        let all = of_tcp.chain(self.datagrams.numbers());
        let mut numbers: Vec<u32> = all.filter(|number| *number > after).collect();
        numbers.sort_unstable();
        let has_more = numbers.len() > MOST_SOCKETS;
        numbers.truncate(MOST_SOCKETS);
        let last = numbers.last().copied().filter(|_| has_more);
        let sockets = numbers.into_iter();
        let sockets = sockets.filter_map(|number| match self.offered(number) {
            Ok(offered) => offered,
            Err(error) => {
                tracing::warn!(%error, "a listening socket can't be handed over");
                None
            }
        });
        OfferedPart {
            sockets: sockets.collect(),
            last,
        }
    }

    fn offered(&self, number: u32) -> io::Result<Option<(OfferedSocket, OwnedFd)>> {
        if let Some(listener) = self.listeners.by_number.get(&number) {
            let listening = &listener.listening;
            let listen = match &listening.slot {
                Some(slot) => slot.listen.0,
                None => listening.socket.local_addr()?,
            };
            let says = OfferedSocket {
                listen,
                protocol: Protocol::Tcp,
                worker: 0,
                drops_forwarded: false,
                arrival: listening.arrival,
            };
            return Ok(Some((says, listening.socket.as_fd().try_clone_to_owned()?)));
        }
        let Some(receiving) = self.datagrams.receiving(number) else {
            return Ok(None);
        };
        let says = OfferedSocket {
            listen: receiving.slot.listen.0,
            protocol: Protocol::Udp,
            worker: 0,
            drops_forwarded: receiving.token.hop_filter() == HopFilter::DropForwarded,
            arrival: None,
        };
        Ok(Some((says, receiving.socket.as_fd().try_clone_to_owned()?)))
    }

    /// Accepts and receives, or leaves that alone. What comes meanwhile waits in the kernel's queues.
    fn set_admission(&mut self, admission: Admission) {
        self.mailbox.set_admission(admission);
        let poll = self.mailbox.poll();
        for (number, listener) in &self.listeners.by_number {
            if listener.paused.is_some() {
                continue;
            }
            let socket = &listener.listening.socket;
            let token = Token::Listener(*number);
            if let Err(error) = poll.listen(socket, token, admission.connections) {
                tracing::warn!(%error, "a listener can't be paused, or can't go on");
            }
        }
        for number in self.datagrams.numbers() {
            let Some(receiving) = self.datagrams.receiving(number) else {
                continue;
            };
            let token = Token::Datagrams(number);
            if let Err(error) = poll.listen(&receiving.socket, token, admission.datagrams) {
                tracing::warn!(%error, "a UDP listener can't be paused, or can't go on");
            }
        }
        if !self.listeners.paused.is_empty() {
            self.listeners.retry = Some(Instant::now());
        }
    }

    /// Freezes some connections, from that number on.
    fn freeze(&mut self, from: u32) -> FrozenPart<WholeConnection> {
        let mut part = FrozenPart {
            frozen: Vec::new(),
            next: None,
            later: 0,
        };
        let mut bytes = 0;
        for number in self.connections.numbers().skip(from as usize) {
            let Some(connection) = self.connections.get(number) else {
                continue;
            };
            if !connection.can_be_handed() {
                part.later += usize::from(connection.is_to_be_established());
                continue;
            }
            if part.frozen.len() == MOST_CONNECTIONS || bytes >= MOST_BYTES {
                part.next = Some(number);
                break;
            }
            let Some(mut connection) = self.connections.remove(number) else {
                continue;
            };
            connection.leave(self.mailbox.poll());
            match connection.hand() {
                Ok(Some(whole)) => {
                    bytes += whole.up.len() + whole.down.len();
                    part.frozen.push(whole);
                    self.frozen.push(connection);
                }
                Ok(None) => self.thaw(connection),
                Err(error) => {
                    tracing::debug!(%error, "a connection is not handed over");
                    self.thaw(connection);
                }
            }
        }
        part
    }

    /// Forgets what the other process has taken, and goes on with the rest.
    fn settle(&mut self, taken: Vec<bool>) {
        let mut taken = taken.into_iter().chain(std::iter::repeat(false));
        for connection in std::mem::take(&mut self.frozen) {
            if taken.next() == Some(true) {
                drop(connection);
            } else {
                self.thaw(connection);
            }
        }
        let context = UdpContext {
            shared: &self.shared,
            poll: self.mailbox.poll(),
        };
        self.datagrams.settle(taken, &context);
    }

    fn thaw(&mut self, connection: TcpConnection) {
        let (owner, timer) = (connection.owner(), connection.timer());
        let number = self.connections.insert(connection, owner);
        self.connections.enlist(number, timer as u8, Instant::now());
        self.step(number, TcpConnection::go_on);
    }

    fn take(&mut self, taken: TakenConnection) {
        let client = taken.whole.says.client.ip().to_canonical();
        let port = OpenConnection::taken(taken.port, taken.slot, client, &self.shared.clock);
        let says = &taken.whole.says;
        let transparent = says.transparent.then(|| self.shared.transparency.hold());
        let connection = TcpConnection::taken(taken.whole, port, transparent, taken.permit);
        self.thaw(connection);
    }

    fn take_flows(&mut self, flows: Vec<TakenFlow>) {
        let context = UdpContext {
            shared: &self.shared,
            poll: self.mailbox.poll(),
        };
        for flow in flows {
            self.datagrams.take(flow, &context);
        }
    }

    /// Leaves all listening sockets to the other process. They must not be accepted at, as they are when they close: who
    /// waits there is the other one's client.
    fn let_go(&mut self) {
        let poll = self.mailbox.poll();
        for (_, listener) in self.listeners.by_number.drain() {
            poll.remove(&listener.listening.socket);
        }
        self.listeners.paused.clear();
        self.listeners.steered.clear();
        self.datagrams.let_go(poll);
    }
}
