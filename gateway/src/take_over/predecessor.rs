//! The side that hands over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender, SyncSender};
use std::time::{Duration, Instant};

use fairway_config::view::Readiness;

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

/// How long a process that has connected may take to say what it wants. Others wait meanwhile.
const GREETING: Duration = Duration::from_secs(1);

/// How long it is waited for connections that are being established.
const ESTABLISHED: Duration = Duration::from_secs(1);

/// How long between two looks at them.
const LOOK: Duration = Duration::from_millis(20);

/// The rest of the process that hands over.
pub trait HandsOver: Send + Sync {
    /// What both processes have to agree about, by name.
    fn agreed(&self) -> BTreeMap<String, String>;
    /// Whether a process in the Pod with that UID (none: in no Pod) has its turn now. Else it stands by, and asks again.
    fn is_turn_of(&self, pod: Option<&str>) -> bool;
    /// Whether this process is to stop, and waits for the one in the Pod with that UID.
    fn gives_way_to(&self, pod: Option<&str>) -> bool;
    /// Whether this process is ready, and what is missing.
    fn readiness(&self) -> Readiness;
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
    /// The other process says that it goes on, and does not come to an end.
    #[error("the other process was not ready to serve within two minutes")]
    Late,
    /// A part of this process does not answer.
    #[error("a worker does not answer")]
    Stuck,
}

/// What a process is told that has no turn.
const STANDS_BY: &str = "a process of a newer Pod serves: this one stands by, and takes over when that one is told to stop";

/// What a process is told that comes while another one takes over.
const BUSY: &str = "another process is taking over just now: this one stands by";

impl From<io::Error> for HandoverError {
    fn from(error: io::Error) -> Self {
        Self::Channel(error.into())
    }
}

/// Waits for a successor from now on, and hands over to it. One thread answers whoever asks, also while another one hands
/// over.
///
/// # Errors
/// The socket or a thread can't be made.
pub fn wait(state: &Path, gateway: Gateway, process: Arc<dyn HandsOver>) -> io::Result<()> {
    let listener = Arc::new(channel::listen(state)?);
    let is_busy = Arc::new(AtomicBool::new(false));
    let (sender, successors) = mpsc::sync_channel(1);
    let workers = gateway.mailboxes().cloned().collect();
    let mut side = HandingSide {
        gateway,
        workers,
        process: process.clone(),
        gone: HandedCount::default(),
        segments: None,
    };
    let answering = AnsweringSide {
        listener: listener.clone(),
        process,
        is_busy: is_busy.clone(),
        successors: sender,
    };
    std::thread::Builder::new()
        .name("fairway-handover".to_owned())
        .spawn(move || {
            for successor in &successors {
                if side.attend(successor) {
                    break;
                }
                is_busy.store(false, Ordering::Release);
            }
            // Who accepts there wakes, and sees that nobody hands over any more.
            drop(successors);
            let _ = rustix::net::shutdown(&*listener, rustix::net::Shutdown::Both);
        })?;
    std::thread::Builder::new()
        .name("fairway-succeed".to_owned())
        .spawn(move || answering.run())?;
    Ok(())
}

/// A process that takes over.
struct AskingProcess {
    channel: Channel,
    says: Introduction,
    /// Its number, as the kernel says: processes may count in different ways.
    number: Option<u32>,
}

/// The side that answers whoever asks.
struct AnsweringSide {
    listener: Arc<UnixListener>,
    process: Arc<dyn HandsOver>,
    /// Whether another process is taking over.
    is_busy: Arc<AtomicBool>,
    /// To the thread that hands over.
    successors: SyncSender<AskingProcess>,
}

