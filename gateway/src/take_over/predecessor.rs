//! The side that hands over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use super::announcing;
use super::channel::{self, Channel, ChannelError, PATIENCE};
use super::memory::ToldMemory;
use super::wire::{HandoverMessage, Introduction, PROTOCOL, difference};
use crate::control::HandoverRequest;
use crate::engine::{Admission, FrozenPart, HandoverCommand, Mailbox, OfferedPart, WorkerCommand};
use crate::gateway::Gateway;
use crate::handed::{HandedSegment, OfferedSocket, WholeConnection, WholeFlow};

/// How long the other process may take until it can serve. Meanwhile this one reads no manifests and writes no state.
const PREPARED: Duration = Duration::from_mins(2);

/// How long it is waited for connections that are being established.
const ESTABLISHED: Duration = Duration::from_secs(1);

/// How long between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

/// The rest of the process that hands over.
pub trait HandsOver: Send {
    /// What both processes have to agree about, by name.
    fn agreed(&self) -> BTreeMap<String, String>;
    /// Whether a process in the Pod with that UID (none: in no Pod) has its turn now. Else it stands by, and asks again.
    fn is_turn_of(&self, pod: Option<&str>) -> bool;
    /// Writes the state, and then leaves it alone. Returns whether that could be done.
    fn hold(&self) -> bool;
    /// The successor has ended: goes on.
    fn go_on(&self);
    /// The descriptors that the rest of the process hands over, by name.
    ///
    /// # Errors
    /// The process has no descriptors left.
    fn descriptors(&self) -> io::Result<Vec<(String, OwnedFd)>>;
    /// The lock of the state, which goes over last.
    ///
    /// # Errors
    /// The process has no descriptors left.
    fn lock(&self) -> io::Result<OwnedFd>;
    /// The process of that number is about to be the one that serves.
    fn succeeded_by(&self, pid: u32);
    /// All has gone over: this process ends with its last connection.
    fn end(&self);
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
enum HandoverError {
    /// The successor could not be reached, or said something wrong.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The two processes do not agree.
    #[error("{0}")]
    Refused(String),
    /// The other process stands by.
    #[error("{STANDS_BY}")]
    StandsBy,
    /// The other process says that it goes on, and does not come to an end.
    #[error("the other process was not ready to serve within two minutes")]
    Late,
    /// A part of this process does not answer.
    #[error("a worker does not answer")]
    Stuck,
}

/// What a process is told that has no turn.
const STANDS_BY: &str = "a process of a newer Pod serves: this one stands by, and takes over when that one is told to stop";

impl From<io::Error> for HandoverError {
    fn from(error: io::Error) -> Self {
        Self::Channel(error.into())
    }
}

/// Waits for a successor from now on, on a thread of its own, and hands over to it.
///
/// # Errors
/// The socket or the thread can't be made.
pub fn wait(state: &Path, gateway: Gateway, process: Box<dyn HandsOver>) -> io::Result<()> {
    let listener = channel::listen(state)?;
    std::thread::Builder::new()
        .name("fairway-handover".to_owned())
        .spawn(move || {
            let workers = gateway.mailboxes().cloned().collect();
            let mut predecessor = HandingSide {
                gateway,
                workers,
                process,
                gone: HandedCount::default(),
                segments: None,
            };
            predecessor.run(&listener);
        })?;
    Ok(())
}

struct HandingSide {
    gateway: Gateway,
    workers: Vec<Arc<Mailbox>>,
    process: Box<dyn HandsOver>,
    gone: HandedCount,
    /// What the gateway has left on its networks, for another process to go on with it.
    segments: Option<Vec<HandedSegment>>,
}

/// How much has become the successor's own.
#[derive(Clone, Copy, Debug, Default)]
struct HandedCount {
    connections: usize,
    flows: usize,
}

impl HandingSide {
    /// Runs until everything has been handed over.
    fn run(&mut self, listener: &UnixListener) {
        for stream in listener.incoming() {
            let error = match stream.map_err(HandoverError::from) {
                Ok(stream) => match self.attend(stream) {
                    Ok(()) => return,
                    // Asked once a second.
                    Err(HandoverError::StandsBy) => continue,
                    Err(error) => error,
                },
                Err(error) => {
                    // The process may be short of descriptors.
                    std::thread::sleep(LOOK);
                    error
                }
            };
            let HandedCount { connections, flows } = std::mem::take(&mut self.gone);
            tracing::warn!(
                %error,
                connections,
                flows,
                "not handed over: this process goes on with all that has not gone"
            );
        }
    }

