//! The count of open client connections, by port and by slot.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use fairway_gateway_core::limits::OverLimit;
use fairway_gateway_core::route::RoutePort;

use crate::clock::Clock;
use crate::counters::Rejection;
use crate::port::Port;
use crate::port_clients::CountedClient;
use crate::slot::Slot;
use crate::steering::blocks::ClientBlocks;

/// Counts as an open connection of a port, and of the slot where it came in, from the accept until the socket is
/// closed.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    port: Arc<Port>,
    slot: Arc<Slot>,
    /// Counts for its client, where the port has a limit.
    counted: Option<CountedClient>,
}

/// The longest time that the kernel refuses a client by itself. It is told when the client has a connection less; if it
/// did not hear that, the client would be let in after this.
const LONGEST: Duration = Duration::from_secs(1);

impl OpenConnection {
    /// Counts one more connection.
    pub(crate) fn new(port: Arc<Port>, slot: Arc<Slot>) -> Self {
        port.counters.active.increment();
        slot.active.increment();
        Self {
            port,
            slot,
            counted: None,
        }
    }

    /// Counts a connection that another process has handed over.
    pub(crate) fn taken(port: Arc<Port>, slot: Arc<Slot>, client: IpAddr, clock: &Clock) -> Self {
        // Its series are shown: it is traffic that this process has.
        port.counters.touch();
        let mut taken = Self::new(port, slot);
        let route = taken.port.route();
        let counted = taken.port.take_in(&route, client, clock.now());
        drop(route);
        taken.counted = counted;
        taken
    }

    /// Counts it for its client, where the port has a limit. Where the kernel has steered it here and its peer is the
    /// client (`blocks`), the kernel refuses more by itself for a moment if the client is over the limit.
    ///
    /// # Errors
    /// The limit that the client is over; counted.
    pub(crate) fn enter(
        &mut self,
        route: &RoutePort,
        client: IpAddr,
        blocks: Option<&ClientBlocks>,
        clock: &Clock,
    ) -> Result<(), Rejection> {
        if !route.limits.counts_clients() {
            return Ok(());
        }
        let now = clock.now();
        let (port, slot) = (&self.port, &self.slot);
        let counted = port.enter(route, client, now, |client, over| {
            let (why, time) = match over {
                OverLimit::Connections => (Rejection::ConnectionsPerClient, LONGEST),
                OverLimit::Rate(wait) => (Rejection::ConnectionRate, wait.min(LONGEST)),
            };
            blocks.is_some_and(|blocks| blocks.block(slot, port, client, why, time))
        });
        let counted = counted.inspect_err(|why| self.port.refuse_many(*why, 1, now));
        self.counted = Some(counted?);
        Ok(())
    }

    /// The number of the slot where it came in.
    pub(crate) fn slot_number(&self) -> u32 {
        self.slot.number
    }

    /// Whether the time to drain of its port or its slot is over.
    pub(crate) fn is_cut(&self) -> bool {
        self.port.cut.is_cancelled() || self.slot.cut.is_cancelled()
    }

    /// Waits until the time to drain of its port or its slot is over.
    pub(crate) async fn cut(&self) {
        tokio::select! {
            () = self.port.cut.cancelled() => {}
            () = self.slot.cut.cancelled() => {}
        }
    }
}

impl Deref for OpenConnection {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.port.counters.active.decrement();
        self.slot.active.decrement();
    }
}
