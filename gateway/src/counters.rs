//! Counters of one port of a Service: what its metric series are made of.
//!
//! A port keeps its counters when its route changes, and loses them when the Service is removed. So a
//! series never starts again from 0 while its Service exists. The atomics are relaxed: a scrape may miss
//! the last few events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::way_back::AddressLoss;

/// Counter: dials that failed because this process or host had no port or file descriptor left.
pub const DIALS_EXHAUSTED: &str = "fairway_dials_exhausted_total";

/// A number that only increases.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that increases and decreases.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts one.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of `fairway_connect_duration_seconds`.
pub const CONNECT_BUCKETS: [Duration; 6] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_millis(2500),
];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; CONNECT_BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let bucket = CONNECT_BUCKETS.partition_point(|bound| *bound < took);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The count of each bucket (not yet cumulated), the last one without a bound, and the sum.
    pub fn get(&self) -> ([u64; CONNECT_BUCKETS.len() + 1], Duration) {
        let mut counts = [0; CONNECT_BUCKETS.len() + 1];
        for (count, bucket) in counts.iter_mut().zip(&self.buckets) {
            *count = bucket.load(Ordering::Relaxed);
        }
        (
            counts,
            Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        )
    }
}

/// Why a client was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// Its address is not in `loadBalancerSourceRanges`.
    SourceRange,
    /// Its address is in `fairway.dev/deny-source-ranges`.
    DenyRange,
    /// There is no endpoint.
    NoEndpoint,
    /// It is a node that this port forwards to: a loop.
    Loop,
    /// A limit of this process is reached: of UDP flows, or of file descriptors.
    Limit,
    /// It has as many connections as a client may have.
    ConnectionsPerClient,
    /// It makes new connections faster than a client may.
    ConnectionRate,
    /// It has as many UDP flows as a client may have.
    FlowsPerClient,
    /// A limit of the Service, or whom to keep out, can't be read.
    Unreadable,
    /// A peer that has to announce its client by a PROXY protocol header has sent none, or one that does not count; or
    /// what the Service says of such headers can't be read.
    ProxyProtocol,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::SourceRange,
        Self::DenyRange,
        Self::NoEndpoint,
        Self::Loop,
        Self::Limit,
        Self::ConnectionsPerClient,
        Self::ConnectionRate,
        Self::FlowsPerClient,
        Self::Unreadable,
        Self::ProxyProtocol,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SourceRange => "source_range",
            Self::DenyRange => "deny_range",
            Self::NoEndpoint => "no_endpoint",
            Self::Loop => "loop",
            Self::Limit => "limit",
            Self::ConnectionsPerClient => "connections_per_client",
            Self::ConnectionRate => "connection_rate",
            Self::FlowsPerClient => "flows_per_client",
            Self::Unreadable => "unreadable",
            Self::ProxyProtocol => "proxy_protocol",
        }
    }

    /// Whether it is for a limit of the Service.
    pub const fn is_of_limit(self) -> bool {
        match self {
            Self::ConnectionsPerClient | Self::ConnectionRate | Self::FlowsPerClient => true,
            Self::SourceRange
            | Self::DenyRange
            | Self::NoEndpoint
            | Self::Loop
            | Self::Limit
            | Self::ProxyProtocol
            | Self::Unreadable => false,
        }
    }
}

/// Why a connection was ended for what did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionTimeout {
    /// There was no byte either way for as long as the port allows.
    Idle,
    /// The client took none of the bytes that waited for it, or did not answer the kernel.
    Client,
    /// The endpoint did so.
    Endpoint,
}

impl ConnectionTimeout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Idle, Self::Client, Self::Endpoint];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Client => "client",
            Self::Endpoint => "endpoint",
        }
    }
}