    fn attend(&mut self, stream: UnixStream) -> Result<(), HandoverError> {
        let mut channel = Channel::new(stream)?;
        let peer = channel.peer()?;
        let own = rustix::process::geteuid().as_raw();
        if peer.user != own && peer.user != 0 {
            let why = format!("user {} may not take over", peer.user);
            return Err(refuse(&mut channel, why));
        }
        let Some(HandoverMessage::Hello(successor)) = channel.receive()?.message else {
            return Err(ChannelError::Unexpected.into());
        };
        let introduction = Introduction {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            clock: None,
            agreed: self.process.agreed(),
            pod: None,
        };
        // As it is seen there: whoever starts the successor reads it.
        if let Some(why) = difference(&successor, &introduction) {
            return Err(refuse(&mut channel, why));
        }
        if !self.process.is_turn_of(successor.pod.as_deref()) {
            let why = STANDS_BY.to_owned();
            // It asks again.
            let _ = channel.say(&HandoverMessage::Refused {
                why,
                stands_by: true,
            });
            return Err(HandoverError::StandsBy);
        }
        if !self.process.hold() {
            return Err(refuse(
                &mut channel,
                "the state can't be written".to_owned(),
            ));
        }
        tracing::info!(
            pid = successor.pid,
            version = successor.version,
            "another process takes over"
        );
        // As the kernel says: processes may count in different ways.
        let went = self.hand_over(&mut channel, introduction, peer.process);
        if went.is_err() {
            self.take_back();
        }
        went
    }

    fn hand_over(
        &mut self,
        channel: &mut Channel,
        introduction: Introduction,
        successor: Option<u32>,
    ) -> Result<(), HandoverError> {
        // Said as late as can be: the other one has its clock from it.
        let clock = u64::try_from(self.gateway.clock().age().as_nanos()).ok();
        channel.say(&HandoverMessage::Welcome(Introduction {
            clock,
            ..introduction
        }))?;
        self.offer(channel)?;
        wait_prepared(channel, PREPARED)?;
        tracing::info!("the other process can serve: handing over");
        // The most of it while this process still serves.
        let mut told = ToldMemory::default();
        told.tell(&self.gateway, channel)?;
        let began = Instant::now();
        self.admit(Admission::NONE)?;
        told.tell(&self.gateway, channel)?;
        channel.say(&HandoverMessage::Accept)?;
        self.hand_flows(channel)?;
        channel.say(&HandoverMessage::Receive)?;
        self.hand_connections(channel)?;
        let lock = self.process.lock()?;
        let announced = announcing::hand_over(channel, &self.gateway)?;
        self.hand_terms(channel)?;
        if let Some(successor) = successor {
            self.process.succeeded_by(successor);
        }
        channel.send(&HandoverMessage::Done, true, &[], &[lock.as_fd()])?;
        // With any other error it may have the lock: two processes must not write.
        if let Err(ChannelError::Gone) = channel.taken(0) {
            // It ended before it took the lock, so it has written nothing.
            self.process.succeeded_by(std::process::id());
            return Err(ChannelError::Gone.into());
        }
        let HandedCount { connections, flows } = self.gone;
        tracing::info!(
            connections,
            flows,
            took = ?began.elapsed(),
            "handed over: what is left here drains"
        );
        // A stop from here on takes back nothing that is the other one's.
        self.gateway.leave_to_another();
        announcing::leave(channel, &self.gateway, announced);
        // In this order: a gateway that is stopped takes back what it has done for its addresses.
        self.gateway.end_for_another();
        self.process.end();
        Ok(())
    }

    /// The successor has ended, or does not answer: goes on with everything.
    fn take_back(&mut self) {
        for worker in &self.workers {
            let settle = |reply| HandoverCommand::Settle(Vec::new(), reply);
            let _ = ask(worker, settle);
        }
        let _ = self.admit(Admission::ALL);
        self.gateway.hand_over(HandoverRequest::Thaw);
        // Where it announces still, nothing changes.
        let segments = self.segments.take().unwrap_or_default();
        self.gateway.hand_over(HandoverRequest::Announce(segments));
        self.process.go_on();
    }

