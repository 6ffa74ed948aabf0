//! A connection that has begun as one of HTTP and was upgraded: bytes both ways from here on.

use fairway_config::net::ListenAddr;

use super::{Stage, TcpConnection};
use crate::client_origin::ClientOrigin;
use crate::descriptors::Permit;
use crate::endpoint_state::Active;
use crate::engine::direction::Direction;
use crate::engine::next::{Environment, Next};
use crate::engine::poll::Token;
use crate::engine::side::Side;
use crate::open_connection::OpenConnection;
use crate::transparent::TransparentUse;

/// What an upgraded connection goes on with.
pub(in crate::engine) struct UpgradedConnection {
    pub(in crate::engine) client: Side,
    pub(in crate::engine) endpoint: Side,
    /// What was read of the client and is not written yet.
    pub(in crate::engine) up: Vec<u8>,
    /// The same of the endpoint, with the answer that upgrades.
    pub(in crate::engine) down: Vec<u8>,
    pub(in crate::engine) origin: ClientOrigin,
    pub(in crate::engine) listen: ListenAddr,
    pub(in crate::engine) active: Option<Active>,
    pub(in crate::engine) transparent: Option<TransparentUse>,
    pub(in crate::engine) port: OpenConnection,
    pub(in crate::engine) permit: Permit,
}

impl TcpConnection {
    pub(in crate::engine) fn upgraded(from: UpgradedConnection) -> Self {
        let (mut client, mut endpoint) = (from.client, from.endpoint);
        client.look_again();
        endpoint.look_again();
        Self {
            client,
            endpoint: Some(endpoint),
            up: Direction::holding(from.up),
            down: Direction::holding(from.down),
            stage: Stage::Carrying(None),
            queued: false,
            claimed: false,
            origin: from.origin,
            listen: from.listen,
            active: from.active,
            transparent: from.transparent,
            port: from.port,
            permit: from.permit,
        }
    }

    /// Goes on with an upgraded connection, which has another number.
    pub(in crate::engine) fn go_on_upgraded(&mut self, environment: &mut Environment<'_>) -> Next {
        let number = environment.number;
        let renamed = environment
            .poll
            .rename(&self.client.socket, Token::Client(number));
        let renamed = renamed.and_then(|()| match &self.endpoint {
            Some(side) => environment
                .poll
                .rename(&side.socket, Token::Endpoint(number)),
            None => Ok(()),
        });
        if let Err(error) = renamed {
            return self.fail(&error);
        }
        match self.carry(environment) {
            Next::Stay => self.begin_carrying(),
            next => next,
        }
    }
}
