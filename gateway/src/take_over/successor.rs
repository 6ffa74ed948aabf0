//! The side that takes over.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fairway_config::view::Readiness;

use super::announcing::OfferedAnnouncing;
use super::channel::{self, Channel, ChannelError, PATIENCE, WholeMessage};
use super::memory;
use super::wire::{HandoverMessage, Introduction, PROTOCOL};
use crate::clock::Clock;
use crate::control::{HandoverRequest, TakenAnnouncing};
use crate::engine::{
    Admission, HandoverCommand, Mailbox, TakenConnection, TakenFlow, WorkerCommand,
};
use crate::gateway::Gateway;
use crate::handed::{HandedConnection, HandedFlow, HandedSegment, WholeConnection, WholeFlow};
use crate::inherited::Inherited;
use crate::steering::inherited::InheritedSteering;

/// How often the predecessor is told that this process goes on.
const PREPARING: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(2);

/// How long a process that serves may take to say how it is.
const LOOKS: Duration = Duration::from_secs(2);

/// How long it is waited for interfaces, names and passwords.
const OPENED: Duration = Duration::from_secs(1);

/// How long it may take until the kernel has ended a predecessor that has gone.
const ENDING: Duration = Duration::from_secs(3);

/// Why this process can't take over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The predecessor does not hand over.
    #[error("the process that runs does not hand over: {0}")]
    Refused(String),
    /// It serves, and hands over to this one only when it is told to stop.
    #[error("{why}")]
    StandBy {
        /// Its words.
        why: String,
        /// How it is.
        readiness: Readiness,
    },
    /// It can't be spoken to.
    #[error("can't take over: {0}")]
    Failed(String),
}

impl TakeOverError {
    fn of(why: impl Display) -> Self {
        Self::Failed(why.to_string())
    }
}

/// What a process says that has the state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingProcess {
    /// How it is.
    pub readiness: Readiness,
    /// It is to stop, and waits for the one that asks.
    pub gives_way: bool,
}

/// A process that hands over to this one.
#[derive(Debug)]
pub struct HandingProcess {
    channel: Channel,
    inherited: Option<Inherited>,
    named: BTreeMap<String, OwnedFd>,
    pid: u32,
}