    /// Hands over what this gateway owns on its networks. From then on the successor has a moment to go on with it.
    fn hand_terms(&mut self, channel: &mut Channel) -> Result<(), HandoverError> {
        let (reply, segments) = mpsc::channel();
        self.gateway.hand_over(HandoverRequest::LeaveFleet(reply));
        let segments = segments.recv_timeout(PATIENCE);
        let segments = segments.map_err(|_| HandoverError::Stuck)?;
        self.segments = Some(segments.clone());
        Ok(channel.say(&HandoverMessage::Terms { segments })?)
    }

    /// Offers what is independent of connections.
    fn offer(&self, channel: &mut Channel) -> Result<(), HandoverError> {
        let mut named = self.process.descriptors()?;
        if let Some(steering) = self.gateway.steering() {
            named.extend(steering.descriptors()?);
        }
        let (names, named): (Vec<String>, Vec<OwnedFd>) = named.into_iter().unzip();
        let message = HandoverMessage::Named { names };
        send(channel, &message, false, &[], &named)?;
        for (number, worker) in self.workers.iter().enumerate() {
            let mut after = 0;
            loop {
                let offer = |reply| HandoverCommand::Offer(after, reply);
                let part: OfferedPart = ask(worker, offer)?;
                let (says, sockets): (Vec<OfferedSocket>, Vec<OwnedFd>) =
                    part.sockets.into_iter().unzip();
                let sockets_of_worker = says.into_iter().map(|says| OfferedSocket {
                    worker: worker_number(number),
                    ..says
                });
                let message = HandoverMessage::Sockets {
                    sockets: sockets_of_worker.collect(),
                };
                send(channel, &message, false, &[], &sockets)?;
                match part.last {
                    Some(last) => after = last,
                    None => break,
                }
            }
        }
        let interfaces = self.gateway.layer2().interfaces().into_iter();
        let interfaces = interfaces.map(String::from).collect();
        channel.say(&HandoverMessage::Announces { interfaces })?;
        Ok(channel.say(&HandoverMessage::Offered)?)
    }

    fn admit(&self, admission: Admission) -> Result<(), HandoverError> {
        for worker in &self.workers {
            ask(worker, |reply| HandoverCommand::Accept(admission, reply))?;
        }
        Ok(())
    }

