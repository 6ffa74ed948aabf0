//! A connection from its accept until its client has the last byte: what it is doing, and what it
//! waits for.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fairway_config::net::{ClientAddr, EndpointAddr, ListenAddr};
use fairway_gateway_core::reachability::DialFailure;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::direction::{Direction, Progress, Tools};
use super::poll::{EventFlags, Poll, Token, Watch};
use super::ring::SLOT;
use super::side::Side;
use super::source::{self, StandIns};
use crate::counters::{Counter, Rejection};
use crate::delivery::{self, Delivery};
use crate::descriptors::Permit;
use crate::hops::Hops;
use crate::open::Open;
use crate::port::Active;
use crate::shared::Shared;
use crate::socket;

/// How many endpoints are tried for one connection.
const TRIES: usize = 4;

/// No endpoint is tried any more when this has passed since the first.
const BOUND: Duration = Duration::from_secs(10);

/// How long an endpoint has for its answer while there are others to try: more than the one second
/// after which TCP repeats a SYN that was lost (RFC 6298).
const IMPATIENT: Duration = Duration::from_millis(1500);

/// Most endpoints answer within this. Only where one does not, it is looked meanwhile whether the
/// client goes away.
const FRESH: Duration = Duration::from_millis(50);

/// How long to wait where the kernel has no file or no memory for another socket just now.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Connections that live this long are worth the system calls that make the kernel find out whether
/// the endpoint is still there.
const YOUNG: Duration = Duration::from_secs(10);

/// How soon it is looked again whether the client has all. Most have it a round trip later.
const SOON: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(500);

/// For how long it is looked every [`SOON`].
const LOOKS: u8 = 10;

/// What a connection waits for that comes with time alone: the list that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wait {
    /// For an endpoint's answer, a moment.
    Fresh,
    /// The same, while there are others to try.
    Impatient,
    /// The same of the last that is tried.
    Patient,
    /// Until the kernel has a socket.
    Exhausted,
    /// Until it is old enough for keep-alive probes.
    Young,
    /// Until its client has all.
    Soon,
    /// The same, of a client that takes its time.
    Seldom,
}

impl Wait {
    pub(super) const COUNT: usize = 7;
    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::Fresh,
        Self::Impatient,
        Self::Patient,
        Self::Exhausted,
        Self::Young,
        Self::Soon,
        Self::Seldom,
    ];

    /// How long.
    pub(super) fn duration(self, shared: &Shared) -> Duration {
        match self {
            Self::Fresh => FRESH,
            Self::Impatient => IMPATIENT.min(shared.connect_timeout).saturating_sub(FRESH),
            Self::Patient => shared.connect_timeout.saturating_sub(FRESH),
            Self::Exhausted => EXHAUSTED,
            Self::Young => YOUNG,
            Self::Soon => SOON,
            Self::Seldom => SELDOM,
        }
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It goes on waiting for what it waits for.
    Stay,
    /// It is to be looked at after so long.
    Wait(Wait),
    /// It waits for its sockets alone.
    Rest,
    /// It has more to do, when others have had their turn.
    More,
    /// It is over.
    Over,
}

/// What a side that spoke together with others has said.
pub(super) enum Heard {
    /// A message of so many bytes, to be written as it is.
    Message(usize),
    /// Nothing, yet.
    Nothing,
    /// What is to be looked at by itself.
    Other,
    /// The connection is broken.
    Failed(io::Error),
}

/// A connection.
pub(super) struct Connection {
    client: Side,
    endpoint: Option<Side>,
    up: Direction,
    down: Direction,
    stage: Stage,
    /// It is among those that have more to do.
    queued: bool,
    /// An event of this round is about it that has yet to be dealt with: no other goes before.
    claimed: bool,
    from: ClientAddr,
    listen: ListenAddr,
    /// Counts as one of the endpoint's.
    active: Option<Active>,
    /// After the sockets: a reset needs the way that the connection has while it is counted.
    port: Open,
    /// Given back when both sockets are closed.
    _permit: Permit,
}

enum Stage {
    /// An endpoint is being looked for.
    Dialling(Dial),
    /// Bytes are carried.
    Carrying,
    /// All is written and the endpoint is done; the client has not got all yet. So many times it was
    /// looked.
    Delivering(u8),
}

