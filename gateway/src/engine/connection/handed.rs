//! A connection goes to another process, which goes on with it (`take_over`).
//!
//! It is frozen meanwhile: epoll does not watch it, and nobody reads or writes. It is forgotten when the other process
//! has taken it, and goes on here when that has not.

use std::io;
use std::os::fd::AsFd as _;

use fairway_config::net::{ClientAddr, ListenAddr};

use super::{Stage, TcpConnection};
use crate::client_origin::ClientOrigin;
use crate::descriptors::Permit;
use crate::endpoint_state::Active;
use crate::engine::direction::Direction;
use crate::engine::next::{Environment, Next};
use crate::engine::owners::ConnectionOwner;
use crate::engine::poll::{Epoll, Token, Trigger};
use crate::engine::side::Side;
use crate::engine::timer::Timer;
use crate::handed::{HandedConnection, HandedOwner, WholeConnection};
use crate::open_connection::OpenConnection;
use crate::transparent::TransparentUse;

impl TcpConnection {
    /// Whether it can be handed over. One that is not established yet may be so later; one that only delivers its last
    /// bytes ends here.
    pub(in crate::engine) fn can_be_handed(&self) -> bool {
        let is_well = |side: &Side| !side.failed;
        matches!(self.stage, Stage::Carrying(_))
            && is_well(&self.client)
            && self.endpoint.as_ref().is_some_and(is_well)
            && !self.is_cut()
    }

    /// Whether it can be handed over later.
    pub(in crate::engine) fn is_to_be_established(&self) -> bool {
        matches!(
            self.stage,
            Stage::Dialling(_) | Stage::Header(_) | Stage::Relay(_)
        )
    }

    /// Who owns it in the lists of its worker.
    pub(in crate::engine) fn owner(&self) -> ConnectionOwner {
        ConnectionOwner {
            port: self.port.number,
            place: self.port.slot_number(),
        }
    }

    /// What the other process needs of it. It is to be left alone from now on.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(in crate::engine) fn hand(&mut self) -> io::Result<Option<WholeConnection>> {
        let (Some(endpoint), Some(active), Stage::Carrying(stall_check)) =
            (&self.endpoint, &self.active, &self.stage)
        else {
            return Ok(None);
        };
        let Some(address) = self.port.address_of(active.state()) else {
            // It is gone, and its connections are about to be cut.
            return Ok(None);
        };
        self.up.take_out_of_pipe()?;
        self.down.take_out_of_pipe()?;
        let (up, down) = (self.up.held(), self.down.held());
        let route = self.port.route();
        let says = HandedConnection {
            owner: HandedOwner {
                namespace: route.service.namespace.to_string(),
                service: route.service.name.to_string(),
                protocol: route.key.protocol,
                port: route.key.port,
                listen: self.listen.0,
                // Whoever asks the worker knows which one that is.
                worker: 0,
            },
            client: self.origin.client.0,
            endpoint: address.0,
            up: self.up.handed(),
            down: self.down.handed(),
            client_side: self.client.handed(),
            endpoint_side: endpoint.handed(),
            stall_check: *stall_check,
            transparent: self.transparent.is_some(),
        };
        Ok(Some(WholeConnection {
            says,
            client: self.client.socket.as_fd().try_clone_to_owned()?,
            endpoint: endpoint.socket.as_fd().try_clone_to_owned()?,
            up: up.into(),
            down: down.into(),
        }))
    }

    /// epoll watches its sockets no more. (That they are closed here is not enough: the other process has them.)
    pub(in crate::engine) fn leave(&mut self, poll: &Epoll) {
        for side in std::iter::once(&self.client).chain(&self.endpoint) {
            poll.remove(&side.socket);
        }
    }

    /// A connection that another process has handed over.
    pub(in crate::engine) fn taken(
        whole: WholeConnection,
        port: OpenConnection,
        transparent: Option<TransparentUse>,
        permit: Permit,
    ) -> Self {
        let says = whole.says;
        let state = port.endpoint(fairway_config::net::EndpointAddr(says.endpoint));
        Self {
            client: Side::taken(whole.client, says.client_side),
            endpoint: Some(Side::taken(whole.endpoint, says.endpoint_side)),
            up: Direction::taken(says.up, whole.up),
            down: Direction::taken(says.down, whole.down),
            stage: Stage::Carrying(says.stall_check),
            queued: false,
            claimed: false,
            origin: ClientOrigin::of_peer(ClientAddr(says.client)),
            listen: ListenAddr(says.owner.listen),
            active: Some(Active::new(state)),
            transparent,
            port,
            permit,
        }
    }

    /// The timer that it goes on with.
    pub(in crate::engine) fn timer(&self) -> Timer {
        match self.stage {
            Stage::Carrying(Some(_)) => Timer::StallCheck,
            _ => Timer::while_carrying(self.port.route().limits.idle),
        }
    }

    /// Goes on, here or in the other process: looks at both sockets, whatever was known of them.
    pub(in crate::engine) fn go_on(&mut self, environment: &mut Environment<'_>) -> Next {
        (self.queued, self.claimed) = (false, false);
        let number = environment.number;
        let watch = |side: &mut Side, token| {
            side.look_again();
            environment.poll.add(&side.socket, token, Trigger::Edge)
        };
        let client = watch(&mut self.client, Token::Client(number));
        let endpoint = self.endpoint.as_mut();
        let endpoint = endpoint.map_or(Ok(()), |side| watch(side, Token::Endpoint(number)));
        match client.and(endpoint) {
            Ok(()) => self.carry(environment),
            Err(error) => self.fail(&error),
        }
    }
}
