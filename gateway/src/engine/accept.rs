//! Accepting: which connections come in, and which wait in the kernel's queue while the file descriptors are
//! used up.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::exchange::ClaimKind;
use fairway_config::net::{ClientAddr, ListenAddr};
use fairway_config::service::AppProtocol;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::Engine;
use super::connection::TcpConnection;
use super::http::HttpConnection;
use super::listeners::Accepting;
use super::owners::ConnectionOwner;
use super::poll::Token;
use crate::client_origin::ClientOrigin;
use crate::counters::Rejection;
use crate::descriptors::{CONNECTION, Permit};
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::port::Port;
use crate::slot::{Slot, Target};
use crate::socket;
use crate::tasks::TaskKind;

/// The most connections that are accepted at one socket in one round.
const BATCH: u32 = 64;

/// How long a paused listener waits where nobody reports that file descriptors are free again: the kernel may
/// have had no file or no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// The shortest time between two tries of paused listeners.
const RESUME_INTERVAL: Duration = Duration::from_millis(1);

impl Engine {
    /// Accepts connections that wait at a socket.
    pub(super) fn accept(&mut self, number: u32) {
        let Some(listener) = self.listeners.by_number.get(&number) else {
            // The command that brings this listener has not been read yet.
            self.commands();
            return;
        };
        if !self.mailbox.admission().connections {
            return;
        }
        let (slot, batch) = (listener.listening.slot.clone(), listener.batch);
        let (accepted, end) = self.accept_at(number, slot.as_ref(), batch);
        let Some(listener) = self.listeners.by_number.get_mut(&number) else {
            return;
        };
        if accepted < batch {
            listener.batch = accepted.max(1);
        } else if listener.round + 1 == self.round {
            // The round before was full, too, and connections were left.
            listener.batch = (batch * 2).min(BATCH);
        }
        listener.round = self.round;
        if end == Accepting::NoDescriptors && listener.paused.is_none() {
            listener.paused = Some(self.shared.descriptors.paused());
            let socket = &listener.listening.socket;
            let listen = self
                .mailbox
                .poll()
                .listen(socket, Token::Listener(number), false);
            if let Err(error) = listen {
                tracing::warn!(%error, "a listener can't be paused");
            }
            self.listeners.paused.push_back(number);
            self.listeners.retry = Some(Instant::now() + PAUSE);
        }
    }

    /// File descriptors were given back: tries the paused listeners, at once or after [`RESUME_INTERVAL`].
    /// (A port that has used up its share is told of everything that others give back, too, so this may be
    /// called often.)
    pub(super) fn resume_soon(&mut self) {
        if self.listeners.paused.is_empty() {
            return;
        }
        let soon = self.listeners.resumed + RESUME_INTERVAL;
        if soon <= Instant::now() {
            self.resume();
        } else {
            let retry = self.listeners.retry.map_or(soon, |retry| retry.min(soon));
            self.listeners.retry = Some(retry);
        }
    }

    /// Tries the paused listeners again.
    pub(super) fn resume(&mut self) {
        self.listeners.retry = None;
        if !self.mailbox.admission().connections {
            return;
        }
        self.listeners.resumed = Instant::now();
        for _ in 0..self.listeners.paused.len() {
            let Some(number) = self.listeners.paused.pop_front() else {
                break;
            };
            let Some(listener) = self.listeners.by_number.get(&number) else {
                continue;
            };
            let slot = listener.listening.slot.clone();
            // One connection each, so that every listener gets something.
            let (_, end) = self.accept_at(number, slot.as_ref(), 1);
            let Some(listener) = self.listeners.by_number.get_mut(&number) else {
                continue;
            };
            if end == Accepting::NoDescriptors {
                self.listeners.paused.push_back(number);
                continue;
            }
            listener.paused = None;
            let socket = &listener.listening.socket;
            let listen = self
                .mailbox
                .poll()
                .listen(socket, Token::Listener(number), true);
            if let Err(error) = listen {
                tracing::warn!(%error, "a listener can't go on");
            }
        }
        if !self.listeners.paused.is_empty() {
            self.listeners.retry = Some(Instant::now() + PAUSE);
        }
    }