/// Why a datagram was dropped that was taken from a client or an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// The queue of the socket that was to send it was full.
    QueueFull,
    /// It is too long for the path.
    TooLong,
    /// The endpoint refused it, and no other one was left to try.
    Refused,
    /// There is no route to its destination.
    Unreachable,
    /// Anything else.
    Other,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::QueueFull,
        Self::TooLong,
        Self::Refused,
        Self::Unreachable,
        Self::Other,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLong => "too_long",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }

    /// The class of an error of `sendmsg(2)`.
    pub fn of(error: &std::io::Error) -> Self {
        use rustix::io::Errno;
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN | Errno::NOBUFS) => Self::QueueFull,
            Some(Errno::MSGSIZE) => Self::TooLong,
            Some(Errno::CONNREFUSED) => Self::Refused,
            Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// What is counted for one port of a Service.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that reached an endpoint and ended well, and UDP flows that began.
    pub completed: Counter,
    /// Connections that reached no endpoint, or were cut.
    pub failed: Counter,
    /// Connections open now.
    pub active: Gauge,
    /// UDP flows now.
    pub flows: Gauge,
    /// UDP flows that were evicted for others before they had timed out.
    pub flows_evicted: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub transmitted: Counter,
    /// Datagrams from clients.
    pub datagrams_received: Counter,
    /// Datagrams to clients.
    pub datagrams_transmitted: Counter,
    /// How long dials of endpoints took, those that failed included.
    pub connect: Histogram,
    datagrams_dropped: [Counter; DropReason::ALL.len()],
    rejected: [Counter; Rejection::ALL.len()],
    timeouts: [Counter; ConnectionTimeout::ALL.len()],
    connect_errors: [Counter; DialFailure::ALL.len()],
    responses: [Counter; RESPONSE_CLASSES.len()],
    lost_addresses: [Counter; AddressLoss::ALL.len()],
    touched: AtomicBool,
}

/// The classes of `fairway_http_requests_total`: the first digit of the status that the client
/// got, `none` where it went away before.
pub const RESPONSE_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Counters {
    /// Marks that there was traffic: from then on the port has the series of traffic.
    pub fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there was any traffic.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// A client was rejected.
    pub fn reject(&self, why: Rejection) {
        self.reject_many(why, 1);
    }

    /// That many clients were rejected.
    pub fn reject_many(&self, why: Rejection, clients: u64) {
        self.touch();
        if let Some(counter) = self.rejected.get(why as usize) {
            counter.add(clients);
        }
    }

    /// Rejected clients by reason.
    pub fn rejected(&self) -> BTreeMap<&'static str, u64> {
        Rejection::ALL
            .iter()
            .zip(&self.rejected)
            .map(|(why, n)| (why.as_str(), n.get()))
            .collect()
    }

    /// A connection was ended for what did not come.
    pub fn timed_out(&self, why: ConnectionTimeout) {
        if let Some(counter) = self.timeouts.get(why as usize) {
            counter.increment();
        }
    }

    /// Connections that were ended so, by reason.
    pub fn timeouts(&self) -> BTreeMap<&'static str, u64> {
        ConnectionTimeout::ALL
            .iter()
            .zip(&self.timeouts)
            .map(|(why, n)| (why.as_str(), n.get()))
            .collect()
    }

    /// Datagrams were dropped.
    pub fn dropped(&self, why: DropReason, count: u64) {
        if let Some(counter) = self.datagrams_dropped.get(why as usize) {
            counter.add(count);
        }
    }

    /// How many datagrams were dropped, by reason.
    pub fn datagrams_dropped(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL
            .iter()
            .zip(&self.datagrams_dropped)
            .map(|(why, n)| (why.as_str(), n.get()))
            .collect()
    }

    /// An endpoint could not be reached.
    pub fn connect_error(&self, why: DialFailure) {
        if why == DialFailure::Exhausted {
            metrics::counter!(DIALS_EXHAUSTED).increment(1);
        }
        if let Some(counter) = self.connect_errors.get(why as usize) {
            counter.increment();
        }
    }

    /// An endpoint was reached, and does not see the client's address, though its Service asks for that.
    pub fn lose_address(&self, why: AddressLoss) {
        if let Some(counter) = self.lost_addresses.get(why as usize) {
            counter.increment();
        }
    }

    /// Connections without the client's address, by reason.
    pub fn lost_addresses(&self) -> BTreeMap<&'static str, u64> {
        AddressLoss::ALL
            .iter()
            .zip(&self.lost_addresses)
            .map(|(why, n)| (why.as_str(), n.get()))
            .collect()
    }

    /// Failed dials by reason.
    pub fn connect_errors(&self) -> BTreeMap<&'static str, u64> {
        DialFailure::ALL
            .iter()
            .zip(&self.connect_errors)
            .map(|(why, n)| (why.as_str(), n.get()))
            .collect()
    }

    /// An HTTP request was answered with `status`, or its client went away before.
    pub fn response(&self, status: Option<u16>) {
        let class = usize::from(status.unwrap_or(0) / 100);
        if let Some(counter) = self.responses.get(class) {
            counter.increment();
        }
    }

    /// How many HTTP requests there were, by class of the response.
    pub fn responses(&self) -> BTreeMap<&'static str, u64> {
        RESPONSE_CLASSES
            .iter()
            .zip(&self.responses)
            .map(|(class, n)| (*class, n.get()))
            .collect()
    }
}
