//! Opens listeners: makes their address local, binds their sockets, and gives one to each worker.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::ClaimKind;
use fairway_config::net::Protocol;
use socket2::SockFilter;

use crate::binding::Binding;
use crate::descriptors::{Descriptors, Permit};
use crate::engine::{Listening, Receiving, Steered, WorkerCommand};
use crate::inherited::Inherited;
use crate::local::LocalRoutes;
use crate::slot::{BindKey, Slot, Target};
use crate::socket::{self, BindError, Sockets};
use crate::steering::refusals::{NewRefusals, Refusals};
use crate::steering::{self, Steering, WhenClosed};
use crate::worker::WorkerThreads;

/// [`socket::bind`], or what a test uses in its place.
pub(super) type Bind =
    Box<dyn Fn(BindKey, &[SockFilter], usize, bool) -> Result<Sockets, BindError> + Send + Sync>;

/// Opens listeners.
pub(crate) struct Opener {
    pub(super) workers: Vec<WorkerThreads>,
    pub(super) routes: LocalRoutes,
    descriptors: Arc<Descriptors>,
    bind: Bind,
    /// The number of the last listener's sockets.
    number: u32,
    /// The permits of the sockets where steered connections arrive.
    arrivals: Vec<Permit>,
    /// The steering of connections, where the process may use it.
    steering: Option<Arc<Steering>>,
    /// The addresses that the kernel refuses, where it steers.
    refusals: Option<Arc<Refusals>>,
    /// How long a client may take none of the bytes that wait for it.
    reader_timeout: Option<Duration>,
    /// What another process has handed over; none where this one takes nothing over.
    inherited: Option<Inherited>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener")
            .field("workers", &self.workers)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

impl Opener {
    /// Opens listeners of these workers, by [`socket::bind`].
    pub(crate) fn new(
        workers: Vec<WorkerThreads>,
        descriptors: Arc<Descriptors>,
        routes: LocalRoutes,
    ) -> Self {
        Self::with(Box::new(socket::bind), workers, descriptors, routes)
    }

    /// The same with another function that binds sockets.
    pub(super) fn with(
        bind: Bind,
        workers: Vec<WorkerThreads>,
        descriptors: Arc<Descriptors>,
        routes: LocalRoutes,
    ) -> Self {
        Self {
            workers,
            routes,
            descriptors,
            bind,
            number: 0,
            arrivals: Vec::new(),
            steering: None,
            refusals: None,
            reader_timeout: None,
            inherited: None,
        }
    }

    /// Opens listeners with the sockets that another process has handed over.
    pub(crate) fn inherit(&mut self, inherited: Option<Inherited>) {
        self.inherited = inherited;
    }

    /// All listeners of the start stand: closes what nobody requests of what was handed over. `wanted`: the bind keys
    /// that are requested.
    pub(super) fn leave_rest(&mut self, wanted: impl Iterator<Item = BindKey>) {
        if self.inherited.take().is_some()
            && let Some(steering) = &self.steering
        {
            steering.retain(wanted);
        }
    }

    /// The same. A client may take none of the bytes that wait for it for that long; none: for any time.
    pub(crate) fn with_reader_timeout(mut self, time: Option<Duration>) -> Self {
        self.reader_timeout = time;
        self
    }

    /// Has the kernel steer connections to external addresses, where the process may. Then these need no sockets
    /// of their own.
    pub(crate) fn steer(&mut self) {
        let (workers, total) = (self.workers.len(), self.descriptors.total());
        if let Some(inherited) = &mut self.inherited {
            let Some((steering, arrivals)) = inherited.take_steering(workers) else {
                // A program of this process would take connections away that wait at the other's sockets.
                return tracing::info!("there is no steering of the former process to take over");
            };
            let kinds = arrivals.keys().max().map_or(0, |kind| kind + 1);
            return match self.arrive_at(arrivals) {
                Ok(()) => self.set_steering(Steering::inherit(steering, kinds)),
                Err(error) => tracing::error!(%error, "the steering can't be taken over"),
            };
        }
        let steering = Steering::open(workers, total).and_then(|steering| {
            for kind in steering.kinds() {
                // A host may have no IPv6.
                match self.arrive(&steering, kind) {
                    Err(_) if steering::is_ipv6(kind) => {}
                    other => other?,
                }
            }
            Ok(steering)
        });
        match steering {
            Ok(steering) => {
                tracing::info!("connections to external addresses are steered by the kernel");
                self.set_steering(steering);
            }
            Err(error) => tracing::info!(
                %error,
                "each external address and port has sockets of its own; with CAP_BPF and \
                 CAP_NET_ADMIN the kernel could steer them (Linux 5.9 or later)"
            ),
        }
    }

    fn set_steering(&mut self, steering: Steering) {
        let steering = Arc::new(steering);
        self.refusals = Some(Arc::new(Refusals::new(steering.clone())));
        self.steering = Some(steering);
    }