/// The search for an endpoint.
struct Dial {
    hops: Option<Hops>,
    /// The client has said something already.
    early: bool,
    /// The endpoint that is being tried, and since when.
    trying: Option<(EndpointAddr, Instant)>,
    /// There is no other after it.
    last: bool,
    tried: Vec<EndpointAddr>,
    bound: Instant,
    error: Option<io::Error>,
}

/// What a connection works with.
pub(super) struct World<'a> {
    pub(super) shared: &'a Shared,
    pub(super) poll: &'a Poll,
    pub(super) stand_ins: &'a mut StandIns,
    pub(super) tools: Tools<'a>,
    pub(super) number: u32,
}

impl Connection {
    /// A connection that was just accepted and admitted.
    pub(super) fn new(
        socket: OwnedFd,
        from: ClientAddr,
        listen: ListenAddr,
        hops: Option<Hops>,
        port: Open,
        permit: Permit,
    ) -> Self {
        port.counters.touch();
        Self {
            client: Side::of_client(socket),
            endpoint: None,
            up: Direction::default(),
            down: Direction::default(),
            stage: Stage::Dialling(Dial {
                hops,
                early: false,
                trying: None,
                last: false,
                tried: Vec::new(),
                bound: Instant::now() + BOUND,
                error: None,
            }),
            queued: false,
            claimed: false,
            from,
            listen,
            active: None,
            port,
            _permit: permit,
        }
    }

    /// Its client's socket has something to say.
    pub(super) fn client_event(&mut self, flags: EventFlags, world: &mut World<'_>) -> Step {
        self.claimed = false;
        let news = self.client.note(flags);
        if flags.contains(EventFlags::ERR)
            && let Some(error) = failure(&self.client)
        {
            // What it said before is still there.
            if let (Stage::Carrying, Some(endpoint)) = (&self.stage, &mut self.endpoint) {
                let received = &self.port.counters.received;
                let client = &mut self.client;
                let _ = self.up.carry(client, endpoint, received, &mut world.tools);
            }
            return self.fail(&error);
        }
        match self.stage {
            Stage::Carrying if news => self.carry(world),
            Stage::Carrying if !self.queued => {
                self.client.hush(Token::Client(world.number), world.poll);
                Step::Stay
            }
            Stage::Carrying | Stage::Dialling(_) | Stage::Delivering(_) => Step::Stay,
        }
    }

    /// Its endpoint's socket has something to say.
    pub(super) fn endpoint_event(&mut self, flags: EventFlags, world: &mut World<'_>) -> Step {
        self.claimed = false;
        let Some(endpoint) = &mut self.endpoint else {
            return Step::Stay;
        };
        let news = endpoint.note(flags);
        let error = if flags.intersects(EventFlags::ERR) {
            failure(endpoint)
        } else {
            None
        };
        match (&self.stage, error) {
            (Stage::Dialling(_), Some(error)) => self.not_reached(error, world),
            (Stage::Dialling(_), None) if flags.contains(EventFlags::OUT) => self.reached(world),
            (Stage::Carrying, Some(error)) => {
                // What it said before is still there.
                let transmitted = &self.port.counters.transmitted;
                let client = &mut self.client;
                let _ = self
                    .down
                    .carry(endpoint, client, transmitted, &mut world.tools);
                self.fail(&error)
            }
            (Stage::Carrying, None) if news => self.carry(world),
            (Stage::Carrying, None) if !self.queued => {
                endpoint.hush(Token::Endpoint(world.number), world.poll);
                Step::Stay
            }
            (Stage::Carrying | Stage::Dialling(_) | Stage::Delivering(_), _) => Step::Stay,
        }
    }

    /// What it waited for has not come within its time.
    pub(super) fn due(&mut self, wait: Wait, world: &mut World<'_>) -> Step {
        match (wait, &mut self.stage) {
            (Wait::Fresh, Stage::Dialling(dial)) => {
                let last = dial.last;
                if let Err(error) = self.watch_client(world) {
                    return self.fail(&error);
                }
                Step::Wait(if last { Wait::Patient } else { Wait::Impatient })
            }
            (Wait::Impatient | Wait::Patient, Stage::Dialling(_)) => {
                self.not_reached(io::ErrorKind::TimedOut.into(), world)
            }
            (Wait::Exhausted, Stage::Dialling(_)) => self.dial(world),
            // The endpoint answered, and there was more to do than could be done at once.
            (Wait::Fresh | Wait::Impatient | Wait::Patient, Stage::Carrying) => {
                Step::Wait(Wait::Young)
            }
            (Wait::Young, Stage::Carrying) => {
                if let Some(endpoint) = &self.endpoint {
                    socket::keep_alive(&endpoint.socket);
                }
                Step::Rest
            }
            (Wait::Soon | Wait::Seldom, Stage::Delivering(_)) => self.deliver(),
            _ => Step::Rest,
        }
    }

