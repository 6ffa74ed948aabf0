//! The recorder of metrics that live as long as the process.

use fairway_gateway_core::relay::RelayAnswer;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use super::{
    ADDRESS_CONFLICTS, ANNOUNCEMENTS, CHECK_PROBES, CHECK_STRETCH, CHECKS, DRAINING_ADDRESSES,
    DRAINING_SINCE, EVENTS_DROPPED, FLEET_MEMBERS, HEARTBEATS, HEARTBEATS_REJECTED,
    LOG_LINES_DROPPED, MANIFEST_ERRORS, MANIFEST_PASSES, NEIGHBOR_ANSWERS, PASSED_PACKETS,
    PASSING_ADDRESSES, PROGRAMMING_DURATION, RECEIVE_PAUSES, REJECTED_WRITES, RELAYED,
    STORE_ERRORS, SYNC_DURATION, UNANSWERED,
};
use crate::checks::RESULTS;
use crate::counters::DIALS_EXHAUSTED;
use crate::fleet::REFUSED_FOR;
use crate::receive_meter::RECEIVED;

/// Upper bounds of the buckets of both durations, in seconds.
const DURATION_BUCKETS: [f64; 12] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// The process-wide recorder of the `metrics` macros, and the figures of the process itself (CPU, memory, files).
pub struct Recorder {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

/// The recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A histogram's buckets are wrong.
    #[error("metrics: {0}")]
    Build(#[from] BuildError),
    /// There is one already.
    #[error("metrics: a recorder is installed already")]
    Installed,
}

impl Recorder {
    /// Installs the recorder, so that the `metrics` macros count. May be called once in a process.
    ///
    /// # Errors
    /// There is a recorder already, or the buckets of a histogram are wrong.
    pub fn install() -> Result<Self, InstallError> {
        let duration = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .with_recommended_naming(true)
            .set_buckets_for_metric(duration(SYNC_DURATION), &DURATION_BUCKETS)?
            .set_buckets_for_metric(duration(PROGRAMMING_DURATION), &DURATION_BUCKETS)?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| InstallError::Installed)?;
        metrics::describe_histogram!(SYNC_DURATION, "From a change to its being worked in.");
        metrics::describe_histogram!(
            PROGRAMMING_DURATION,
            "From a change to the first connection that it can serve."
        );
        metrics::describe_counter!(STORE_ERRORS, "Reads and writes of the store that failed.");
        metrics::describe_counter!(
            MANIFEST_PASSES,
            "How often the manifests were looked at for changes."
        );
        metrics::describe_gauge!(
            MANIFEST_ERRORS,
            "Errors in the manifests now; warnings do not count."
        );
        // These are there from the start: a rate needs a series that starts at 0.
        for operation in [
            "read", "write", "status", "watch", "lease", "report", "snapshot",
        ] {
            metrics::counter!(STORE_ERRORS, "operation" => operation).absolute(0);
        }
        metrics::counter!(LOG_LINES_DROPPED).absolute(0);
        metrics::describe_counter!(
            LOG_LINES_DROPPED,
            "Lines of the log that were dropped because its reader did not take them."
        );
        metrics::counter!(EVENTS_DROPPED).absolute(0);
        metrics::describe_counter!(EVENTS_DROPPED, "Events that the cluster could not be told.");
        metrics::gauge!(REJECTED_WRITES).set(0.0);
        metrics::describe_gauge!(
            REJECTED_WRITES,
            "Services and pools of which the store does not take what was decided."
        );
        metrics::gauge!(MANIFEST_ERRORS).set(0.0);
        // A start is no change, so it records nothing.
        let _ = metrics::histogram!(PROGRAMMING_DURATION);
        metrics::counter!(DIALS_EXHAUSTED).absolute(0);
        metrics::describe_counter!(
            DIALS_EXHAUSTED,
            "Dials that failed because this process or host had no port or file descriptor left."
        );
        for kind in [
            "arp_request",
            "arp_reply",
            "neighbor_advertisement",
            "defence",
        ] {
            metrics::counter!(ANNOUNCEMENTS, "kind" => kind).absolute(0);
        }
        for protocol in ["arp", "ndp"] {
            metrics::counter!(NEIGHBOR_ANSWERS, "protocol" => protocol).absolute(0);
        }
        metrics::describe_counter!(
            ANNOUNCEMENTS,
            "Frames that told neighbors on layer 2 where an address is."
        );
        metrics::describe_counter!(
            NEIGHBOR_ANSWERS,
            "Answers to ARP requests and neighbor solicitations."
        );
        metrics::counter!(ADDRESS_CONFLICTS).absolute(0);
        metrics::describe_counter!(
            ADDRESS_CONFLICTS,
            "Conflicts that began: another host answered for an address that this gateway owned."
        );
        for direction in ["receive", "transmit"] {
            metrics::counter!(HEARTBEATS, "direction" => direction).absolute(0);
        }
        metrics::describe_counter!(HEARTBEATS, "Messages between the gateways of a fleet.");
        let answers = RelayAnswer::ALL.into_iter().map(RelayAnswer::as_str);
        for answer in answers.chain([UNANSWERED]) {
            metrics::counter!(RELAYED, "answer" => answer).absolute(0);
        }
        metrics::describe_counter!(
            RELAYED,
            "Connections that other gateways have made to have an endpoint of this node dialled from a client's address, by \
             what they were answered; none: they were no gateway with our key."
        );
        for state in ["heard", "silent"] {
            metrics::gauge!(FLEET_MEMBERS, "state" => state).set(0.0);
        }
        metrics::describe_gauge!(
            FLEET_MEMBERS,
            "The other gateways of the fleet, by whether they and this one hear each other."
        );
        for reason in REFUSED_FOR {
            metrics::counter!(HEARTBEATS_REJECTED, "reason" => reason).absolute(0);
        }
        metrics::describe_counter!(
            HEARTBEATS_REJECTED,
            "Datagrams at the fleet's port that do not count as messages of another gateway."
        );
        for of in RECEIVED {
            metrics::counter!(RECEIVE_PAUSES, "of" => of).absolute(0);
        }
        metrics::describe_counter!(
            RECEIVE_PAUSES,
            "Pauses in which a thread that runs before all others receives nothing, as more came than is taken."
        );
        for result in RESULTS {
            metrics::counter!(CHECKS, "result" => result).absolute(0);
        }
        metrics::describe_counter!(CHECKS, "Probes of endpoints that are checked, by result.");
        metrics::gauge!(CHECK_PROBES).set(0.0);
        metrics::describe_gauge!(
            CHECK_PROBES,
            "Different probes that are made again and again; Services that ask the same share one."
        );
        metrics::gauge!(CHECK_STRETCH).set(1.0);
        metrics::describe_gauge!(
            CHECK_STRETCH,
            "By how much the intervals of checks are stretched, as more are asked for than are made in a second; 1: not at all."
        );
        metrics::counter!(PASSED_PACKETS).absolute(0);
        metrics::describe_counter!(
            PASSED_PACKETS,
            "Packets of connections that another gateway has, which were passed to it."
        );
        for state in ["passed", "refused"] {
            metrics::gauge!(PASSING_ADDRESSES, "state" => state).set(0.0);
        }
        metrics::describe_gauge!(
            PASSING_ADDRESSES,
            "Addresses that were handed over by another gateway, which still has connections of them, by whether the \
             kernel lets their packets be passed to it."
        );
        metrics::gauge!(DRAINING_SINCE).set(0.0);
        metrics::describe_gauge!(
            DRAINING_SINCE,
            "Since when this gateway drains, in seconds since 1970; 0 where it does not."
        );
        metrics::gauge!(DRAINING_ADDRESSES).set(0.0);
        metrics::describe_gauge!(
            DRAINING_ADDRESSES,
            "Addresses on layer 2 that this gateway still owns while it drains."
        );
        let process = metrics_process::Collector::default();
        process.describe();
        Ok(Self { handle, process })
    }

    /// The recorded metrics and the figures of the process, as text to be appended to that of [`super::render`].
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Aggregates the samples of histograms. To be called every few seconds: otherwise the memory of a process that
    /// nobody scrapes grows.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}
