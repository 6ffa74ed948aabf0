//! What a gateway remembers of clients and endpoints, for the process that goes on for it: which endpoint a client was
//! given, how fast a client was, and which endpoints fail.
//!
//! Both processes have one clock, so times need no change. Entries are bytes of a fixed length, for there may be a million:
//! addresses have 16 bytes (IPv4 as in RFC 4291, section 2.5.5.2), numbers are in network byte order.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use fairway_config::net::EndpointAddr;
use fairway_gateway_core::client_network::ClientNetwork;
use fairway_gateway_core::health::HealthHistory;
use fairway_gateway_core::limits::TokenBucket;
use fairway_gateway_core::route::Tick;
use fairway_gateway_core::{affinity, limits};

use super::channel::{Channel, ChannelError};
use super::wire::HandoverMessage;
use crate::gateway::Gateway;
use crate::handed::{HandedHealth, HandedPort};

/// The most entries of one message.
const MOST: usize = 8192;
/// The same of endpoints, which are JSON.
const MOST_ENDPOINTS: usize = 256;

/// A client, its endpoint with the port, and when it was seen last.
const AFFINITY: usize = 16 + 16 + 2 + 8;
/// A client's number, what is missing in its bucket, and when that was so.
const BUCKET: usize = 8 + 8 + 8;

/// What has been told of memory so far, so that only news follow.
#[derive(Debug, Default)]
pub(super) struct ToldMemory {
    /// What is older was told.
    since: Tick,
    health: HashMap<(u32, EndpointAddr), HealthHistory>,
}

impl ToldMemory {
    /// Tells all that is remembered and was not told yet.
    pub(super) fn tell(
        &mut self,
        gateway: &Gateway,
        channel: &mut Channel,
    ) -> Result<(), ChannelError> {
        let (since, now) = (self.since, gateway.clock().now());
        for (service, port) in gateway.ports() {
            let of = HandedPort::new(&service, port.route().key);
            for part in 0..affinity::PARTS {
                let clients = port.affinity().part(part, since);
                let says = HandoverMessage::Affinity(of.clone());
                in_messages(channel, &says, clients.into_iter().map(write_affinity))?;
            }
            for part in 0..limits::PARTS {
                let mut buckets = port.client_limits().buckets(part);
                buckets.retain(|(_, bucket)| bucket.at >= since);
                let says = HandoverMessage::Buckets(of.clone());
                in_messages(channel, &says, buckets.into_iter().map(write_bucket))?;
            }
            let mut endpoints = Vec::new();
            for (endpoint, history) in port.health() {
                let place = (port.number, endpoint);
                // Of one that is not told the other process knows nothing.
                let told = self.health.get(&place);
                if told.map_or(history == HealthHistory::default(), |told| *told == history) {
                    continue;
                }
                // Numbers and text can always be written.
                endpoints.push(HandedHealth {
                    endpoint: endpoint.0,
                    history: serde_json::to_value(&history).unwrap_or_default(),
                });
                self.health.insert(place, history);
            }
            for some in endpoints.chunks(MOST_ENDPOINTS) {
                channel.say(&HandoverMessage::Health {
                    port: of.clone(),
                    endpoints: some.to_vec(),
                })?;
            }
        }
        // Workers may have read the clock a moment ago, and write what they have read.
        self.since = Tick(now.0.saturating_sub(OLD));
        Ok(())
    }
}

/// A worker writes the time that it read so many milliseconds ago at most.
const OLD: u64 = 100;

/// Sends entries, as many messages as they need.
fn in_messages<const N: usize>(
    channel: &mut Channel,
    says: &HandoverMessage,
    entries: impl Iterator<Item = [u8; N]>,
) -> Result<(), ChannelError> {
    let all: Vec<u8> = entries.flatten().collect();
    for bytes in all.chunks(N * MOST) {
        channel.send(says, false, bytes, &[])?;
    }
    Ok(())
}

