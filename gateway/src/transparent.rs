//! Dialling endpoints from their client's address (`fairway.dev/client-address: transparent`).
//!
//! Whether that can be done, and what follows when it can't, is decided by `fairway_gateway_core::way_back`. Here is
//! what all threads share of it: `Transparency`. `rules`: what makes the kernel take packets to clients' addresses in;
//! `handshake`: how another gateway is asked to dial; `half_open`: how many may wait that ask this one.

pub(crate) mod half_open;
pub(crate) mod handshake;
pub(crate) mod rules;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use fairway_config::exchange::FleetKey;
use fairway_config::net::EndpointAddr;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::relay::{self, GREETING, RelayAnswer};
use fairway_gateway_core::route::{Endpoint, Tick};
use fairway_gateway_core::way_back::{
    AddressLoss, DialFrom, LostWay, Surroundings, WayName, WaysBack,
};
use rustix::io::Errno;

use self::half_open::HalfOpenRelays;
use self::handshake::TransparentFailure;
use crate::connecting::{self, ConnectOptions};
use crate::seal::{Seal, SealPurpose, TAG};

/// The TCP port at which gateways take connections of each other, unless told otherwise.
pub const DEFAULT_RELAY_PORT: u16 = 9903;

/// The bit of a packet's mark that brings it to this host, unless told otherwise. kube-proxy has 0x4000 and 0x8000,
/// Cilium 0x0f00, Calico 0xffff0000.
pub const DEFAULT_MARK: u32 = 0x2000;

/// What all threads know of dialling from clients' addresses.
#[derive(Debug, Default)]
pub(crate) struct Transparency {
    surroundings: ArcSwap<Surroundings>,
    /// What is said between gateways is authenticated with it; none: no key is known.
    seal: ArcSwapOption<Seal>,
    /// The key that it was made of.
    key: ArcSwapOption<FleetKey>,
    /// Locked for a moment by each dial of a Service that asks for it.
    ways: Mutex<WaysBack>,
    /// Has a clone for each connection that needs the rules of the kernel.
    in_use: TransparentUse,
    /// The connections of other gateways that have not said yet what they are for.
    pub(crate) half_open: Arc<HalfOpenRelays>,
}

/// Held by a connection from a client's address: what comes back to it needs the rules of the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransparentUse(Arc<()>);

/// A dial of an endpoint from its client's address.
#[derive(Clone, Debug)]
pub(crate) struct TransparentDial {
    way: WayName,
    client: IpAddr,
    /// The gateway that has to dial; none: this one has to.
    pub(crate) relay: Option<SocketAddr>,
    /// See [`DialFrom::Client`].
    pub(crate) is_proven: bool,
    in_use: TransparentUse,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// The endpoint can't be reached from anywhere.
    OfEndpoint,
    /// The endpoint is dialled from the gateway's own address.
    Plain {
        /// Why the endpoint does not see the client's.
        loss: AddressLoss,
        /// What is known if that dial works.
        doubt: Option<Doubt>,
    },
}

/// What a failure shows if the endpoint can be reached from the gateway's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// What it answers to the client does not come back.
    Answers,
    /// The gateway on its node can't be reached.
    Relay,
}

impl TransparentDial {
    /// What the connection has to hold, where this gateway has dialled.
    pub(crate) fn in_use(&self) -> Option<TransparentUse> {
        self.relay.is_none().then(|| self.in_use.clone())
    }

    /// Begins to connect to the endpoint from the client's address. The socket does not block.
    ///
    /// # Errors
    /// As [`connecting::begin`].
    pub(crate) fn begin(
        &self,
        endpoint: EndpointAddr,
        options: ConnectOptions,
    ) -> io::Result<OwnedFd> {
        let options = ConnectOptions {
            transparent: true,
            ..options
        };
        connecting::begin(endpoint, Some(self.client), options)
    }
}

