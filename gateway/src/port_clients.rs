//! The clients of one port: how much of it each has, and who was refused lately.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_config::net::Protocol;
use fairway_config::port_limits::LimitsInForce;
use fairway_gateway_core::client_network::ClientNetwork;
use fairway_gateway_core::client_room::ClientRoom;
use fairway_gateway_core::limits::recent::RecentEvents;
use fairway_gateway_core::limits::{ClientLimits, OverLimit, QUIET_ROOM};
use fairway_gateway_core::route::Tick;

use crate::counters::Rejection;
use crate::kernel_blocks::KernelBlocks;
use crate::refusal_log::{QuietUntil, RefusalLog};

/// What a port knows of its clients. It stays while the port is there, whatever route it has.
#[derive(Debug)]
pub(crate) struct PortClients {
    limits: ClientLimits,
    /// Who has to hear that a client may come again.
    blocks: Option<Arc<dyn KernelBlocks>>,
    refused: Mutex<RefusedLately>,
    log: Arc<RefusalLog>,
}

/// What was refused lately, in memory that is taken with the first refusal.
#[derive(Debug, Default)]
struct RefusedLately {
    recent: Option<Box<RecentEvents<{ Rejection::ALL.len() }>>>,
    quiet: QuietUntil,
}

/// A client's connection or flow, as long as it counts.
#[derive(Debug)]
pub(crate) struct CountedClient {
    clients: Arc<PortClients>,
    port: u32,
    client: ClientNetwork,
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        if self.clients.limits.leave(self.client)
            && let Some(blocks) = &self.clients.blocks
        {
            blocks.unblock(self.port, self.client);
        }
    }
}

impl PortClients {
    /// Without clients. The seed keeps clients from choosing addresses that meet in one bucket.
    pub(crate) fn new(seed: u64) -> Self {
        let room = Arc::new(ClientRoom::new(QUIET_ROOM));
        Self::within(seed, room, None, Arc::default())
    }

    /// The same. Room and log are those of all ports, and `blocks` is told that a client may come again.
    pub(crate) fn within(
        seed: u64,
        room: Arc<ClientRoom>,
        blocks: Option<Arc<dyn KernelBlocks>>,
        log: Arc<RefusalLog>,
    ) -> Self {
        Self {
            limits: ClientLimits::new(seed, room),
            blocks,
            refused: Mutex::default(),
            log,
        }
    }

    /// Counts one more connection, or flow, of a client of the port of that number. Where the client is over a limit,
    /// `refuse` is called before any of its connections can end; whether it has told the kernel.
    ///
    /// # Errors
    /// The limit that the client is over; not counted yet.
    pub(crate) fn enter(
        self: &Arc<Self>,
        (port, protocol): (u32, Protocol),
        limits: &LimitsInForce,
        client: IpAddr,
        now: Tick,
        refuse: impl FnOnce(ClientNetwork, OverLimit) -> bool,
    ) -> Result<CountedClient, Rejection> {
        let client = ClientNetwork::of(client);
        let refuse = |over| refuse(client, over);
        match self.limits.enter(client, limits, now, refuse) {
            Ok(()) => Ok(CountedClient {
                clients: self.clone(),
                port,
                client,
            }),
            Err(OverLimit::Connections) if protocol == Protocol::Udp => {
                Err(Rejection::FlowsPerClient)
            }
            Err(OverLimit::Connections) => Err(Rejection::ConnectionsPerClient),
            Err(OverLimit::Rate(_)) => Err(Rejection::ConnectionRate),
        }
    }

    /// How much each has.
    pub(crate) fn limits(&self) -> &ClientLimits {
        &self.limits
    }

    /// Notes that clients were refused. The log, where that is to be said there.
    pub(crate) fn note_refused(
        &self,
        why: Rejection,
        count: u64,
        now: Tick,
    ) -> Option<&RefusalLog> {
        let mut refused = self.lock();
        let recent = refused.recent.get_or_insert_default();
        recent.add(why as usize, count, now);
        let is_said = why.is_of_limit() && refused.quiet.is_over(now);
        is_said.then_some(&*self.log)
    }

    /// Who was refused in the last minute, by reason.
    pub(crate) fn refused_lately(&self, now: Tick) -> Vec<(Rejection, u64)> {
        let refused = self.lock();
        let Some(recent) = &refused.recent else {
            return Vec::new();
        };
        let counts = recent.last_minute(now);
        let all = Rejection::ALL.into_iter().zip(counts);
        all.filter(|(_, count)| *count > 0).collect()
    }

    /// Forgets the clients that no limit needs to know any more.
    pub(crate) fn expire(&self, limits: &LimitsInForce, now: Tick) {
        self.limits.expire(now, limits.rate);
    }

    fn lock(&self) -> MutexGuard<'_, RefusedLately> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
