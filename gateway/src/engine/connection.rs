//! A connection from its accept until its client has the last byte: what it is doing, and what it
//! waits for.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use fairway_config::net::{ClientAddr, ListenAddr};
use rustix::io::Errno;

use super::dial::{Dial, DialOutcome};
use super::direction::{CarryProgress, Direction, SideError};
use super::next::{Environment, Next};
use super::poll::{EventFlags, Token, Watch};
use super::ring::SLOT;
use super::side::Side;
use super::timer::Timer;
use crate::counters::{Counter, Rejection};
use crate::delivery::{self, Delivery};
use crate::descriptors::Permit;
use crate::hops::Hops;
use crate::open::Open;
use crate::port::Active;
use crate::socket;

/// For how long it is looked every [`SOON`].
const LOOKS: u8 = 10;

/// What a side that spoke together with others has said.
pub(super) enum ReadOutcome {
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
pub(super) struct TcpConnection {
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
    /// Bytes are carried. Once the endpoint has said all: how far its client was at the last look.
    Carrying(Option<u64>),
    /// The endpoint is done; the client has not got all yet.
    Delivering(Deliveries),
}

/// Looks whether a client has all.
struct Deliveries {
    count: u8,
    /// How many bytes it had at the last one.
    got: u64,
    /// Since when it has so many.
    since: Instant,
}

impl TcpConnection {
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
            stage: Stage::Dialling(Dial::new(hops)),
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
    pub(super) fn client_event(
        &mut self,
        flags: EventFlags,
        environment: &mut Environment<'_>,
    ) -> Next {
        self.claimed = false;
        let news = self.client.note(flags);
        if flags.contains(EventFlags::ERR)
            && let Some(error) = failure(&self.client)
        {
            // What it said before is still there.
            if let (Stage::Carrying(_), Some(endpoint)) = (&self.stage, &mut self.endpoint) {
                let received = &self.port.counters.received;
                let client = &mut self.client;
                let _ = self
                    .up
                    .carry(client, endpoint, received, &mut environment.tools);
            }
            return self.fail(&error);
        }
        if matches!(self.stage, Stage::Delivering(_)) && news && !self.down.has_ended() {
            return self.deliver(environment);
        }
        match self.stage {
            Stage::Carrying(_) if news => self.carry(environment),
            Stage::Carrying(_) if !self.queued => {
                self.client
                    .hush(Token::Client(environment.number), environment.poll);
                Next::Stay
            }
            Stage::Carrying(_) | Stage::Dialling(_) | Stage::Delivering(_) => Next::Stay,
        }
    }

    /// Its endpoint's socket has something to say.
    pub(super) fn endpoint_event(
        &mut self,
        flags: EventFlags,
        environment: &mut Environment<'_>,
    ) -> Next {
        self.claimed = false;
        let Some(endpoint) = &mut self.endpoint else {
            return Next::Stay;
        };
        let news = endpoint.note(flags);
        let error = if flags.intersects(EventFlags::ERR) {
            failure(endpoint)
        } else {
            None
        };
        match (&self.stage, error) {
            (Stage::Dialling(_), Some(error)) => self.not_reached(error, environment),
            (Stage::Dialling(_), None) if flags.contains(EventFlags::OUT) => {
                self.reached(environment)
            }
            // All that it had to say was read, or is there to be read: «Broken pipe» is what a reset after
            // the end is called (tcp_reset in net/ipv4/tcp_input.c).
            (Stage::Carrying(_), Some(error))
                if self.down.has_read_all() || error.kind() == io::ErrorKind::BrokenPipe =>
            {
                self.carry(environment)
            }
            (Stage::Carrying(_), Some(error)) => {
                // What it said before is still there.
                let transmitted = &self.port.counters.transmitted;
                let client = &mut self.client;
                let _ = self
                    .down
                    .carry(endpoint, client, transmitted, &mut environment.tools);
                self.fail(&error)
            }
            (Stage::Carrying(_), None) if news => self.carry(environment),
            (Stage::Carrying(_), None) if !self.queued => {
                endpoint.hush(Token::Endpoint(environment.number), environment.poll);
                Next::Stay
            }
            (Stage::Carrying(_) | Stage::Dialling(_) | Stage::Delivering(_), _) => Next::Stay,
        }
    }

