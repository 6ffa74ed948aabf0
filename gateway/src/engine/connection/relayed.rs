//! A connection that another gateway has made, to have an endpoint of this node dialled from a client's address: the
//! steps of `fairway_gateway_core::relay`.
//!
//! Nobody but a gateway with our key gets anything by it, and that one only what it would dial itself: endpoints of
//! this node whose Service asks for it, which this gateway knows by itself.

use std::fmt::Display;

use fairway_config::net::{ClientAddr, EndpointAddr};
use fairway_gateway_core::relay::{self, RelayAnswer};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::{RelayWait, Stage, TcpConnection};
use crate::client_origin::ClientOrigin;
use crate::engine::dial::Dial;
use crate::engine::next::{Environment, Next};
use crate::engine::timer::Timer;
use crate::metrics::{RELAYED, UNANSWERED};
use crate::socket;
use crate::transparent::answer_of;
use crate::transparent::half_open::HalfOpen;

impl TcpConnection {
    /// The same connection, which has to begin with a request. Its number was never said before.
    pub(in crate::engine) fn behind_request(mut self, number: u128, half_open: HalfOpen) -> Self {
        let greeting = relay::greeting(number);
        // A new connection takes it at once. Else the other gateway does not answer to it.
        let _ = rustix::net::send(&self.client.socket, &greeting, SendFlags::NOSIGNAL);
        self.stage = Stage::Relay(Box::new(RelayWait {
            greeting,
            _half_open: half_open,
        }));
        self
    }

    /// Reads the request, as far as it has come.
    pub(in crate::engine) fn read_request(&mut self, environment: &mut Environment<'_>) -> Next {
        let Some(room) = environment.tools.buffer.get_mut(..relay::MOST) else {
            return Next::Over;
        };
        let bytes = match rustix::net::recv(&self.client.socket, &mut *room, RecvFlags::PEEK) {
            // Somebody looks whether we are here.
            Ok((_, 0)) => return Next::Over,
            Ok((_, length)) => room.get(..length).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => return self.wait_for_request(environment),
            Err(_) => return Next::Over,
        };
        let Stage::Relay(wait) = &self.stage else {
            return Next::Stay;
        };
        let request = match relay::read(bytes) {
            Ok(Some(request)) => request,
            Ok(None) if self.client.ended => {
                return self.refuse_request("it ended within its request");
            }
            Ok(None) => return self.wait_for_request(environment),
            Err(error) => return self.refuse_request(error),
        };
        let transparency = &environment.shared.transparency;
        if !transparency.believes(&wait.greeting, &request, self.listen.0.ip()) {
            return self.refuse_request("its key is another one");
        }
        let (client, endpoint) = (request.client, EndpointAddr(request.endpoint));
        let length = request.hashed.len() + request.hash.len();
        let request = room.get_mut(..length).unwrap_or_default();
        match rustix::net::recv(&self.client.socket, request, RecvFlags::empty()) {
            Ok((_, taken)) if taken == length => {}
            _ => return self.refuse_request("its request can't be read"),
        }
        self.origin = ClientOrigin::of_peer(ClientAddr(client));
        let eligible = &self.port.route().endpoints.eligible;
        let is_known = eligible
            .binary_search_by_key(&endpoint, |it| it.addr)
            .is_ok();
        let plan = transparency.plan_relayed(endpoint.0, client.ip());
        let refusal = match plan {
            _ if !is_known => Some(RelayAnswer::NotKnown),
            Ok(_) => None,
            Err(loss) => Some(answer_of(loss)),
        };
        if let Some(refusal) = refusal {
            self.log(refusal.as_str());
            self.answer(refusal);
            return Next::Over;
        }
        self.stage = Stage::Dialling(Box::new(Dial::relayed(endpoint)));
        self.dial(environment)
    }

    /// The request has not come in time.
    pub(super) fn miss_request(&mut self) -> Next {
        self.refuse_request("no request came in time")
    }

    /// Tells the other gateway what came of it.
    pub(super) fn answer(&self, answer: RelayAnswer) {
        metrics::counter!(RELAYED, "answer" => answer.as_str()).increment(1);
        // One byte always has room. Where the connection is gone, nobody waits for it.
        let byte = [answer as u8];
        let _ = rustix::net::send(&self.client.socket, &byte, SendFlags::NOSIGNAL);
    }

    fn wait_for_request(&mut self, environment: &Environment<'_>) -> Next {
        if self.client.watched {
            return Next::Stay;
        }
        match self.watch_client(environment) {
            Ok(()) => Next::Wait(Timer::ProxyHeader),
            Err(error) => self.fail(&error),
        }
    }

    fn refuse_request(&mut self, why: impl Display) -> Next {
        metrics::counter!(RELAYED, "answer" => UNANSWERED).increment(1);
        self.log(why);
        socket::reset_on_close(&self.client.socket);
        Next::Over
    }
}
