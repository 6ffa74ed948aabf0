//! What this process has from the one that it takes over from (`take_over`): listening sockets and the steering.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use fairway_config::net::{ListenAddr, Protocol};

use crate::clock::Clock;
use crate::handed::OfferedSocket;
use crate::hops::HopFilter;
use crate::slot::BindKey;
use crate::socket::Sockets;
use crate::steering::inherited::InheritedSteering;

/// Listening sockets and the steering of another process.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: BTreeMap<BindKey, Vec<(OfferedSocket, OwnedFd)>>,
    arrivals: BTreeMap<u32, Vec<(u32, OwnedFd)>>,
    steering: Option<InheritedSteering>,
    /// The clock that the other process remembers clients and endpoints by.
    pub(crate) clock: Option<Clock>,
    /// The interfaces that the other process announces on.
    pub(crate) interfaces: Vec<String>,
}

impl Inherited {
    /// Adds a listening socket.
    pub(crate) fn add(&mut self, says: OfferedSocket, socket: OwnedFd) {
        if let Some(kind) = says.arrival {
            let arrivals = self.arrivals.entry(kind).or_default();
            return arrivals.push((says.worker, socket));
        }
        let place = BindKey {
            listen: ListenAddr(says.listen),
            protocol: says.protocol,
        };
        self.sockets.entry(place).or_default().push((says, socket));
    }

    /// Sets the steering.
    pub(crate) fn set_steering(&mut self, steering: Option<InheritedSteering>) {
        self.steering = steering;
    }

    /// Takes the steering, with the sockets where steered connections arrive: of each kind one for each of `workers`.
    pub(crate) fn take_steering(
        &mut self,
        workers: usize,
    ) -> Option<(InheritedSteering, BTreeMap<u32, Vec<TcpListener>>)> {
        let steering = self.steering.take()?;
        let arrivals = std::mem::take(&mut self.arrivals).into_iter();
        let arrivals = arrivals.map(|(kind, mut sockets)| {
            sockets.sort_by_key(|(worker, _)| *worker);
            let sockets = sockets.into_iter().map(|(_, socket)| socket.into());
            (kind, sockets.collect::<Vec<TcpListener>>())
        });
        let arrivals: BTreeMap<_, _> = arrivals.collect();
        let is_whole = !arrivals.is_empty() && arrivals.values().all(|it| it.len() == workers);
        is_whole.then_some((steering, arrivals))
    }

    /// Takes the sockets of a bind key, in the order of workers, where there are so many of them and they have that
    /// filter. Else they are closed: the process needs others.
    pub(crate) fn take(
        &mut self,
        place: BindKey,
        count: usize,
        filter: HopFilter,
    ) -> Option<Sockets> {
        let mut sockets = self.sockets.remove(&place)?;
        let drops_forwarded = filter == HopFilter::DropForwarded;
        let fits = sockets
            .iter()
            .all(|(says, _)| says.drops_forwarded == drops_forwarded);
        if sockets.len() != count || !fits {
            return None;
        }
        sockets.sort_by_key(|(says, _)| says.worker);
        let sockets = sockets.into_iter().map(|(_, socket)| socket);
        match place.protocol {
            Protocol::Tcp => Some(Sockets::Tcp(sockets.map(TcpListener::from).collect())),
            Protocol::Udp => Some(Sockets::Udp(sockets.map(UdpSocket::from).collect())),
            Protocol::Sctp => None,
        }
    }
}