    /// What it waited for has not come within its time.
    pub(super) fn due(&mut self, wait: Timer, environment: &mut Environment<'_>) -> Next {
        match (wait, &mut self.stage) {
            (Timer::Fresh, Stage::Dialling(dial)) => {
                let last = dial.last;
                if let Err(error) = self.watch_client(environment) {
                    return self.fail(&error);
                }
                Next::Wait(if last {
                    Timer::Patient
                } else {
                    Timer::Impatient
                })
            }
            (Timer::Impatient | Timer::Patient, Stage::Dialling(_)) => {
                self.not_reached(io::ErrorKind::TimedOut.into(), environment)
            }
            (Timer::Exhausted, Stage::Dialling(_)) => self.dial(environment),
            // The endpoint answered, and there was more to do than could be done at once.
            (Timer::Fresh | Timer::Impatient | Timer::Patient, Stage::Carrying(_)) => {
                Next::Wait(Timer::Young)
            }
            (Timer::Young, Stage::Carrying(_)) => {
                self.keep_endpoint_alive();
                Next::Rest
            }
            (Timer::Stalled, Stage::Carrying(_)) => self.look_for_progress(),
            (Timer::Soon | Timer::Seldom, Stage::Delivering(_)) => self.deliver(environment),
            _ => Next::Rest,
        }
    }