    /// Opens the sockets where steered connections arrive.
    fn arrive(&mut self, steering: &Steering, kind: u32) -> io::Result<()> {
        let sockets = socket::group(steering::at(kind), self.workers.len())?;
        if let Some(first) = sockets.first() {
            steering.arrive(kind, first)?;
        }
        self.arrive_at([(kind, sockets)])
    }

    /// Steered connections arrive at these sockets, of each kind one for each worker.
    fn arrive_at(
        &mut self,
        all: impl IntoIterator<Item = (u32, Vec<TcpListener>)>,
    ) -> io::Result<()> {
        for (kind, sockets) in all {
            self.arrive_at_kind(kind, sockets)?;
        }
        Ok(())
    }

    fn arrive_at_kind(&mut self, kind: u32, sockets: Vec<TcpListener>) -> io::Result<()> {
        let count = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        let permit = self.descriptors.take(None, count);
        self.arrivals.push(permit.ok_or(rustix::io::Errno::MFILE)?);
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        for (worker, socket) in self.workers.iter().zip(sockets) {
            socket::set_reader_timeout(&socket, self.reader_timeout);
            worker.mailbox().register_tcp(&socket, number)?;
            let listening = Listening {
                socket,
                slot: None,
                arrival: Some(kind),
                _token: None,
            };
            let command = WorkerCommand::Listen(number, Box::new(listening));
            worker.mailbox().send(command);
        }
        Ok(())
    }

    /// Begins to steer the connections to a listener.
    async fn steered(
        &mut self,
        place: BindKey,
        target: &Target,
        slot: &Arc<Slot>,
        steering: Arc<Steering>,
        refusals: Arc<Refusals>,
    ) -> Result<Binding, BindError> {
        self.ensure_local(place, target).await?;
        if !self.routes.is_ours(place.listen.0.ip()) {
            // An address of the host's own: a program of the host that listens there keeps the port.
            socket::probe(place)?;
        }
        let permit = self
            .descriptors
            .take(None, 0)
            .ok_or(BindError::OutOfFiles)?;
        let binding = Binding::new(target.hop_filter(), permit);
        let mailboxes = self.workers.iter().map(|worker| worker.mailbox().clone());
        let mailboxes = mailboxes.collect();
        let closed = (refusals.clone(), self.when_closed(place));
        binding.steered(place.listen, slot.clone(), closed, mailboxes);
        // The workers have to know the listener before connections come.
        for worker in &self.workers {
            let steered = Steered {
                slot: slot.clone(),
                _token: binding.token(),
            };
            worker
                .mailbox()
                .send(WorkerCommand::Steer(Box::new(steered)));
        }
        count_if_free(place, refusals.end(place));
        if let Err(error) = steering.steer(place.listen) {
            binding.close();
            return Err(BindError::of(place, &error));
        }
        Ok(binding)
    }

    /// The addresses that the kernel refuses, where it steers.
    pub(crate) fn refusals(&self) -> Option<&Arc<Refusals>> {
        self.refusals.as_ref()
    }

    /// What the kernel is to do with the clients of a listener without endpoint. Where the address is ours alone a
    /// program of the host that listens on all addresses must not answer. At an address of the host's own the
    /// host's programs come first.
    pub(super) fn when_closed(&self, place: BindKey) -> WhenClosed {
        if self.routes.is_ours(place.listen.0.ip()) {
            WhenClosed::Refuse
        } else {
            WhenClosed::Count
        }
    }

    /// Has the kernel count the clients of a listener without endpoint, and refuse them.
    pub(super) fn refuse(&self, place: BindKey, slot: &Arc<Slot>) {
        if let Some(refusals) = &self.refusals {
            refusals.refuse(place, slot, self.when_closed(place));
        }
    }

    /// The listener of this bind key passes to another port of a Service: collects who was refused so far.
    pub(super) fn collect_refused(&self, place: BindKey) {
        if let Some(refusals) = &self.refusals {
            count_if_free(place, refusals.collect_at(place));
        }
    }

    /// A bind key has passed to another port: the kernel refuses no clients of the one before there.
    pub(super) fn disown(&self, place: BindKey) {
        if let Some(refusals) = &self.refusals {
            refusals.blocks().disown(place.listen);
        }
    }

    /// Takes a bind key out of the steering: nobody claims it any more, or it has sockets of its own.
    pub(super) fn release(&self, place: BindKey) {
        if let (Some(steering), Some(refusals)) = (&self.steering, &self.refusals) {
            count_if_free(place, refusals.end(place));
            steering.release(place);
        }
    }

    /// Ends the count of a listener that is about to have sockets of its own: who comes to them is not refused.
    /// Returned are clients who were refused if the port turns out to be free.
    fn end_count(&self, place: BindKey) -> Option<NewRefusals> {
        if self.when_closed(place) == WhenClosed::Refuse {
            return None;
        }
        let (steering, refusals) = self.steering.as_ref().zip(self.refusals.as_ref())?;
        let refused = refusals.end(place);
        steering.release(place);
        refused
    }

