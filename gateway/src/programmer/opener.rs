//! What brings a place up: its address made local, its sockets bound, and each given to a worker.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fairway_config::exchange::ClaimKind;
use fairway_config::net::Protocol;
use socket2::SockFilter;

use crate::binding::Binding;
use crate::descriptors::{Descriptors, Permit};
use crate::engine::{Listening, Receiving, Steered, WorkerCommand};
use crate::local::LocalRoutes;
use crate::slot::{BindKey, Slot, Target};
use crate::socket::{self, BindError, Sockets};
use crate::steering::refusals::Refusals;
use crate::steering::{self, Steering};
use crate::worker::WorkerThreads;

/// [`socket::bind`], or what a test has in its place.
pub(super) type Bind =
    Box<dyn Fn(BindKey, &[SockFilter], usize, bool) -> Result<Sockets, BindError> + Send + Sync>;

/// Brings places up.
pub(crate) struct Opener {
    pub(super) workers: Vec<WorkerThreads>,
    pub(super) routes: LocalRoutes,
    descriptors: Arc<Descriptors>,
    bind: Bind,
    /// The last number that the sockets of a place were given.
    number: u32,
    /// For the sockets where what is steered arrives.
    arrivals: Vec<Permit>,
    /// Where the kernel steers connections.
    steering: Option<Arc<Steering>>,
    /// What it refuses, where it steers.
    refusals: Option<Arc<Refusals>>,
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
    /// Sockets of these workers, by [`socket::bind`].
    pub(crate) fn new(
        workers: Vec<WorkerThreads>,
        descriptors: Arc<Descriptors>,
        routes: LocalRoutes,
    ) -> Self {
        Self::with(Box::new(socket::bind), workers, descriptors, routes)
    }

    /// Sockets of these workers, by another way to bind them.
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
        }
    }

    /// From now on connections to external addresses are steered, if that can be: then each of them
    /// needs no socket of its own.
    pub(crate) fn steer(&mut self) {
        let (workers, total) = (self.workers.len(), self.descriptors.total());
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
                let steering = Arc::new(steering);
                self.refusals = Some(Arc::new(Refusals::new(steering.clone())));
                self.steering = Some(steering);
            }
            Err(error) => tracing::info!(
                %error,
                "each external address and port has sockets of its own; with CAP_BPF and \
                 CAP_NET_ADMIN the kernel could steer them (Linux 5.9 or later)"
            ),
        }
    }

    /// Opens the sockets where what is steered arrives.
    fn arrive(&mut self, steering: &Steering, kind: u32) -> io::Result<()> {
        let count = u32::try_from(self.workers.len()).unwrap_or(u32::MAX);
        let permit = self.descriptors.take(None, count);
        self.arrivals.push(permit.ok_or(rustix::io::Errno::MFILE)?);
        let sockets = socket::group(steering::at(kind), self.workers.len())?;
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        if let Some(first) = sockets.first() {
            steering.arrive(kind, first)?;
        }
        for (worker, socket) in self.workers.iter().zip(sockets) {
            worker.mailbox().register_tcp(&socket, number)?;
            let listening = Listening {
                socket,
                slot: None,
                _part: None,
            };
            let command = WorkerCommand::Listen(number, Box::new(listening));
            worker.mailbox().send(command);
        }
        Ok(())
    }

    /// Has connections to a place steered.
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
            // The host's own address: what the host has there stays the host's.
            socket::probe(place)?;
        }
        let permit = self
            .descriptors
            .take(None, 0)
            .ok_or(BindError::OutOfFiles)?;
        let binding = Binding::new(target.hop_filter(), permit);
        let mailboxes = self.workers.iter().map(|worker| worker.mailbox().clone());
        let mailboxes = mailboxes.collect();
        binding.steered(place.listen, slot.clone(), refusals, mailboxes);
        // They know before anything comes.
        for worker in &self.workers {
            let steered = Steered {
                slot: slot.clone(),
                _part: binding.part(),
            };
            worker
                .mailbox()
                .send(WorkerCommand::Steer(Box::new(steered)));
        }
        self.end_refusal(place);
        if let Err(error) = steering.steer(place.listen) {
            binding.close();
            return Err(BindError::of(place, &error));
        }
        Ok(binding)
    }

    /// Whom the kernel refuses for us, where it steers.
    pub(crate) fn refusals(&self) -> Option<&Arc<Refusals>> {
        self.refusals.as_ref()
    }

    /// At an external address that is nobody's but ours nobody else is to get what comes.
    pub(super) fn refuse(&self, place: BindKey, slot: &Arc<Slot>) {
        if let Some(refusals) = &self.refusals
            && self.routes.is_ours(place.listen.0.ip())
        {
            refusals.refuse(place, slot);
        }
    }

    /// A place is not refused any more, if it was.
    fn end_refusal(&self, place: BindKey) {
        if let Some(refusals) = &self.refusals {
            refusals.end(place);
        }
    }

    /// A place is nobody's any more, or has sockets of its own.
    pub(super) fn release(&self, place: BindKey) {
        self.end_refusal(place);
        if let Some(steering) = &self.steering {
            steering.release(place);
        }
    }

    /// Makes a VIP local that isn't.
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

    /// Binds a place that serves this: it takes traffic from now on.
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
            Target::Port { .. } => self.workers.len(),
            Target::Health(_) => 1,
        };
        let permit = u32::try_from(count)
            .ok()
            .and_then(|count| self.descriptors.take(None, count))
            .ok_or(BindError::OutOfFiles)?;
        let hop_filter = target.hop_filter();
        let filter = hop_filter.filter(address.is_ipv4());
        // A VIP that only a route makes local is not enough for IPv6's bind(2).
        let routed = address.is_ipv6() && self.routes.is_ours(address);
        let sockets = match (self.bind)(place, &filter, count, routed) {
            Err(BindError::AddressNotLocal(_)) if target.kind() == ClaimKind::Vip => {
                self.ensure_local(place, target).await?;
                (self.bind)(place, &filter, count, true)?
            }
            other => other?,
        };
        let fail = |error| BindError::of(place, &error);
        let binding = Binding::new(hop_filter, permit);
        // Four thousand million changes of listeners later the first are long gone.
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        match sockets {
            Sockets::Tcp(listeners) => {
                let workers = || self.workers.iter().zip(&listeners);
                // All stand, or none.
                for (worker, listener) in workers() {
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
                        _part: Some(binding.part()),
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
                        part: binding.part(),
                    };
                    let command = WorkerCommand::Receive(number, Box::new(receiving));
                    worker.mailbox().send(command);
                }
            }
        }
        self.release(place);
        Ok(binding)
    }

    /// Ends the workers and what they still do, and removes our routes.
    pub(super) async fn end(mut self) {
        // In this order: what the workers' sockets say as they are closed needs the routes.
        for worker in self.workers {
            worker.stop();
        }
        for address in self.routes.ours() {
            self.routes.remove(address).await;
        }
    }
}