    /// Whether it is to be put among those that have more to do: once.
    pub(super) fn queue(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// It is its turn again.
    pub(super) fn more(&mut self, environment: &mut Environment<'_>) -> Next {
        self.queued = false;
        match self.stage {
            Stage::Carrying(_) => self.carry(environment),
            Stage::Dialling(_) | Stage::Delivering(_) => Next::Stay,
        }
    }

    /// Whether what that side has to say may go together with what others have: nothing else is under way.
    /// It is claimed then, until it [has spoken](Self::has_spoken).
    pub(super) fn may_speak(&mut self, token: Token) -> bool {
        if self.claimed || self.queued || !matches!(self.stage, Stage::Carrying(_)) {
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
    pub(super) fn heard(
        &mut self,
        token: Token,
        result: Option<Result<usize, Errno>>,
    ) -> ReadOutcome {
        let Some((direction, reader, writer, _)) = self.way(token) else {
            return ReadOutcome::Nothing;
        };
        match result {
            Some(Ok(read)) if direction.heard(read, SLOT, reader, writer) => {
                ReadOutcome::Message(read)
            }
            Some(Err(Errno::AGAIN)) => ReadOutcome::Nothing,
            // The socket's own: it says that once, and the end from then on.
            Some(Err(error)) if !is_of_the_call(error) => ReadOutcome::Failed(error.into()),
            // It is to be read by itself.
            None | Some(_) => {
                reader.readable = true;
                ReadOutcome::Other
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
    pub(super) fn dial(&mut self, environment: &mut Environment<'_>) -> Next {
        let Stage::Dialling(dial) = &mut self.stage else {
            return Next::Stay;
        };
        // It does not count as the last one's any more.
        self.active = None;
        match dial.next(
            self.from,
            &self.port,
            &self.client,
            &mut self.up,
            environment,
        ) {
            DialOutcome::Trying(endpoint, active) => {
                self.endpoint = Some(endpoint);
                self.active = Some(active);
                Next::Wait(Timer::Fresh)
            }
            DialOutcome::Exhausted => Next::Wait(Timer::Exhausted),
            DialOutcome::Failed(error) => self.fail(&error),
            DialOutcome::NoEndpoint => {
                self.port.counters.reject(Rejection::NoEndpoint);
                self.log("there is no endpoint");
                socket::reset_on_close(&self.client.socket);
                Next::Over
            }
        }
    }

    /// The endpoint that is being tried could not be reached.
    fn not_reached(&mut self, error: io::Error, environment: &mut Environment<'_>) -> Next {
        self.endpoint = None;
        if let Stage::Dialling(dial) = &mut self.stage {
            dial.not_reached(error, &self.port, self.active.as_ref(), environment.shared);
        }
        self.dial(environment)
    }

    /// The endpoint answers.
    fn reached(&mut self, environment: &mut Environment<'_>) -> Next {
        let mut early = false;
        if let Stage::Dialling(dial) = &self.stage {
            if let (Some((_, began)), Some(active)) = (dial.trying, &self.active) {
                self.port.dial_worked(active.state(), began.elapsed());
            }
            early = dial.early;
        }
        self.stage = Stage::Carrying(None);
        let step = self.carry(environment);
        if step == Next::Over {
            return step;
        }
        if let Some(endpoint) = &self.endpoint
            && early
        {
            socket::acknowledge_at_once(&endpoint.socket, true);
        }
        // What has not ended at once is waited for.
        match self.watch_client(environment) {
            Err(error) => self.fail(&error),
            Ok(()) if step == Next::Stay => Next::Wait(Timer::Young),
            Ok(()) => step,
        }
    }

    /// Carries what there is, both ways.
    fn carry(&mut self, environment: &mut Environment<'_>) -> Next {
        let Some(endpoint) = &mut self.endpoint else {
            return Next::Stay;
        };
        let client = &mut self.client;
        let counters = &self.port.counters;
        let (up, down) = (&mut self.up, &mut self.down);
        let was = (up.has_ended(), down.has_ended());
        // What the endpoint has said passes before it is found that it takes nothing any more.
        let down = match down.carry(
            endpoint,
            client,
            &counters.transmitted,
            &mut environment.tools,
        ) {
            Ok(down) => down,
            Err(SideError::Reader(error) | SideError::Writer(error)) => return self.fail(&error),
        };
        if down == CarryProgress::Ended && !was.1 && !was.0 {
            Direction::shut(client);
        }
        if endpoint.failed && self.down.has_read_all() {
            return self.leave_endpoint(environment);
        }
        let up = if endpoint.failed {
            // It takes nothing any more, and there is more of what it said.
            Ok(CarryProgress::Waits)
        } else {
            up.carry(client, endpoint, &counters.received, &mut environment.tools)
        };
        let up = match up {
            Ok(up) => up,
            Err(SideError::Reader(error)) => return self.fail(&error),
            // It takes nothing any more: its client has what it said all the same.
            Err(SideError::Writer(_)) if self.down.has_read_all() => {
                return self.leave_endpoint(environment);
            }
            Err(SideError::Writer(error)) => return self.fail(&error),
        };
        // There may be more to read, for which its client has no room.
        let endpoint_ended = endpoint.ended || self.down.has_read_all();
        let listens = client
            .listen(Token::Client(environment.number), environment.poll)
            .and_then(|()| endpoint.listen(Token::Endpoint(environment.number), environment.poll));
        if let Err(error) = listens {
            return self.fail(&error);
        }
        if up == CarryProgress::Ended && !was.0 && down != CarryProgress::Ended {
            Direction::shut(endpoint);
        }
        match (up, down) {
            (CarryProgress::Ended, CarryProgress::Ended) => self.leave_endpoint(environment),
            (CarryProgress::More, _) | (_, CarryProgress::More) => Next::More,
            _ if matches!(self.stage, Stage::Carrying(None)) && endpoint_ended => {
                self.stage = Stage::Carrying(Some(u64::MAX));
                Next::Wait(Timer::Stalled)
            }
            _ => Next::Stay,
        }
    }

    /// Whether a client that its endpoint has told all takes what it was told: one that does not would keep
    /// it here without end.
    fn look_for_progress(&mut self) -> Next {
        self.keep_endpoint_alive();
        let left = delivery::unacknowledged(&self.client.socket) as u64;
        if left == 0 && self.down.has_ended() {
            return Next::Rest;
        }
        let got = self.down.written().saturating_sub(left) + self.up.written();
        if matches!(self.stage, Stage::Carrying(Some(before)) if before == got) {
            return self.fail(&io::ErrorKind::TimedOut.into());
        }
        self.stage = Stage::Carrying(Some(got));
        Next::Wait(Timer::Stalled)
    }

    fn keep_endpoint_alive(&self) {
        if let Some(endpoint) = &self.endpoint {
            socket::keep_alive(&endpoint.socket);
        }
    }
}

impl TcpConnection {
    /// The endpoint has said all, and has heard all or hears nothing any more.
    fn leave_endpoint(&mut self, environment: &mut Environment<'_>) -> Next {
        self.endpoint = None;
        self.active = None;
        if self.down.has_ended() {
            if delivery::unacknowledged(&self.client.socket) == 0 {
                self.port.counters.completed.increment();
                return Next::Over;
            }
            Direction::shut(&self.client);
        }
        self.stage = Stage::Delivering(Deliveries {
            count: 0,
            got: u64::MAX,
            since: Instant::now(),
        });
        self.deliver(environment)
    }

    /// Writes what is left, and looks whether the client has all. A socket that is closed before goes on
    /// sending, but only while its address is one of this host's: the local route of a VIP may go once
    /// nobody is connected any more.
    fn deliver(&mut self, environment: &mut Environment<'_>) -> Next {
        let Stage::Delivering(looks) = &mut self.stage else {
            return Next::Stay;
        };
        if !self.down.has_ended() {
            let counter = &self.port.counters.transmitted;
            let written = self.down.write_held(&mut self.client, counter);
            let token = Token::Client(environment.number);
            match written.and_then(|all| self.client.listen(token, environment.poll).map(|()| all))
            {
                Ok(true) => Direction::shut(&self.client),
                Ok(false) => {}
                Err(error) => return self.fail(&error),
            }
        }
        let left = delivery::unacknowledged(&self.client.socket) as u64;
        let (now, got) = (Instant::now(), self.down.written().saturating_sub(left));
        if got != looks.got {
            (looks.got, looks.since) = (got, now);
        } else if now.duration_since(looks.since) >= environment.shared.stall_timeout {
            return self.fail(&io::ErrorKind::TimedOut.into());
        }
        looks.count = looks.count.saturating_add(1);
        let wait = if looks.count < LOOKS {
            Timer::Soon
        } else {
            Timer::Seldom
        };
        if !self.down.has_ended() {
            return Next::Wait(wait);
        }
        match delivery::state(&self.client.socket) {
            Delivery::UnderWay => Next::Wait(wait),
            Delivery::Done => {
                self.port.counters.completed.increment();
                Next::Over
            }
            Delivery::Lost => self.fail(&io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// It ends as it should not: who is still there learns that by a reset.
    pub(super) fn fail(&mut self, error: &io::Error) -> Next {
        self.port.counters.failed.increment();
        self.log(error);
        for side in std::iter::once(&self.client).chain(&self.endpoint) {
            socket::reset_on_close(&side.socket);
        }
        Next::Over
    }

    fn log(&self, why: impl std::fmt::Display) {
        tracing::debug!(client = %self.from, listen = %self.listen, %why, "connection reset");
    }

    /// From now on it is said what comes from the client.
    fn watch_client(&mut self, environment: &Environment<'_>) -> io::Result<()> {
        if !self.client.watched {
            let token = Token::Client(environment.number);
            environment
                .poll
                .add(&self.client.socket, token, Watch::Edge)?;
            self.client.watched = true;
        }
        Ok(())
    }
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