    /// Whether it is to be put among those that have more to do: once.
    pub(super) fn queue(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// It is its turn again.
    pub(super) fn more(&mut self, world: &mut World<'_>) -> Step {
        self.queued = false;
        match self.stage {
            Stage::Carrying => self.carry(world),
            Stage::Dialling(_) | Stage::Delivering(_) => Step::Stay,
        }
    }

    /// Whether what that side has to say may go together with what others have: nothing else is under way.
    /// It is claimed then, until it [has spoken](Self::has_spoken).
    pub(super) fn may_speak(&mut self, token: Token) -> bool {
        if self.claimed || self.queued || !matches!(self.stage, Stage::Carrying) {
            return false;
        }
        if !(self.up.is_brief() && self.down.is_brief()) {
            return false;
        }
        let Some((_, reader, writer, _)) = self.way(token) else {
            return false;
        };
        if !(reader.may_speak() && writer.may_be_told()) {
            return false;
        }
        self.claimed = true;
        true
    }

    /// An event about it is left for later in this round.
    pub(super) fn claim(&mut self) {
        self.claimed = true;
    }

    /// Nothing of what it said is to be dealt with any more.
    pub(super) fn has_spoken(&mut self) {
        self.claimed = false;
    }

    /// The socket of a side.
    pub(super) fn reader(&mut self, token: Token) -> Option<&OwnedFd> {
        self.way(token).map(|(_, reader, _, _)| &reader.socket)
    }

    /// The socket of the side that hears what this one says.
    pub(super) fn writer(&mut self, token: Token) -> Option<&OwnedFd> {
        self.way(token).map(|(_, _, writer, _)| &writer.socket)
    }

    /// What became of a read from that side; none where it was not tried.
    pub(super) fn heard(&mut self, token: Token, result: Option<Result<usize, Errno>>) -> Heard {
        let Some((direction, reader, writer, _)) = self.way(token) else {
            return Heard::Nothing;
        };
        match result {
            Some(Ok(read)) if direction.heard(read, SLOT, reader, writer) => Heard::Message(read),
            Some(Err(Errno::AGAIN)) => Heard::Nothing,
            // The socket's own: it says that once, and the end from then on.
            Some(Err(error)) if !is_of_the_call(error) => Heard::Failed(error.into()),
            // It is to be read by itself.
            None | Some(_) => {
                reader.readable = true;
                Heard::Other
            }
        }
    }

    /// What became of writing that to the other side; none where it was not tried. Returns whether there
    /// is more to do.
    pub(super) fn said(
        &mut self,
        token: Token,
        bytes: &[u8],
        result: Option<Result<usize, Errno>>,
    ) -> bool {
        let Some((direction, reader, writer, counter)) = self.way(token) else {
            return false;
        };
        direction.said(bytes, result, reader, writer, counter)
    }

    /// The way of what that side says.
    fn way(&mut self, from: Token) -> Option<(&mut Direction, &mut Side, &mut Side, &Counter)> {
        let endpoint = self.endpoint.as_mut()?;
        let (client, counters) = (&mut self.client, &self.port.counters);
        Some(match from {
            Token::Client(_) => (&mut self.up, client, endpoint, &counters.received),
            _ => (&mut self.down, endpoint, client, &counters.transmitted),
        })
    }

    /// Whether its port, its endpoint or the place where it came in has had its time.
    pub(super) fn is_cut(&self) -> bool {
        self.port.is_cut()
            || self
                .active
                .as_ref()
                .is_some_and(|active| active.state().cut.is_cancelled())
    }

    /// Ends it before its time.
    pub(super) fn cut(&mut self) {
        self.fail(&io::ErrorKind::ConnectionAborted.into());
    }

    /// Tries the next endpoint.
    pub(super) fn dial(&mut self, world: &mut World<'_>) -> Step {
        let Stage::Dialling(dial) = &mut self.stage else {
            return Step::Stay;
        };
        loop {
            let now = Instant::now();
            let route = self.port.route();
            let picked = if dial.tried.len() < TRIES && now < dial.bound {
                let tick = world.shared.clock.now();
                self.port.pick(&route, self.from.0.ip(), tick, &dial.tried)
            } else {
                None
            };
            let Some(endpoint) = picked else {
                break;
            };
            let addr = endpoint.addr;
            dial.last = dial.tried.len() + 1 == TRIES
                || route.endpoints.eligible.len() <= dial.tried.len() + 1;
            drop(route);
            // What the client has said already goes with the last step of the handshake.
            dial.early |=
                dial.tried.is_empty() && self.up.read_early(&self.client, &mut world.tools);
            // Counted from here on, so that choices by load see connections that are being made.
            self.active = Some(Active::new(self.port.endpoint(addr)));
            // It may have gone since, and nobody would look after its connections any more.
            if !self.port.route().endpoints.lists(addr) {
                continue;
            }
            match connect(addr, dial, world) {
                Ok(socket) => {
                    self.endpoint = Some(Side::of_endpoint(socket));
                    dial.trying = Some((addr, now));
                    return Step::Wait(Wait::Fresh);
                }
                Err(error) if socket::is_exhausted(&error) => {
                    self.active = None;
                    world.shared.descriptors.exhausted(&error);
                    dial.error = Some(error);
                    return Step::Wait(Wait::Exhausted);
                }
                Err(error) => {
                    let active = self.active.as_ref();
                    unreached(&self.port, active, (addr, now), &error, world.shared);
                    dial.tried.push(addr);
                    dial.error = Some(error);
                }
            }
        }
        self.active = None;
        match dial.error.take() {
            Some(error) => self.fail(&error),
            None => {
                self.port.counters.reject(Rejection::NoEndpoint);
                self.log("there is no endpoint");
                socket::reset_on_close(&self.client.socket);
                Step::Over
            }
        }
    }

    /// The endpoint that is being tried could not be reached.
    fn not_reached(&mut self, error: io::Error, world: &mut World<'_>) -> Step {
        self.endpoint = None;
        if let Stage::Dialling(dial) = &mut self.stage
            && let Some((addr, began)) = dial.trying.take()
        {
            let active = self.active.as_ref();
            unreached(&self.port, active, (addr, began), &error, world.shared);
            dial.tried.push(addr);
            dial.error = Some(error);
        }
        self.dial(world)
    }

    /// The endpoint answers.
    fn reached(&mut self, world: &mut World<'_>) -> Step {
        let mut early = false;
        if let Stage::Dialling(dial) = &self.stage {
            if let (Some((_, began)), Some(active)) = (dial.trying, &self.active) {
                self.port.dial_worked(active.state(), began.elapsed());
            }
            early = dial.early;
        }
        self.stage = Stage::Carrying;
        let step = self.carry(world);
        if step == Step::Over {
            return step;
        }
        if let Some(endpoint) = &self.endpoint
            && early
        {
            socket::acknowledge_at_once(&endpoint.socket, true);
        }
        // What has not ended at once is waited for.
        match self.watch_client(world) {
            Err(error) => self.fail(&error),
            Ok(()) if step == Step::Stay => Step::Wait(Wait::Young),
            Ok(()) => step,
        }
    }

    /// Carries what there is, both ways.
    fn carry(&mut self, world: &mut World<'_>) -> Step {
        let Some(endpoint) = &mut self.endpoint else {
            return Step::Stay;
        };
        let client = &mut self.client;
        let counters = &self.port.counters;
        let (up, down) = (&mut self.up, &mut self.down);
        let was = (up.has_ended(), down.has_ended());
        // What the endpoint has said passes before it is found that it takes nothing any more.
        let carried = down
            .carry(endpoint, client, &counters.transmitted, &mut world.tools)
            .and_then(|down| {
                if down == Progress::Ended && !was.1 && !was.0 {
                    Direction::shut(client);
                }
                let up = up.carry(client, endpoint, &counters.received, &mut world.tools)?;
                client.listen(Token::Client(world.number), world.poll)?;
                endpoint.listen(Token::Endpoint(world.number), world.poll)?;
                Ok((up, down))
            });
        match carried {
            Err(error) => self.fail(&error),
            Ok((Progress::Ended, Progress::Ended)) => self.end(),
            Ok((up, down)) => {
                if up == Progress::Ended && !was.0 {
                    Direction::shut(endpoint);
                }
                if up == Progress::More || down == Progress::More {
                    Step::More
                } else {
                    Step::Stay
                }
            }
        }
    }
}

impl Connection {
    /// Both sides have said all, and it is written.
    fn end(&mut self) -> Step {
        // The endpoint has nothing to do with what is left.
        self.endpoint = None;
        self.active = None;
        if delivery::unacknowledged(&self.client.socket) == 0 {
            self.port.counters.completed.increment();
            return Step::Over;
        }
        Direction::shut(&self.client);
        self.stage = Stage::Delivering(0);
        Step::Wait(Wait::Soon)
    }