    /// Hands UDP flows over.
    fn hand_flows(&mut self, channel: &mut Channel) -> Result<(), HandoverError> {
        for (number, worker) in self.workers.iter().enumerate() {
            let mut from = 0;
            loop {
                let freeze = |reply| HandoverCommand::FreezeFlows(from, reply);
                let part: FrozenPart<WholeFlow> = ask(worker, freeze)?;
                let next = part.next;
                if !part.frozen.is_empty() {
                    let flows = part.frozen.iter().map(|flow| {
                        let mut says = flow.says.clone();
                        says.owner.worker = worker_number(number);
                        says
                    });
                    let message = HandoverMessage::Flows {
                        flows: flows.collect(),
                    };
                    let sockets: Vec<OwnedFd> =
                        part.frozen.into_iter().map(|flow| flow.socket).collect();
                    self.gone.flows += settle(channel, worker, &message, &[], sockets)?;
                }
                match next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Hands TCP connections over.
    fn hand_connections(&mut self, channel: &mut Channel) -> Result<(), HandoverError> {
        let until = Instant::now() + ESTABLISHED;
        loop {
            let mut later = 0;
            for (number, worker) in self.workers.iter().enumerate() {
                let gone = &mut self.gone.connections;
                later += hand_connections_of(channel, worker_number(number), worker, gone)?;
            }
            if later == 0 || Instant::now() >= until {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Waits until the other process can serve, for so long at most.
fn wait_prepared(channel: &mut Channel, limit: Duration) -> Result<(), HandoverError> {
    let until = Instant::now() + limit;
    loop {
        let said = channel.receive()?.message;
        if Instant::now() >= until {
            return Err(HandoverError::Late);
        }
        match said {
            Some(HandoverMessage::Prepared) => return Ok(()),
            // It says that it goes on, or something that a later version says.
            Some(HandoverMessage::Preparing) | None => {}
            Some(_) => return Err(ChannelError::Unexpected.into()),
        }
    }
}

/// Hands the TCP connections of one worker over. Returns how many are left that can be handed over later.
fn hand_connections_of(
    channel: &mut Channel,
    number: u32,
    worker: &Arc<Mailbox>,
    gone: &mut usize,
) -> Result<usize, HandoverError> {
    let (mut later, mut from) = (0, 0);
    loop {
        let freeze = |reply| HandoverCommand::Freeze(from, reply);
        let part: FrozenPart<WholeConnection> = ask(worker, freeze)?;
        later += part.later;
        if !part.frozen.is_empty() {
            let mut connections = Vec::with_capacity(part.frozen.len());
            let (mut bytes, mut sockets) = (Vec::new(), Vec::new());
            for whole in part.frozen {
                let mut says = whole.says;
                says.owner.worker = number;
                connections.push(says);
                bytes.extend(whole.up);
                bytes.extend(whole.down);
                sockets.extend([whole.client, whole.endpoint]);
            }
            let message = HandoverMessage::Connections { connections };
            *gone += settle(channel, worker, &message, &bytes, sockets)?;
        }
        match part.next {
            Some(next) => from = next,
            None => return Ok(later),
        }
    }
}

/// Offers frozen things to the successor, and forgets those that it takes. Returns how many that are.
fn settle(
    channel: &mut Channel,
    worker: &Arc<Mailbox>,
    message: &HandoverMessage,
    bytes: &[u8],
    sockets: Vec<OwnedFd>,
) -> Result<usize, HandoverError> {
    let count = match message {
        HandoverMessage::Flows { flows } => flows.len(),
        HandoverMessage::Connections { connections } => connections.len(),
        _ => 0,
    };
    send(channel, message, true, bytes, &sockets)?;
    drop(sockets);
    let taken = channel.taken(count)?;
    // From here on they are the successor's: it may go on with them at once.
    channel.say(&HandoverMessage::Yours)?;
    let accepted = taken.iter().filter(|taken| **taken).count();
    ask(worker, |reply| HandoverCommand::Settle(taken, reply))?;
    Ok(accepted)
}

fn send(
    channel: &mut Channel,
    message: &HandoverMessage,
    asks: bool,
    bytes: &[u8],
    descriptors: &[OwnedFd],
) -> Result<(), ChannelError> {
    let descriptors: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    channel.send(message, asks, bytes, &descriptors)
}

/// Has a worker do something, and waits for its answer.
fn ask<T>(
    worker: &Mailbox,
    command: impl FnOnce(Sender<T>) -> HandoverCommand,
) -> Result<T, HandoverError> {
    let (reply, answer) = mpsc::channel();
    worker.send(WorkerCommand::HandOver(Box::new(command(reply))));
    answer
        .recv_timeout(PATIENCE)
        .map_err(|_| HandoverError::Stuck)
}

fn refuse(channel: &mut Channel, why: String) -> HandoverError {
    // Where the other one does not hear it, it sees that the socket closes.
    let _ = channel.say(&HandoverMessage::Refused {
        why: why.clone(),
        stands_by: false,
    });
    HandoverError::Refused(why)
}

fn worker_number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[test]
    fn a_process_that_never_gets_ready_is_not_waited_for_without_end() {
        let (mut here, mut there) = pair();
        // As long as it is heard.
        let says = std::thread::spawn(move || {
            while there.say(&HandoverMessage::Preparing).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let limit = Duration::from_millis(100);
        let began = Instant::now();
        let waited = wait_prepared(&mut here, limit);
        assert!(matches!(waited, Err(HandoverError::Late)), "{waited:?}");
        assert!(began.elapsed() >= limit);
        drop(here);
        says.join().unwrap();
    }

    #[test]
    fn what_a_process_says_meanwhile_is_understood() {
        use HandoverMessage as M;
        let says = |all: &[M]| {
            let (mut here, mut there) = pair();
            for message in all {
                there.say(message).unwrap();
            }
            drop(there);
            wait_prepared(&mut here, Duration::from_secs(60))
        };
        assert!(says(&[M::Preparing, M::Preparing, M::Prepared]).is_ok());
        let early = says(&[M::Preparing, M::Done]);
        assert!(matches!(
            early,
            Err(HandoverError::Channel(ChannelError::Unexpected))
        ));
        let ended = says(&[M::Preparing]);
        assert!(matches!(
            ended,
            Err(HandoverError::Channel(ChannelError::Gone))
        ));
    }
}