    /// Begins a connection that was steered here by the kernel.
    fn begin_steered(&mut self, socket: OwnedFd, from: ClientAddr, mut permit: Permit) {
        let listen = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|listen| SocketAddr::try_from(listen).ok());
        let listen = listen.map(ListenAddr);
        if listen.is_some_and(|listen| !self.listeners.steered.contains_key(&listen)) {
            // The command that brings it was sent before the kernel began to steer, but may still wait behind others.
            self.carry_out_all();
        }
        let steered = listen.and_then(|listen| self.listeners.steered.get(&listen));
        let Some(steered) = steered else {
            // The address is steered no more, or somebody on this host has connected to the socket itself.
            return socket::reset_on_close(&socket);
        };
        let slot = steered.slot.clone();
        let target = slot.target.load_full();
        // The connection was accepted before its port was known. It can't wait for file descriptors here, as
        // it would keep others waiting.
        if !self.shared.descriptors.charge(&mut permit, target.share()) {
            if let Target::Port { port, .. } = &*target {
                port.counters.reject(Rejection::Limit);
            }
            return socket::reset_on_close(&socket);
        }
        self.begin(socket, from, permit, (&slot, &target), true);
    }

    /// Accepts at most `most` connections. Returns how many there were, and why it stopped.
    pub(super) fn accept_at(
        &mut self,
        number: u32,
        slot: Option<&Arc<Slot>>,
        most: u32,
    ) -> (u32, Accepting) {
        let mut accepted = 0;
        while accepted < most {
            let target = slot.map(|slot| slot.target.load_full());
            let share = target.as_deref().and_then(Target::share);
            let descriptors = &self.shared.descriptors;
            // The permit first: a client that was accepted and can't be carried is worse off than one that
            // waits in the kernel's queue.
            let Some(permit) = descriptors.take_or_pause(share, CONNECTION) else {
                return (accepted, Accepting::NoDescriptors);
            };
            let Some(listener) = self.listeners.by_number.get(&number) else {
                break;
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&listener.listening.socket, flags) {
                Ok((socket, from)) => {
                    accepted += 1;
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    // A TCP client has an address of IPv4 or IPv6.
                    let Some(from) = from.map(ClientAddr) else {
                        continue;
                    };
                    match slot.zip(target) {
                        Some((slot, target)) => {
                            self.begin(socket, from, permit, (slot, &target), false);
                        }
                        None => self.begin_steered(socket, from, permit),
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) if socket::is_of_one_connection(&error.into()) => {
                    tracing::debug!(%error, "accept");
                }
                Err(error) => {
                    drop(permit);
                    descriptors.exhausted(&error.into());
                    return (accepted, Accepting::NoDescriptors);
                }
            }
        }
        (accepted, Accepting::Enough)
    }

    /// Begins a connection of another gateway, which has to say whom it is to be connected with.
    fn begin_relayed(
        &mut self,
        socket: OwnedFd,
        from: ClientAddr,
        permit: Permit,
        slot: &Arc<Slot>,
        port: &Arc<Port>,
    ) {
        let transparency = &self.shared.transparency;
        let peer = from.0.ip().to_canonical();
        let surroundings = transparency.surroundings();
        let is_stranger = !surroundings.relays.values().any(|it| it.ip() == peer);
        let half_open = transparency.half_open.enter(peer, is_stranger);
        let (Some(half_open), Some(number)) = (half_open, random_number()) else {
            return socket::reset_on_close(&socket);
        };
        let owner = ConnectionOwner {
            port: port.number,
            place: slot.number,
        };
        let port = OpenConnection::new(port.clone(), slot.clone());
        let connection = TcpConnection::new(socket, from, slot.listen, None, port, permit);
        let connection = connection.behind_request(number, half_open);
        let number = self.connections.insert(connection, owner);
        self.step(number, TcpConnection::read_request);
    }

    /// Begins a connection for the target of its listener.
    fn begin(
        &mut self,
        socket: OwnedFd,
        from: ClientAddr,
        permit: Permit,
        (slot, target): (&Arc<Slot>, &Target),
        is_steered: bool,
    ) {
        let (port, kind) = match target {
            Target::Health(health) => {
                let health = health.clone();
                let probe = TaskKind::Probe { health };
                return self.listeners.tasks.hand(socket, permit, probe);
            }
            Target::Port { port, kind } => (port, *kind),
            Target::Relay(port) => return self.begin_relayed(socket, from, permit, slot, port),
        };
        let mut port = OpenConnection::new(port.clone(), slot.clone());
        let clock = &self.shared.clock;
        let refusals = self.shared.refusals.get().filter(|_| is_steered);
        let blocks = refusals.map(|refusals| &**refusals.blocks());
        let (app, hops, header, tells) = {
            let route = port.route();
            // A client that its peer announces is judged when it is known. A loop is one whomever it carries.
            let header = route.options.announces(from.0.ip());
            let admitted = match kind {
                ClaimKind::Vip if header => Ok(()),
                _ => port.admit(&route, kind, from.0.ip(), clock),
            };
            let admitted = admitted.and_then(|()| match header {
                true => Ok(()),
                false => port.enter(&route, from.0.ip(), blocks, clock),
            });
            let hops = admitted.and_then(|()| {
                Hops::left(&route, &socket, from).inspect_err(|why| port.counters.reject(*why))
            });
            match hops {
                Ok(hops) => (route.app, hops, header, route.options.proxy_protocol),
                Err(_rejected) => {
                    socket::reset_on_close(&socket);
                    // In this order: a reset needs the local route of the VIP, which stays while the
                    // connection is counted.
                    drop(socket);
                    return drop(port);
                }
            }
        };
        let listen = slot.listen;
        let owner = ConnectionOwner {
            port: port.number,
            place: slot.number,
        };
        match app {
            _ if header => {
                let connection = TcpConnection::new(socket, from, listen, hops, port, permit);
                let connection = connection.behind_header(kind, hops);
                let number = self.connections.insert(connection, owner);
                self.step(number, TcpConnection::read_header);
            }
            AppProtocol::Opaque => {
                let mut connection = TcpConnection::new(socket, from, listen, hops, port, permit);
                if let Some(version) = tells {
                    connection.tell_endpoint(version);
                }
                let number = self.connections.insert(connection, owner);
                self.step(number, TcpConnection::dial);
            }
            AppProtocol::Http => {
                let origin = ClientOrigin::of_peer(from);
                let connection = HttpConnection::new(socket, origin, listen, hops, port, permit);
                self.begin_http(connection);
            }
            AppProtocol::H2c => {
                let request = TaskKind::Http {
                    origin: ClientOrigin::of_peer(from),
                    listen,
                    hops,
                    port,
                    first: Vec::new(),
                    open: self.shared.connections.token(),
                };
                self.listeners.tasks.hand(socket, permit, request);
            }
        }
    }
}

/// A number that nobody can foresee.
fn random_number() -> Option<u128> {
    let number = ring::rand::generate::<[u8; 16]>(&ring::rand::SystemRandom::new());
    number.ok().map(|it| u128::from_ne_bytes(it.expose()))
}