    /// Makes a VIP local, if it is not.
    ///
    /// # Errors
    /// It can't be made local.
    pub(super) async fn ensure_local(
        &mut self,
        place: BindKey,
        target: &Target,
    ) -> Result<(), BindError> {
        let address = place.listen.0.ip();
        if target.kind() != ClaimKind::Vip
            || self.routes.is_ours(address)
            || self.routes.is_local(address).await == Some(true)
            || self.routes.add(address).await
        {
            return Ok(());
        }
        Err(BindError::AddressNotLocal(address))
    }

    /// Opens a listener for this target: it takes traffic from now on.
    ///
    /// # Errors
    /// Its sockets can't be opened, or its address can't be made local.
    pub(super) async fn bind(
        &mut self,
        place: BindKey,
        target: &Target,
        slot: &Arc<Slot>,
    ) -> Result<Binding, BindError> {
        if let (Some(steering), Some(refusals)) = (&self.steering, &self.refusals)
            && place.protocol == Protocol::Tcp
            && target.kind() == ClaimKind::Vip
        {
            let (steering, refusals) = (steering.clone(), refusals.clone());
            return self.steered(place, target, slot, steering, refusals).await;
        }
        let address = place.listen.0.ip();
        let count = match target {
            Target::Port { .. } | Target::Relay(_) => self.workers.len(),
            Target::Health(_) => 1,
        };
        let permit = u32::try_from(count)
            .ok()
            .and_then(|count| self.descriptors.take(None, count))
            .ok_or(BindError::OutOfFiles)?;
        let hop_filter = target.hop_filter();
        let filter = hop_filter.filter(address.is_ipv4());
        // In IPv6, bind(2) needs an address of an interface; a local route is not enough without IPV6_FREEBIND.
        let routed = address.is_ipv6() && self.routes.is_ours(address);
        let refused = self.end_count(place);
        let inherited = self.inherited.as_mut();
        let inherited = inherited.and_then(|it| it.take(place, count, hop_filter));
        let bound = match inherited {
            Some(sockets) => Ok(sockets),
            None => (self.bind)(place, &filter, count, routed),
        };
        let sockets = match bound {
            Err(BindError::AddressNotLocal(_)) if target.kind() == ClaimKind::Vip => {
                self.ensure_local(place, target).await?;
                (self.bind)(place, &filter, count, true)?
            }
            other => other?,
        };
        if let Some(refused) = refused {
            refused.count();
        }
        let fail = |error| BindError::of(place, &error);
        let binding = Binding::new(hop_filter, permit);
        // It wraps around after four thousand million listeners: the first are long gone by then.
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        match sockets {
            Sockets::Tcp(listeners) => {
                let workers = || self.workers.iter().zip(&listeners);
                // All sockets are registered, or none.
                for (worker, listener) in workers() {
                    socket::set_reader_timeout(listener, self.reader_timeout);
                    worker
                        .mailbox()
                        .register_tcp(listener, number)
                        .map_err(fail)?;
                }
                let mailboxes = workers().map(|(worker, _)| worker.mailbox().clone());
                binding.served_by(number, mailboxes.collect());
                for (worker, socket) in self.workers.iter().zip(listeners) {
                    let listening = Listening {
                        socket,
                        slot: Some(slot.clone()),
                        arrival: None,
                        _token: Some(binding.token()),
                    };
                    worker
                        .mailbox()
                        .send(WorkerCommand::Listen(number, Box::new(listening)));
                }
            }
            Sockets::Udp(sockets) => {
                let sockets: Vec<OwnedFd> = sockets.into_iter().map(Into::into).collect();
                let workers = || self.workers.iter().zip(&sockets);
                for (worker, socket) in workers() {
                    worker
                        .mailbox()
                        .register_udp(socket, number)
                        .map_err(fail)?;
                }
                let mailboxes = workers().map(|(worker, _)| worker.mailbox().clone());
                binding.served_by(number, mailboxes.collect());
                for (worker, socket) in self.workers.iter().zip(sockets) {
                    let receiving = Receiving {
                        socket,
                        slot: slot.clone(),
                        token: binding.token(),
                    };
                    let command = WorkerCommand::Receive(number, Box::new(receiving));
                    worker.mailbox().send(command);
                }
            }
        }
        self.release(place);
        Ok(binding)
    }

    /// Ends the workers with all connections, and removes our routes if no other process has taken them over.
    pub(super) async fn end(mut self, keep_routes: bool) {
        // In this order: the last packets of the workers' sockets need the routes.
        for worker in self.workers {
            worker.stop();
        }
        if keep_routes {
            return;
        }
        for address in self.routes.ours() {
            self.routes.remove(address).await;
        }
    }
}

/// Adds clients to those that were refused, if no other process listens there.
fn count_if_free(place: BindKey, refused: Option<NewRefusals>) {
    if let Some(refused) = refused
        && socket::probe(place).is_ok()
    {
        refused.count();
    }
}
