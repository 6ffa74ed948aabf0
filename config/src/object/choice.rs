//! The fields of a Service that say which endpoint a client gets.

use std::time::Duration;

use crate::field::{Cursor, Shown};
use crate::service::{Notice, TrafficDistribution};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not said (Kubernetes: three hours).
const DEFAULT_AFFINITY: i64 = 10_800;

/// `sessionAffinity`: how long a client stays with its endpoint.
pub(super) fn affinity(spec: &Cursor<'_, '_>) -> Option<Duration> {
    let on = spec
        .field("sessionAffinity")
        .one_of_or_default(&[("None", false), ("ClientIP", true)])
        .unwrap_or(false);
    let config = spec.field("sessionAffinityConfig");
    config.mapping();
    let client_ip = config.field("clientIP");
    client_ip.mapping();
    let seconds = client_ip
        .field("timeoutSeconds")
        .integer_within(1..=86_400)
        .unwrap_or(DEFAULT_AFFINITY);
    on.then(|| Duration::from_secs(seconds.unsigned_abs()))
}

/// `trafficDistribution`. It is a hint, so a value that is not known (one of a later Kubernetes) keeps no endpoint out.
pub(super) fn traffic_distribution(
    spec: &Cursor<'_, '_>,
    notices: &mut Vec<Notice>,
) -> Option<TrafficDistribution> {
    match spec.field("trafficDistribution").nonempty_text()? {
        "PreferSameZone" | "PreferClose" => Some(TrafficDistribution::PreferSameZone),
        "PreferSameNode" => Some(TrafficDistribution::PreferSameNode),
        other => {
            notices.push(Notice::new(
                "TrafficDistributionIgnored",
                format!(
                    "spec.trafficDistribution is '{}', must be PreferSameZone, PreferSameNode or PreferClose: all endpoints are used alike",
                    Shown(other)
                ),
            ));
            None
        }
    }
}