impl Transparency {
    /// Takes in where this gateway is. What keeps it from dialling stays as it was.
    pub(crate) fn set_surroundings(&self, surroundings: Surroundings, key: Option<&FleetKey>) {
        let before = self.surroundings.load();
        let surroundings = Surroundings {
            lacks: before.lacks,
            has_key: key.is_some(),
            ..surroundings
        };
        if **before == surroundings && self.key.load().as_deref() == key {
            return;
        }
        self.lock().retain(|way| {
            let node = way.node.as_ref();
            node.is_none_or(|node| {
                *node == surroundings.own
                    || !surroundings.is_node
                    || surroundings.relays.contains_key(node)
            })
        });
        let seal = key.map(|key| Arc::new(Seal::new(key, SealPurpose::Relay)));
        self.seal.store(seal);
        self.key.store(key.cloned().map(Arc::new));
        self.surroundings.store(Arc::new(surroundings));
    }

    /// Takes in what keeps this gateway from dialling from clients' addresses; none: nothing does.
    pub(crate) fn set_lacking(&self, lacks: Option<AddressLoss>) {
        let before = self.surroundings.load();
        if before.lacks != lacks {
            let surroundings = Surroundings {
                lacks,
                ..Surroundings::clone(&before)
            };
            self.surroundings.store(Arc::new(surroundings));
        }
    }

    /// Holds the rules of the kernel.
    pub(crate) fn hold(&self) -> TransparentUse {
        self.in_use.clone()
    }

