//! Accepting: who comes in, and who waits while there is no leave for another connection.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::net::{ClientAddr, ListenAddr};
use fairway_config::service::AppProtocol;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::Engine;
use super::connection::TcpConnection;
use super::listeners::Accepting;
use super::owners::ConnectionOwner;
use super::poll::Token;
use crate::counters::Rejection;
use crate::descriptors::{CONNECTION, Permit};
use crate::hops::Hops;
use crate::open::Open;
use crate::slot::{Slot, Target};
use crate::socket;
use crate::tasks::TaskKind;

/// Connections accepted at one socket before others have their turn, at most.
const MOST: u32 = 64;

/// How long to wait before it is tried again where the kernel had no file or no memory, or nobody
/// said that there is leave again.
const PAUSE: Duration = Duration::from_millis(100);

/// How soon it is tried again where somebody said so.
const MOMENT: Duration = Duration::from_millis(1);

impl Engine {
    /// Connections wait at a socket.
    pub(super) fn accept(&mut self, number: u32) {
        let Some(listener) = self.listeners.by_number.get(&number) else {
            // Its command is on its way.
            self.commands();
            return;
        };
        let (slot, batch) = (listener.listening.slot.clone(), listener.batch);
        let (accepted, end) = self.accept_at(number, slot.as_ref(), batch);
        let Some(listener) = self.listeners.by_number.get_mut(&number) else {
            return;
        };
        if accepted < batch {
            listener.batch = accepted.max(1);
        } else if listener.round + 1 == self.round {
            // As in the round before, and more were left.
            listener.batch = (batch * 2).min(MOST);
        }
        listener.round = self.round;
        if end == Accepting::NoLeave && !listener.paused {
            listener.paused = true;
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

    /// There may be leave again: now, or where it was tried just now, in a moment. (A port that has its
    /// share waits for what others give back, and is told of all of it.)
    pub(super) fn resume_soon(&mut self) {
        if self.listeners.paused.is_empty() {
            return;
        }
        let soon = self.listeners.resumed + MOMENT;
        if soon <= Instant::now() {
            self.resume();
        } else {
            let retry = self.listeners.retry.map_or(soon, |retry| retry.min(soon));
            self.listeners.retry = Some(retry);
        }
    }

    /// There may be leave again.
    pub(super) fn resume(&mut self) {
        self.listeners.retry = None;
        self.listeners.resumed = Instant::now();
        for _ in 0..self.listeners.paused.len() {
            let Some(number) = self.listeners.paused.pop_front() else {
                break;
            };
            let Some(listener) = self.listeners.by_number.get(&number) else {
                continue;
            };
            let slot = listener.listening.slot.clone();
            // One each: who waits has his turn.
            let (_, end) = self.accept_at(number, slot.as_ref(), 1);
            let Some(listener) = self.listeners.by_number.get_mut(&number) else {
                continue;
            };
            if end == Accepting::NoLeave {
                self.listeners.paused.push_back(number);
                continue;
            }
            listener.paused = false;
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

    /// Starts what a connection is for that was steered here.
    fn begin_steered(&mut self, socket: OwnedFd, from: ClientAddr, mut permit: Permit) {
        let listen = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|listen| SocketAddr::try_from(listen).ok());
        let steered = listen.and_then(|listen| self.listeners.steered.get(&ListenAddr(listen)));
        let Some(steered) = steered else {
            // It serves nobody any more, or somebody on this host has found the socket.
            return socket::reset_on_close(&socket);
        };
        let slot = steered.slot.clone();
        let target = slot.target.load_full();
        // It was accepted before it was known whose it is: it can't wait, it would keep the others.
        if !self.shared.descriptors.charge(&mut permit, target.share()) {
            if let Target::Port { port, .. } = &*target {
                port.counters.reject(Rejection::Limit);
            }
            return socket::reset_on_close(&socket);
        }
        self.begin(socket, from, permit, &slot, &target);
    }

    /// Accepts as many at most. Returns how many there were, and why no more.
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
            // Leave first: a client that was accepted and can't be carried is worse off than one
            // that waits in the kernel's queue.
            let Some(permit) = descriptors.take_or_pause(share, CONNECTION) else {
                return (accepted, Accepting::NoLeave);
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
                        Some((slot, target)) => self.begin(socket, from, permit, slot, &target),
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
                    return (accepted, Accepting::NoLeave);
                }
            }
        }
        (accepted, Accepting::Enough)
    }

    /// Starts what a connection is for.
    fn begin(
        &mut self,
        socket: OwnedFd,
        from: ClientAddr,
        permit: Permit,
        slot: &Arc<Slot>,
        target: &Target,
    ) {
        let (port, kind) = match target {
            Target::Health(health) => {
                let health = health.clone();
                let probe = TaskKind::Probe { health };
                return self.listeners.tasks.hand(socket, permit, probe);
            }
            Target::Port { port, kind } => (port, *kind),
        };
        let port = Open::new(port.clone(), slot.clone());
        let (app, hops) = {
            let route = port.route();
            let admitted = port.admit(&route, kind, from.0.ip());
            let hops = admitted.and_then(|()| {
                Hops::left(&route, &socket, from).inspect_err(|why| port.counters.reject(*why))
            });
            match hops {
                Ok(hops) => (route.app, hops),
                Err(_rejected) => {
                    socket::reset_on_close(&socket);
                    // In this order: a reset needs the way that the connection has while it counts.
                    drop(socket);
                    return drop(port);
                }
            }
        };
        let listen = slot.listen;
        match app {
            AppProtocol::Opaque => {
                let owner = ConnectionOwner {
                    port: port.number,
                    place: slot.number,
                };
                let connection = TcpConnection::new(socket, from, listen, hops, port, permit);
                let number = self.connections.insert(connection, owner);
                self.step(number, TcpConnection::dial);
            }
            AppProtocol::Http | AppProtocol::H2c => {
                let request = TaskKind::Http {
                    from,
                    listen,
                    hops,
                    port,
                    open: self.shared.connections.token(),
                };
                self.listeners.tasks.hand(socket, permit, request);
            }
        }
    }
}