    /// Looks whether the client has all. A socket that is closed before goes on sending, but only
    /// while its address is one of this host's: the local route of a VIP may go once nobody is
    /// connected any more.
    fn deliver(&mut self) -> Step {
        let Stage::Delivering(looks) = &mut self.stage else {
            return Step::Stay;
        };
        *looks = looks.saturating_add(1);
        let wait = if *looks < LOOKS {
            Wait::Soon
        } else {
            Wait::Seldom
        };
        match delivery::state(&self.client.socket) {
            Delivery::UnderWay => Step::Wait(wait),
            Delivery::Done => {
                self.port.counters.completed.increment();
                Step::Over
            }
            Delivery::Lost => self.fail(&io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// It ends as it should not: who is still there learns that by a reset.
    pub(super) fn fail(&mut self, error: &io::Error) -> Step {
        self.port.counters.failed.increment();
        self.log(error);
        for side in std::iter::once(&self.client).chain(&self.endpoint) {
            socket::reset_on_close(&side.socket);
        }
        Step::Over
    }

    fn log(&self, why: impl std::fmt::Display) {
        tracing::debug!(client = %self.from, listen = %self.listen, %why, "connection reset");
    }

    /// From now on it is said what comes from the client.
    fn watch_client(&mut self, world: &World<'_>) -> io::Result<()> {
        if !self.client.watched {
            let token = Token::Client(world.number);
            world.poll.add(&self.client.socket, token, Watch::Edge)?;
            self.client.watched = true;
        }
        Ok(())
    }
}

/// Begins to connect to an endpoint. The connection's leave to open a socket holds for it.
fn connect(addr: EndpointAddr, dial: &Dial, world: &mut World<'_>) -> io::Result<OwnedFd> {
    let sources = world.shared.sources.load();
    let socket = world
        .stand_ins
        .dial(addr, &sources, |source| dial_from(source, addr, dial))?;
    let token = Token::Endpoint(world.number);
    world.poll.add(&socket, token, Watch::Edge)?;
    Ok(socket)
}

fn dial_from(source: Option<IpAddr>, addr: EndpointAddr, dial: &Dial) -> io::Result<OwnedFd> {
    let family = if addr.0.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(hops) = dial.hops {
        hops.set(&socket, addr.0.is_ipv4())?;
    }
    if dial.early {
        // Else the handshake would end with a packet of its own.
        socket::acknowledge_at_once(&socket, false);
    }
    if let Some(source) = source {
        source::bind(&socket, source)?;
    }
    match rustix::net::connect(&socket, &addr.0) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(socket)
}

/// Whether the error says that a call was not made, and nothing of its socket.
fn is_of_the_call(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR | Errno::NOMEM | Errno::NOBUFS | Errno::INVAL | Errno::CANCELED
    )
}

/// What is wrong with a side, if anything is.
fn failure(side: &Side) -> Option<io::Error> {
    match rustix::net::sockopt::socket_error(&side.socket) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error.into()),
    }
}

/// An endpoint that was tried since `began` could not be reached.
fn unreached(
    port: &Open,
    active: Option<&Active>,
    (addr, began): (EndpointAddr, Instant),
    error: &io::Error,
    shared: &Shared,
) {
    let why = DialFailure::of(error);
    if let Some(active) = active {
        port.dial_failed(active.state(), why, began.elapsed(), shared.clock.now());
    }
    tracing::debug!(endpoint = %addr, reason = why.as_str(), %error, "endpoint not reached");
}