impl AnsweringSide {
    /// Runs until everything has been handed over.
    fn run(&self) {
        for stream in self.listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                // The other thread has shut the socket down (accept(2)).
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                Err(error) => {
                    tracing::warn!(%error, "a process that asks to take over can't be heard");
                    // This process may be short of descriptors.
                    std::thread::sleep(LOOK);
                    continue;
                }
            };
            match self.answer(stream) {
                Ok(None) => {}
                Ok(Some(successor)) => {
                    self.is_busy.store(true, Ordering::Release);
                    if self.successors.send(successor).is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "a process that asks to take over can't"),
            }
        }
    }

    /// Answers a process. Returned is one that takes over now.
    fn answer(&self, stream: UnixStream) -> Result<Option<AskingProcess>, HandoverError> {
        let mut channel = Channel::new(stream)?;
        let peer = channel.peer()?;
        let own = rustix::process::geteuid().as_raw();
        if peer.user != own && peer.user != 0 {
            let why = format!("user {} may not take over", peer.user);
            return Err(refuse(&mut channel, why));
        }
        channel.set_patience(GREETING)?;
        let says = match channel.receive()?.message {
            Some(HandoverMessage::Hello(says)) => says,
            Some(HandoverMessage::Look { pod }) => {
                let gives_way = self.process.gives_way_to(pod.as_deref());
                // Where it does not hear it, it asks again.
                let _ = channel.say(&HandoverMessage::Serves {
                    readiness: self.process.readiness(),
                    gives_way: gives_way && !self.is_busy.load(Ordering::Acquire),
                });
                return Ok(None);
            }
            _ => return Err(ChannelError::Unexpected.into()),
        };
        // As it is seen there: whoever starts the successor reads it.
        if let Some(why) = difference(&says, &introduction(&*self.process)) {
            return Err(refuse(&mut channel, why));
        }
        let why = match self.process.is_turn_of(says.pod.as_deref()) {
            false => STANDS_BY,
            true if self.is_busy.load(Ordering::Acquire) => BUSY,
            true => {
                channel.set_patience(PATIENCE)?;
                return Ok(Some(AskingProcess {
                    channel,
                    says,
                    number: peer.process,
                }));
            }
        };
        // It asks again.
        let _ = channel.say(&HandoverMessage::Refused {
            why: why.to_owned(),
            stands_by: Some(self.process.readiness()),
        });
        Ok(None)
    }
}

fn introduction(process: &dyn HandsOver) -> Introduction {
    Introduction {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        clock: None,
        agreed: process.agreed(),
        pod: None,
    }
}

/// The side that hands over.
struct HandingSide {
    gateway: Gateway,
    workers: Vec<Arc<Mailbox>>,
    process: Arc<dyn HandsOver>,
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
    /// Hands over to a process. Returns whether all has gone over.
    fn attend(&mut self, successor: AskingProcess) -> bool {
        let error = match self.try_attend(successor) {
            Ok(()) => return true,
            Err(error) => error,
        };
        let HandedCount { connections, flows } = std::mem::take(&mut self.gone);
        tracing::warn!(
            %error,
            connections,
            flows,
            "not handed over: this process goes on with all that has not gone"
        );
        false
    }

    fn try_attend(&mut self, successor: AskingProcess) -> Result<(), HandoverError> {
        let AskingProcess {
            mut channel,
            says,
            number,
        } = successor;
        if !self.process.hold() {
            let why = "the state can't be written".to_owned();
            return Err(refuse(&mut channel, why));
        }
        tracing::info!(
            pid = says.pid,
            version = says.version,
            "another process takes over"
        );
        let went = self.hand_over(&mut channel, number);
        if went.is_err() {
            self.take_back();
        }
        went
    }

    fn hand_over(
        &mut self,
        channel: &mut Channel,
        successor: Option<u32>,
    ) -> Result<(), HandoverError> {
        // Said as late as can be: the other one has its clock from it.
        let clock = u64::try_from(self.gateway.clock().age().as_nanos()).ok();
        channel.say(&HandoverMessage::Welcome(Introduction {
            clock,
            ..introduction(&*self.process)
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
        stands_by: None,
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
