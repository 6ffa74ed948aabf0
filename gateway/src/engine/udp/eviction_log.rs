//! What the log says when there is no room for a flow.

use fairway_config::names::ServiceName;
use fairway_gateway_core::route::Tick;

/// It is said once in this time at most, in milliseconds.
const QUIET: u64 = 10_000;

/// What there is no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowBound {
    /// Flows: the limit of all.
    Flows,
    /// File descriptors of the process, or of the share of a port or a namespace.
    Descriptors,
    /// Ports of the host.
    HostPorts,
    /// The flows that this port of a Service may have.
    Port,
}

impl FlowBound {
    /// What an operator can raise.
    fn setting(self) -> &'static str {
        match self {
            Self::Flows => "--udp-flows",
            Self::Descriptors => "the limit of open files (LimitNOFILE, ulimit -Hn)",
            Self::HostPorts => "net.ipv4.ip_local_port_range",
            Self::Port => "the Service's fairway.dev/udp-flows, or --udp-flows-per-port",
        }
    }
}

/// Says now and then that flows are evicted, and why.
#[derive(Debug, Default)]
pub(super) struct EvictionLog {
    /// When it may be said next.
    next: Tick,
    /// How often there was no room since it was said last.
    unsaid: u64,
}

impl EvictionLog {
    /// There was no room for a flow of a Service: one was evicted for it, or it was not opened.
    pub(super) fn evicted(&mut self, service: &ServiceName, bound: FlowBound, now: Tick) {
        self.unsaid += 1;
        if now < self.next {
            return;
        }
        tracing::warn!(
            %service,
            flows = self.unsaid,
            raise = bound.setting(),
            "no room for more UDP flows: old ones are evicted, those of the largest namespace and Service \
             first"
        );
        *self = Self {
            next: Tick(now.0 + QUIET),
            unsaid: 0,
        };
    }
}