/// Takes in which endpoints clients were given. A port that is not there any more has no memory.
pub(super) fn take_affinity(gateway: &Gateway, of: &HandedPort, bytes: &[u8]) {
    let Some(port) = gateway.port(&of.service(), of.key()) else {
        return;
    };
    let (entries, _) = bytes.as_chunks();
    for (client, endpoint, seen) in entries.iter().filter_map(read_affinity) {
        port.affinity().put(client, endpoint, seen);
    }
}

/// Takes in how fast clients were.
pub(super) fn take_buckets(gateway: &Gateway, of: &HandedPort, bytes: &[u8]) {
    let Some(port) = gateway.port(&of.service(), of.key()) else {
        return;
    };
    let (entries, _) = bytes.as_chunks();
    for (client, bucket) in entries.iter().filter_map(read_bucket) {
        port.client_limits().go_on(client, bucket);
    }
}

/// Takes in what is known of endpoints.
pub(super) fn take_health(gateway: &Gateway, of: &HandedPort, endpoints: Vec<HandedHealth>) {
    let Some(port) = gateway.port(&of.service(), of.key()) else {
        return;
    };
    for HandedHealth { endpoint, history } in endpoints {
        if let Ok(history) = serde_json::from_value(history) {
            port.go_on_with(EndpointAddr(endpoint), history);
        }
    }
}

fn write_affinity((client, endpoint, seen): (IpAddr, EndpointAddr, Tick)) -> [u8; AFFINITY] {
    let mut entry = [0; AFFINITY];
    let parts: [&[u8]; 4] = [
        &write_address(client),
        &write_address(endpoint.0.ip()),
        &endpoint.0.port().to_be_bytes(),
        &seen.0.to_be_bytes(),
    ];
    for (to, from) in entry.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    entry
}

fn read_affinity(entry: &[u8; AFFINITY]) -> Option<(IpAddr, EndpointAddr, Tick)> {
    let (client, rest) = entry.split_first_chunk()?;
    let (endpoint, rest) = rest.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let (seen, _) = rest.split_first_chunk()?;
    let endpoint = SocketAddr::new(read_address(*endpoint), u16::from_be_bytes(*port));
    let seen = Tick(u64::from_be_bytes(*seen));
    Some((read_address(*client), EndpointAddr(endpoint), seen))
}

fn write_bucket((client, bucket): (ClientNetwork, TokenBucket)) -> [u8; BUCKET] {
    let mut entry = [0; BUCKET];
    let parts = [client.number(), bucket.missing, bucket.at.0].map(u64::to_be_bytes);
    for (to, from) in entry.iter_mut().zip(parts.iter().flatten()) {
        *to = *from;
    }
    entry
}

fn read_bucket(entry: &[u8; BUCKET]) -> Option<(ClientNetwork, TokenBucket)> {
    let (client, rest) = entry.split_first_chunk()?;
    let (missing, rest) = rest.split_first_chunk()?;
    let (at, _) = rest.split_first_chunk()?;
    let bucket = TokenBucket {
        missing: u64::from_be_bytes(*missing),
        at: Tick(u64::from_be_bytes(*at)),
    };
    Some((
        ClientNetwork::of_number(u64::from_be_bytes(*client))?,
        bucket,
    ))
}

fn write_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn read_address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|it| IpAddr::from(it).to_canonical()),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_of_affinity_is_read_as_it_was_written(
            client in address(), endpoint in address(), port: u16, seen: u64,
        ) {
            let entry = (client, EndpointAddr((endpoint, port).into()), Tick(seen));
            prop_assert_eq!(read_affinity(&write_affinity(entry)), Some(entry));
        }

        #[test]
        fn a_bucket_is_read_as_it_was_written(client in address(), missing: u64, at: u64) {
            let bucket = TokenBucket { missing, at: Tick(at) };
            let entry = (ClientNetwork::of(client), bucket);
            prop_assert_eq!(read_bucket(&write_bucket(entry)), Some(entry));
        }
    }

    #[test]
    fn nobody_has_the_client_zero() {
        assert_eq!(read_bucket(&[0; BUCKET]), None);
    }
}
