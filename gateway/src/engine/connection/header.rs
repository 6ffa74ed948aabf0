//! The PROXY protocol header of a connection whose peer has to announce its client.
//!
//! The header is looked at where it is, in the socket, and taken out when it is whole. So what follows it is left for
//! whoever carries the connection, and nothing is held for a peer that takes its time.

use std::fmt::Display;
use std::os::fd::OwnedFd;

use fairway_config::exchange::ClaimKind;
use fairway_config::service::AppProtocol;
use fairway_gateway_core::proxy_protocol::{self, HeaderProgress, ProxyHeaderSays};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{HeaderWait, Stage, TcpConnection};
use crate::client_origin::ClientOrigin;
use crate::counters::Rejection;
use crate::descriptors::Permit;
use crate::engine::dial::Dial;
use crate::engine::http::HttpConnection;
use crate::engine::next::{Environment, Next};
use crate::engine::poll::Epoll;
use crate::engine::timer::Timer;
use crate::hops::Hops;
use crate::socket;
use crate::tasks::TaskKind;

impl TcpConnection {
    /// The same connection, which has to begin with a header.
    pub(in crate::engine) fn behind_header(mut self, kind: ClaimKind, hops: Option<Hops>) -> Self {
        self.stage = Stage::Header(HeaderWait { kind, hops });
        self
    }

    /// Reads the header, as far as it has come.
    pub(in crate::engine) fn read_header(&mut self, environment: &mut Environment<'_>) -> Next {
        let Some(room) = environment.tools.buffer.get_mut(..proxy_protocol::MOST) else {
            return Next::Over;
        };
        let peeked = loop {
            match rustix::net::recv(&self.client.socket, &mut *room, RecvFlags::PEEK) {
                Err(Errno::INTR) => {}
                peeked => break peeked,
            }
        };
        let bytes = match peeked {
            // A proxy looks whether somebody listens here.
            Ok((_, 0)) => return Next::Over,
            Ok((_, length)) => room.get(..length).unwrap_or_default(),
            Err(Errno::AGAIN) => return self.wait_for_header(environment),
            // The peer is gone.
            Err(_) => return Next::Over,
        };
        match proxy_protocol::read(bytes) {
            Ok(HeaderProgress::Incomplete) if self.client.ended => {
                self.refuse("the connection ended within its PROXY protocol header")
            }
            Ok(HeaderProgress::Incomplete) => self.wait_for_header(environment),
            Ok(HeaderProgress::Complete { length, says }) => {
                let header = room.get_mut(..length).unwrap_or_default();
                match rustix::net::recv(&self.client.socket, header, RecvFlags::empty()) {
                    Ok((_, taken)) if taken == length => self.announced(says, environment),
                    // It was there a moment ago, and nobody else reads from the socket.
                    _ => self.refuse("the PROXY protocol header can't be read"),
                }
            }
            Err(error) => self.refuse(error),
        }
    }

    /// The header has not come in time.
    pub(super) fn miss_header(&mut self) -> Next {
        self.refuse("no PROXY protocol header came in time")
    }

    /// Whether its requests are carried by the engine.
    pub(in crate::engine) fn is_of_http1(&self) -> bool {
        self.port.route().app == AppProtocol::Http
    }

    /// A connection that is carried by request.
    pub(in crate::engine) fn into_http(self, poll: &Epoll) -> Option<HttpConnection> {
        let Stage::Header(HeaderWait { hops, .. }) = self.stage else {
            return None;
        };
        if self.client.watched {
            // It has another token then.
            poll.remove(&self.client.socket);
        }
        let connection = HttpConnection::new(
            self.client.socket,
            self.origin,
            self.listen,
            hops,
            self.port,
            self.permit,
        );
        Some(connection)
    }

    /// An HTTP connection, for the tasks of the worker.
    pub(in crate::engine) fn into_task(
        self,
        open: TaskTrackerToken,
    ) -> Option<(OwnedFd, Permit, TaskKind)> {
        let Stage::Header(HeaderWait { hops, .. }) = self.stage else {
            return None;
        };
        let task = TaskKind::Http {
            origin: self.origin,
            listen: self.listen,
            hops,
            port: self.port,
            first: Vec::new(),
            open,
        };
        Some((self.client.socket, self.permit, task))
    }

    /// More bytes have to come, within the time that one timer gives for all of them.
    fn wait_for_header(&mut self, environment: &Environment<'_>) -> Next {
        if self.client.watched {
            return Next::Stay;
        }
        match self.watch_client(environment) {
            Ok(()) => Next::Wait(Timer::ProxyHeader),
            Err(error) => self.fail(&error),
        }
    }

    /// Goes on with the client that the header announces, where that one is let in.
    fn announced(&mut self, says: ProxyHeaderSays, environment: &mut Environment<'_>) -> Next {
        let Stage::Header(HeaderWait { kind, hops }) = self.stage else {
            return Next::Stay;
        };
        if let ProxyHeaderSays::Client(client) = says {
            self.origin = ClientOrigin::announced(client);
        }
        let route = self.port.route();
        let clock = &environment.shared.clock;
        let client = self.origin.ip();
        let admitted = self.port.admit(&route, kind, client, clock);
        // The kernel knows the peer alone, and not whom it announces.
        let entered = admitted.and_then(|()| self.port.enter(&route, client, None, clock));
        if let Err(why) = entered {
            self.log(why.as_str());
            socket::reset_on_close(&self.client.socket);
            return Next::Over;
        }
        if let Some(version) = route.options.proxy_protocol
            && route.app == AppProtocol::Opaque
        {
            self.tell_endpoint(version);
        }
        match route.app {
            AppProtocol::Opaque => {
                self.stage = Stage::Dialling(Box::new(Dial::new(hops)));
                self.dial(environment)
            }
            AppProtocol::Http | AppProtocol::H2c => Next::Hand,
        }
    }

    fn refuse(&mut self, why: impl Display) -> Next {
        self.port.counters.reject(Rejection::ProxyProtocol);
        self.log(why);
        socket::reset_on_close(&self.client.socket);
        Next::Over
    }
}
