//! The control task's part when a process takes over from another one (`take_over`).

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use fairway_config::names::ServiceName;
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::PortKey;

use super::ControlTask;
use crate::bgp::handed::FrozenRouters;
use crate::descriptors::CONNECTION;
use crate::engine::{TakenConnection, TakenFlow};
use crate::handed::{HandedOwner, HandedSegment, WholeConnection, WholeFlow};
use crate::port::Port;
use crate::slot::{BindKey, Slot};

/// What the control task is asked for.
#[derive(Debug)]
pub(crate) enum HandoverRequest {
    /// Whose these connections are. Those that nobody owns here, or for which there is no room, stay where they are.
    Connections(Vec<WholeConnection>, Sender<Vec<Option<TakenConnection>>>),
    /// The same with UDP flows.
    Flows(Vec<WholeFlow>, Sender<Vec<Option<TakenFlow>>>),
    /// Announce no more, and tell what another process needs to go on with it. Others notice nothing for a moment.
    LeaveFleet(Sender<Vec<HandedSegment>>),
    /// Announce from now on, with what another process had.
    Announce(Vec<HandedSegment>),
    /// Leave the sessions with routers alone, and tell what another process needs to go on with them.
    FreezeRouters(Sender<FrozenRouters>),
    /// Change no route of the kernel, and give the socket of the keeper, if there is one.
    FreezeRoutes(Sender<Option<UnixStream>>),
    /// Nobody goes on with either: go on.
    Thaw,
    /// Another process has the sessions of these names, and the routes of the kernel. It has neither sessions of other
    /// names nor, where it does not know them, routes: these end.
    Leave(BTreeSet<String>),
    /// All has been taken over: this process announces from now on, with what the former one had.
    Begin(TakenAnnouncing),
    /// Another process has taken over: this one ends with its last connection.
    End,
}

/// What another process has announced so far, for this one to go on with.
#[derive(Debug)]
pub(crate) struct TakenAnnouncing {
    pub(crate) segments: Vec<HandedSegment>,
    pub(crate) routers: FrozenRouters,
    /// The socket of the keeper of kernel routes.
    pub(crate) keeper: Option<UnixStream>,
    /// Hears when packets of BFD go out, or that there are none.
    pub(crate) begun: Sender<()>,
}

impl ControlTask {
    /// Answers a request. Returns whether this process has handed over. Whoever has asked may be gone.
    pub(super) async fn hand_over(&mut self, request: HandoverRequest) -> bool {
        match request {
            HandoverRequest::Connections(connections, reply) => {
                let connections = connections.into_iter();
                let taken = connections.map(|it| self.take_connection(it));
                let _ = reply.send(taken.collect());
            }
            HandoverRequest::Flows(flows, reply) => {
                let taken = flows.into_iter().map(|it| self.take_flow(it));
                let _ = reply.send(taken.collect());
            }
            HandoverRequest::LeaveFleet(reply) => {
                let segments = match self.fleet.take() {
                    Some(fleet) => fleet.hand_over().await,
                    None => Vec::new(),
                };
                let _ = reply.send(segments);
            }
            HandoverRequest::Announce(segments) => self.go_on_announcing(segments),
            HandoverRequest::FreezeRouters(reply) => self.bgp.freeze(reply),
            HandoverRequest::FreezeRoutes(reply) => self.kernel_routes.freeze(reply),
            HandoverRequest::Thaw => {
                self.bgp.thaw();
                self.kernel_routes.thaw();
            }
            HandoverRequest::Leave(taken) => {
                self.bgp.leave(taken);
                self.kernel_routes.leave();
            }
            HandoverRequest::Begin(taken) => {
                self.shared.taking_over.store(false, Ordering::Release);
                // Routers, and the keeper of the kernel's routes, wait for less time than others on a network. The former
                // process keeps the routes until it hears that BFD has begun.
                self.kernel_routes.begin(taken.keeper);
                self.bgp.begin(taken.routers, taken.begun);
                self.bgp.settle();
                self.checks.begin();
                self.go_on_announcing(taken.segments);
            }
            HandoverRequest::End => return true,
        }
        false
    }

    /// Notes whether something is lacking without which routers would be told less than by the other process.
    pub(super) fn note_lacking(&self) {
        let lacks = self.names.awaits_answers() || self.bgp.lacks_passwords();
        self.shared.lacks_answers.store(lacks, Ordering::Release);
    }

    fn take_connection(&self, whole: WholeConnection) -> Option<TakenConnection> {
        let (port, slot) = self.owner(&whole.says.owner)?;
        let descriptors = &self.shared.descriptors;
        Some(TakenConnection {
            permit: descriptors.take(Some(&port.share), CONNECTION)?,
            whole,
            port,
            slot,
        })
    }

    fn take_flow(&self, whole: WholeFlow) -> Option<TakenFlow> {
        let owner = &whole.says.owner;
        let (port, _) = self.owner(owner)?;
        if !self.programmer.is_listening(place(owner, Protocol::Udp)) {
            return None;
        }
        Some(TakenFlow {
            permit: self.shared.descriptors.take(Some(&port.share), 1)?,
            whole,
            port,
        })
    }

    /// The port that a connection or flow belongs to, and the slot where it came in.
    fn owner(&self, owner: &HandedOwner) -> Option<(Arc<Port>, Arc<Slot>)> {
        let service = ServiceName::new(&*owner.namespace, &*owner.service);
        let key = PortKey {
            protocol: owner.protocol,
            port: owner.port,
        };
        let ports = &self.services.get(&service)?.ports;
        let (_, port) = ports.iter().find(|(it, _)| *it == key)?;
        let slot = self.programmer.slot(place(owner, owner.protocol))?;
        Some((port.clone(), slot.clone()))
    }
}

fn place(owner: &HandedOwner, protocol: Protocol) -> BindKey {
    BindKey {
        listen: ListenAddr(owner.listen),
        protocol,
    }
}
