//! Flags that say what holds for ports whose Services do not say otherwise.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use fairway_config::port_limits::{ConnectionRate, LimitsInForce};

use super::time::duration;

/// Limits of each port, unless an annotation of its Service says otherwise.
#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArgs {
    /// TCP connections that one client may have at a port at a time, unless the Service says otherwise. A client is an
    /// IPv4 address or a /64 of IPv6 [default: any number]
    #[arg(long, env = "FAIRWAY_CONNECTIONS_PER_CLIENT", value_name = "N")]
    pub(crate) connections_per_client: Option<NonZeroU32>,
    /// New TCP connections that one client may make at a port in a second, and at once where it was quiet:
    /// N or 'N;burst=M', unless the Service says otherwise [default: any number]
    #[arg(long, env = "FAIRWAY_NEW_CONNECTIONS_PER_SECOND", value_name = "RATE")]
    pub(crate) new_connections_per_second: Option<ConnectionRate>,
    /// UDP flows that one client may have at a port at a time, unless the Service says otherwise [default: any number]
    #[arg(long, env = "FAIRWAY_UDP_FLOWS_PER_CLIENT", value_name = "N")]
    pub(crate) udp_flows_per_client: Option<NonZeroU32>,
    /// UDP flows that a port may have at a time, unless the Service says otherwise [default: any number]
    #[arg(long, env = "FAIRWAY_UDP_FLOWS_PER_PORT", value_name = "N")]
    pub(crate) udp_flows_per_port: Option<NonZeroU32>,
    /// How long a TCP connection may be without a byte either way, unless the Service says otherwise; 0 for any time
    #[arg(long, env = "FAIRWAY_IDLE_TIMEOUT", value_name = "TIME", default_value = "0",
          value_parser = duration, hide_default_value = true)]
    pub(crate) idle_timeout: Duration,
    /// How long a UDP flow lives without a datagram, unless the Service says otherwise [default: 30s, and 2m once its
    /// endpoint has answered]
    #[arg(long, env = "FAIRWAY_UDP_IDLE_TIMEOUT", value_name = "TIME", default_value = "0",
          value_parser = duration, hide_default_value = true)]
    pub(crate) udp_idle_timeout: Duration,
    /// How long a client or an endpoint may take none of the bytes that wait for it, before the connection is reset;
    /// 0 for any time
    #[arg(long, env = "FAIRWAY_READER_TIMEOUT", value_name = "TIME", default_value = "5m",
          value_parser = duration)]
    pub(crate) reader_timeout: Duration,
}

impl LimitArgs {
    /// The limits of TCP ports and those of UDP ports.
    pub(crate) fn defaults(&self) -> [LimitsInForce; 2] {
        let tcp = LimitsInForce {
            per_client: self.connections_per_client,
            rate: self.new_connections_per_second,
            flows: None,
            idle: set(self.idle_timeout),
        };
        let udp = LimitsInForce {
            per_client: self.udp_flows_per_client,
            rate: None,
            flows: self.udp_flows_per_port,
            idle: set(self.udp_idle_timeout),
        };
        [tcp, udp]
    }

    /// None: for any time.
    pub(crate) fn reader_timeout(&self) -> Option<Duration> {
        set(self.reader_timeout)
    }
}

/// The time, if one is set.
fn set(time: Duration) -> Option<Duration> {
    (time > Duration::ZERO).then_some(time)
}