    /// Whether a connection needs the rules of the kernel.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.in_use.0) > 1
    }

    /// Where this gateway is.
    pub(crate) fn surroundings(&self) -> Arc<Surroundings> {
        self.surroundings.load_full()
    }

    /// How an endpoint is dialled for a client.
    ///
    /// # Errors
    /// From the gateway's own address, and why.
    pub(crate) fn plan(
        &self,
        endpoint: &Endpoint,
        client: IpAddr,
        now: Tick,
    ) -> Result<TransparentDial, AddressLoss> {
        let client = client.to_canonical();
        let to = self.surroundings.load().way_to(endpoint, client)?;
        match self.lock().choose(&to.way, client, now) {
            DialFrom::Gateway(loss) => Err(loss),
            DialFrom::Client { is_proven } => Ok(TransparentDial {
                way: to.way,
                client,
                relay: to.relay,
                is_proven,
                in_use: self.in_use.clone(),
            }),
        }
    }

    /// How an endpoint of this node is dialled for a client of another gateway.
    ///
    /// # Errors
    /// It can't be.
    pub(crate) fn plan_relayed(
        &self,
        endpoint: SocketAddr,
        client: IpAddr,
    ) -> Result<TransparentDial, AddressLoss> {
        let surroundings = self.surroundings.load();
        let mut here = Endpoint::new(EndpointAddr(endpoint));
        here.node = Some(surroundings.own.clone());
        let to = surroundings.way_to(&here, client)?;
        Ok(TransparentDial {
            way: to.way,
            client,
            relay: None,
            is_proven: true,
            in_use: self.in_use.clone(),
        })
    }

    /// The endpoint has accepted the connection.
    pub(crate) fn worked(&self, dial: &TransparentDial, now: Tick) {
        self.lock().worked(&dial.way, dial.client, now);
    }

    /// The dial has failed.
    pub(crate) fn failed(
        &self,
        dial: &TransparentDial,
        failure: &TransparentFailure<'_>,
        now: Tick,
    ) -> AfterFailure {
        let plain = |loss, doubt| AfterFailure::Plain { loss, doubt };
        let lost = |why| {
            self.lock().lost(&dial.way, why, now);
            plain(why, None)
        };
        match failure {
            TransparentFailure::Endpoint(error) => match DialFailure::of(error) {
                // Its refusal came back.
                DialFailure::Refused => {
                    self.worked(dial, now);
                    AfterFailure::OfEndpoint
                }
                DialFailure::Timeout => plain(AddressLoss::NoAnswer, Some(Doubt::Answers)),
                DialFailure::Unreachable => AfterFailure::OfEndpoint,
                _ if is_not_permitted(error) => lost(AddressLoss::NotPermitted),
                DialFailure::Silent
                | DialFailure::Reset
                | DialFailure::Exhausted
                | DialFailure::Other => plain(AddressLoss::System, None),
            },
            TransparentFailure::Relay(error) => match DialFailure::of(error) {
                DialFailure::Refused => lost(AddressLoss::NotRelayed),
                DialFailure::Exhausted => plain(AddressLoss::System, None),
                _ => plain(AddressLoss::NotRelayed, Some(Doubt::Relay)),
            },
            TransparentFailure::Handshake(error) => match DialFailure::of(error) {
                DialFailure::Timeout => plain(AddressLoss::NoAnswer, Some(Doubt::Answers)),
                _ => lost(AddressLoss::NotBelieved),
            },
            TransparentFailure::Answer(answer) => match answer {
                RelayAnswer::Refused => {
                    self.worked(dial, now);
                    AfterFailure::OfEndpoint
                }
                RelayAnswer::Connected | RelayAnswer::Unreachable => AfterFailure::OfEndpoint,
                RelayAnswer::TimedOut => plain(AddressLoss::NoAnswer, Some(Doubt::Answers)),
                RelayAnswer::NotKnown => plain(AddressLoss::NotKnown, None),
                RelayAnswer::NotPermitted => lost(AddressLoss::NotPermitted),
                RelayAnswer::HostNetwork => plain(AddressLoss::HostNetwork, None),
                RelayAnswer::Failed => plain(AddressLoss::System, None),
            },
        }
    }

    /// The endpoint was reached from the gateway's own address after that.
    pub(crate) fn plain_worked(&self, dial: &TransparentDial, doubt: Doubt, now: Tick) {
        let mut ways = self.lock();
        match doubt {
            Doubt::Answers => ways.not_answered(&dial.way, dial.client, now),
            Doubt::Relay => ways.lost(&dial.way, AddressLoss::NotRelayed, now),
        }
    }

    /// See [`WaysBack::lost_ways`].
    pub(crate) fn lost_ways(&self, now: Tick) -> Vec<LostWay> {
        self.lock().lost_ways(now)
    }

    /// What asks the gateway that was dialled, and has said this greeting, for an endpoint.
    ///
    /// # Errors
    /// The greeting is none, or no key is known.
    pub(crate) fn request(
        &self,
        dial: &TransparentDial,
        greeting: &[u8; GREETING],
        client: SocketAddr,
        endpoint: SocketAddr,
    ) -> io::Result<Vec<u8>> {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let header = relay::header(canonical(client), canonical(endpoint));
        let seal = self.seal.load();
        let parts = (seal.as_ref(), &dial.way.node, dial.relay);
        let (Some(seal), Some(node), Some(relay), true) =
            (parts.0, parts.1, parts.2, relay::is_greeting(greeting))
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut message = [greeting.as_slice(), &header].concat();
        seal.close(node, relay.ip(), &mut message);
        message.drain(..GREETING);
        Ok(message)
    }

    /// Whether a request is one of a gateway with our key, and for this connection, which arrived `at` this address.
    pub(crate) fn believes(
        &self,
        greeting: &[u8; GREETING],
        request: &relay::RelayRequest<'_>,
        at: IpAddr,
    ) -> bool {
        const { assert!(TAG == relay::HASH) };
        let seal = self.seal.load();
        let own = &self.surroundings.load().own;
        let sealed = [greeting.as_slice(), request.hashed, request.hash].concat();
        seal.as_ref()
            .is_some_and(|seal| seal.open(own, at, &sealed).is_some())
    }

    fn lock(&self) -> MutexGuard<'_, WaysBack> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is answered where an endpoint is not dialled.
pub(crate) fn answer_of(loss: AddressLoss) -> RelayAnswer {
    match loss {
        AddressLoss::HostNetwork => RelayAnswer::HostNetwork,
        AddressLoss::NotPermitted => RelayAnswer::NotPermitted,
        _ => RelayAnswer::NotKnown,
    }
}

/// What is answered where a dial has failed.
pub(crate) fn answer_to(error: &io::Error) -> RelayAnswer {
    match DialFailure::of(error) {
        DialFailure::Refused => RelayAnswer::Refused,
        DialFailure::Unreachable => RelayAnswer::Unreachable,
        DialFailure::Timeout => RelayAnswer::TimedOut,
        _ if is_not_permitted(error) => RelayAnswer::NotPermitted,
        DialFailure::Silent | DialFailure::Reset | DialFailure::Exhausted | DialFailure::Other => {
            RelayAnswer::Failed
        }
    }
}

fn is_not_permitted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::PERM | Errno::ACCESS)
    )
}

#[cfg(test)]
mod tests;