impl HandingProcess {
    /// Asks the process that has the state directory to hand over; none: there is no such process. `agreed`: what both
    /// have to agree about, by name. `pod`: the UID of the Pod that this process runs in.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub fn ask(
        state: &Path,
        agreed: BTreeMap<String, String>,
        pod: Option<String>,
    ) -> Result<Option<Self>, TakeOverError> {
        let Some(channel) = channel::connect(state).map_err(TakeOverError::of)? else {
            return Ok(None);
        };
        match Self::receive_offer(channel, agreed, pod) {
            // It has just ended, or has handed over to another one. The lock tells.
            Err(OfferError::Channel(ChannelError::Gone)) => Ok(None),
            Err(OfferError::Channel(error)) => Err(TakeOverError::of(error)),
            Err(OfferError::Refused(why)) => Err(TakeOverError::Refused(why)),
            Err(OfferError::StandBy(why, readiness)) => {
                Err(TakeOverError::StandBy { why, readiness })
            }
            Ok(process) => Ok(Some(process)),
        }
    }

    /// Asks the process that has the state directory how it is; none: there is no such process.
    ///
    /// # Errors
    /// It does not answer.
    pub fn look(
        state: &Path,
        pod: Option<String>,
    ) -> Result<Option<ServingProcess>, TakeOverError> {
        let Some(mut channel) = channel::connect(state).map_err(TakeOverError::of)? else {
            return Ok(None);
        };
        let asked = channel.set_patience(LOOKS).map_err(ChannelError::from);
        let answer = asked.and_then(|()| channel.say(&HandoverMessage::Look { pod }));
        match answer.and_then(|()| channel.receive()) {
            Ok(WholeMessage {
                message:
                    Some(HandoverMessage::Serves {
                        readiness,
                        gives_way,
                    }),
                ..
            }) => Ok(Some(ServingProcess {
                readiness,
                gives_way,
            })),
            Ok(_) => Err(TakeOverError::of(ChannelError::Unexpected)),
            Err(ChannelError::Gone) => Ok(None),
            Err(error) => Err(TakeOverError::of(error)),
        }
    }

    fn receive_offer(
        mut channel: Channel,
        agreed: BTreeMap<String, String>,
        pod: Option<String>,
    ) -> Result<Self, OfferError> {
        channel.say(&HandoverMessage::Hello(Introduction {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            clock: None,
            agreed,
            pod,
        }))?;
        let mut inherited = Inherited::default();
        let mut named = BTreeMap::new();
        let mut pid = 0;
        loop {
            let whole = channel.receive()?;
            let descriptors = whole.descriptors.into_iter();
            match whole.message {
                Some(HandoverMessage::Refused { why, stands_by }) => {
                    return Err(match stands_by {
                        Some(readiness) => OfferError::StandBy(why, readiness),
                        None => OfferError::Refused(why),
                    });
                }
                Some(HandoverMessage::Welcome(predecessor)) => {
                    tracing::info!(
                        pid = predecessor.pid,
                        version = predecessor.version,
                        "taking over from another process"
                    );
                    pid = predecessor.pid;
                    let start = predecessor.clock.map(Duration::from_nanos);
                    let start = start.and_then(|age| Instant::now().checked_sub(age));
                    inherited.clock = start.map(Clock::started);
                }
                Some(HandoverMessage::Named { names }) => {
                    named.extend(names.into_iter().zip(descriptors));
                }
                Some(HandoverMessage::Sockets { sockets }) => {
                    for (says, socket) in sockets.into_iter().zip(descriptors) {
                        inherited.add(says, socket);
                    }
                }
                Some(HandoverMessage::Announces { interfaces }) => {
                    inherited.interfaces = interfaces
                }
                Some(HandoverMessage::Offered) => break,
                // What a later version says besides.
                None => {}
                Some(_) => return Err(ChannelError::Unexpected.into()),
            }
        }
        inherited.set_steering(InheritedSteering::take(&mut named));
        Ok(Self {
            channel,
            inherited: Some(inherited),
            named,
            pid,
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor that it hands over by name.
    pub fn descriptor(&mut self, name: &str) -> Option<OwnedFd> {
        self.named.remove(name)
    }

    /// What the gateway of this process starts with.
    pub fn inherited(&mut self) -> Option<Inherited> {
        self.inherited.take()
    }

    /// Takes over, with a gateway that has been started. `own` makes the state this process's own, with the lock of the
    /// predecessor or (none) where that has ended. Blocks: to be called on a thread of its own.
    ///
    /// # Errors
    /// The predecessor stays and does not hand over. This process must not serve.
    pub fn take_over(
        self,
        gateway: &Gateway,
        own: impl Fn(Option<OwnedFd>) -> Result<(), String>,
    ) -> Result<(), TakeOverError> {
        let workers: Vec<_> = gateway.mailboxes().cloned().collect();
        let mut successor = TakingSide {
            channel: self.channel,
            gateway,
            workers,
            connections: Vec::new(),
            flows: Vec::new(),
            segments: Vec::new(),
            announcing: OfferedAnnouncing::default(),
            count: (0, 0),
        };
        if let Err(error) = successor.run(&own) {
            if let Err(why) = when_it_has_ended(&error, &own) {
                // What this process has accepted it carries to its end. All else is the predecessor's, which hears of it
                // first.
                drop(successor);
                gateway.end_for_another();
                return Err(why);
            }
            tracing::warn!(%error, "the former process has ended before it had handed over everything");
            successor.prepare_alone();
            successor.go_on_with_taken();
        }
        let (connections, flows) = successor.count;
        tracing::info!(connections, flows, "taken over");
        successor.admit(Admission::ALL);
        let (begun, has_begun) = mpsc::channel();
        gateway.hand_over(HandoverRequest::Begin(TakenAnnouncing {
            segments: successor.segments,
            routers: successor.announcing.routers,
            keeper: successor.announcing.keeper,
            begun,
        }));
        // The predecessor may have ended.
        let _ = has_begun.recv_timeout(PATIENCE);
        let _ = successor.channel.say(&HandoverMessage::Announcing);
        Ok(())
    }
}

/// Why nothing is offered.
enum OfferError {
    Channel(ChannelError),
    Refused(String),
    StandBy(String, Readiness),
}

impl From<ChannelError> for OfferError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

struct TakingSide<'a> {
    channel: Channel,
    gateway: &'a Gateway,
    workers: Vec<Arc<Mailbox>>,
    /// What is taken, and not this process's own yet.
    connections: Vec<TakenConnection>,
    flows: Vec<TakenFlow>,
    /// What the predecessor has owned on its networks.
    segments: Vec<HandedSegment>,
    /// What it has told routers, and the kernel.
    announcing: OfferedAnnouncing,
    /// How many connections and flows have become its own.
    count: (usize, usize),
}

impl TakingSide<'_> {
    fn run(
        &mut self,
        own: &impl Fn(Option<OwnedFd>) -> Result<(), String>,
    ) -> Result<(), ChannelError> {
        let mut said = Instant::now();
        self.channel.say(&HandoverMessage::Preparing)?;
        while !self.gateway.is_synced() {
            if said.elapsed() >= PREPARING {
                said = Instant::now();
                self.channel.say(&HandoverMessage::Preparing)?;
            }
            std::thread::sleep(LOOK);
        }
        // Interfaces are opened by a thread of their own, and names and passwords asked for by others. What can't be had now is no reason to wait for longer.
        let until = Instant::now() + OPENED;
        let is_ready =
            || self.gateway.layer2().faults().is_empty() && !self.gateway.lacks_answers();
        while !is_ready() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        self.channel.say(&HandoverMessage::Prepared)?;
        loop {
            let whole = self.channel.receive()?;
            if self.gateway.has_left() {
                // It was told to stop.
                return Err(ChannelError::Unexpected);
            }
            let asks = whole.asks;
            let WholeMessage {
                message,
                bytes,
                descriptors,
                ..
            } = whole;
            let taken = match message {
                Some(HandoverMessage::Accept) => {
                    self.admit(Admission {
                        connections: true,
                        datagrams: false,
                    });
                    Vec::new()
                }
                Some(HandoverMessage::Receive) => {
                    self.admit(Admission::ALL);
                    Vec::new()
                }
                Some(HandoverMessage::Connections { connections }) => {
                    self.connections(connections, &bytes, descriptors)?
                }
                Some(HandoverMessage::Flows { flows }) => self.flows(flows, descriptors)?,
                Some(HandoverMessage::Yours) => {
                    self.go_on_with_taken();
                    Vec::new()
                }
                Some(HandoverMessage::RouterRoutes { router, routes }) => {
                    self.announcing.add_routes(router, routes);
                    Vec::new()
                }
                Some(HandoverMessage::Router(says)) => {
                    vec![self.announcing.add_router(*says, &bytes, descriptors)]
                }
                Some(HandoverMessage::BfdPlaces { places }) => {
                    self.announcing.add_bfd(places, descriptors);
                    Vec::new()
                }
                Some(HandoverMessage::KernelRoutes {}) => {
                    self.announcing.add_keeper(descriptors);
                    Vec::new()
                }
                Some(HandoverMessage::Affinity(port)) => {
                    memory::take_affinity(self.gateway, &port, &bytes);
                    Vec::new()
                }
                Some(HandoverMessage::Buckets(port)) => {
                    memory::take_buckets(self.gateway, &port, &bytes);
                    Vec::new()
                }
                Some(HandoverMessage::Health { port, endpoints }) => {
                    memory::take_health(self.gateway, &port, endpoints);
                    Vec::new()
                }
                Some(HandoverMessage::Terms { segments }) => {
                    self.segments = segments;
                    Vec::new()
                }
                Some(HandoverMessage::Done) => {
                    // The answer first: it says that this process may write.
                    let lock = descriptors.into_iter().next();
                    let lock = lock.ok_or(ChannelError::Unexpected)?;
                    self.answer(Vec::new())?;
                    if let Err(error) = own(Some(lock)) {
                        tracing::error!(error, "the state can't be taken over");
                    }
                    return Ok(());
                }
                // Of what this version does not know it takes nothing.
                None => Vec::new(),
                Some(_) => return Err(ChannelError::Unexpected),
            };
            if asks {
                self.answer(taken)?;
            }
        }
    }

    fn answer(&mut self, taken: Vec<bool>) -> Result<(), ChannelError> {
        self.channel.say(&HandoverMessage::Taken { taken })
    }

    /// The predecessor has gone while this process was preparing.
    fn prepare_alone(&self) {
        while !self.gateway.is_synced() {
            std::thread::sleep(LOOK);
        }
    }

    fn connections(
        &mut self,
        says: Vec<HandedConnection>,
        bytes: &[u8],
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<bool>, ChannelError> {
        let count = says.len();
        let mut descriptors = descriptors.into_iter();
        let mut bytes = bytes;
        let mut take = |length: u32| {
            let (taken, rest) = bytes.split_at_checked(length as usize)?;
            bytes = rest;
            Some(taken.to_vec())
        };
        let wholes = says.into_iter().map(|says| {
            let (up, down) = (take(says.up.held)?, take(says.down.held)?);
            Some(WholeConnection {
                says,
                client: descriptors.next()?,
                endpoint: descriptors.next()?,
                up,
                down,
            })
        });
        let wholes: Option<Vec<_>> = wholes.collect();
        let wholes = wholes.ok_or(ChannelError::Unexpected)?;
        let taken = self.resolve(|reply| HandoverRequest::Connections(wholes, reply));
        let is_taken = which(&taken, count);
        self.connections.extend(taken.into_iter().flatten());
        Ok(is_taken)
    }

    fn flows(
        &mut self,
        says: Vec<HandedFlow>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Vec<bool>, ChannelError> {
        let count = says.len();
        if descriptors.len() != count {
            return Err(ChannelError::Unexpected);
        }
        let wholes = says.into_iter().zip(descriptors);
        let wholes = wholes.map(|(says, socket)| WholeFlow { says, socket });
        let wholes = wholes.collect();
        let taken = self.resolve(|reply| HandoverRequest::Flows(wholes, reply));
        let is_taken = which(&taken, count);
        self.flows.extend(taken.into_iter().flatten());
        Ok(is_taken)
    }

    /// Asks the control task whose something is. Nothing is taken where it does not answer.
    fn resolve<T>(
        &self,
        request: impl FnOnce(mpsc::Sender<Vec<Option<T>>>) -> HandoverRequest,
    ) -> Vec<Option<T>> {
        let (reply, answer) = mpsc::channel();
        self.gateway.hand_over(request(reply));
        answer.recv_timeout(PATIENCE / 2).unwrap_or_default()
    }

    /// What was taken is this process's own: its workers go on with it.
    fn go_on_with_taken(&mut self) {
        let connections = std::mem::take(&mut self.connections);
        let flows = std::mem::take(&mut self.flows);
        self.count.0 += connections.len();
        self.count.1 += flows.len();
        let of = |worker: u32| worker as usize % self.workers.len().max(1);
        let mut parts: BTreeMap<usize, (Vec<TakenConnection>, Vec<TakenFlow>)> = BTreeMap::new();
        for connection in connections {
            let worker = of(connection.whole.says.owner.worker);
            parts.entry(worker).or_default().0.push(connection);
        }
        for flow in flows {
            let worker = of(flow.whole.says.owner.worker);
            parts.entry(worker).or_default().1.push(flow);
        }
        for (worker, (connections, flows)) in parts {
            let Some(worker) = self.workers.get(worker) else {
                continue;
            };
            if !connections.is_empty() {
                tell(worker, HandoverCommand::Take(connections));
            }
            if !flows.is_empty() {
                tell(worker, HandoverCommand::TakeFlows(flows));
            }
        }
    }

    fn admit(&self, admission: Admission) {
        for worker in &self.workers {
            let (reply, _) = mpsc::channel();
            tell(worker, HandoverCommand::Accept(admission, reply));
        }
    }
}

/// Makes the state this process's own where the predecessor has ended: its lock is free then.
fn when_it_has_ended(
    error: &ChannelError,
    own: &impl Fn(Option<OwnedFd>) -> Result<(), String>,
) -> Result<(), TakeOverError> {
    let until = Instant::now() + ENDING;
    while let Err(why) = own(None) {
        if !matches!(error, ChannelError::Gone) || Instant::now() >= until {
            return Err(TakeOverError::Failed(format!("{error}; {why}")));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn tell(worker: &Mailbox, command: HandoverCommand) {
    worker.send(WorkerCommand::HandOver(Box::new(command)));
}

fn which<T>(taken: &[Option<T>], count: usize) -> Vec<bool> {
    let mut which: Vec<bool> = taken.iter().map(Option::is_some).collect();
    which.resize(count, false);
    which
}
