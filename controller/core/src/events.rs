//! The Events of a Service when its status changes.
//!
//! `kubectl describe service` shows Events and no conditions, so an Event repeats once what a
//! condition says, in the same words. The reasons are those of k8s.io/cloud-provider where it has
//! one.

use std::net::IpAddr;

use fairway_config::exchange::{Condition, Status};

use fairway_config::conditions::{
    ACCEPTED, ADDRESS_ASSIGNED, ADDRESS_CONFLICT, ANNOUNCED, ENDPOINTS_ALLOWED,
    NODE_PORTS_ALLOCATED, OUT_OF_POOL, PROGRAMMED,
};

/// The reason of the Event that says which node announces an address; MetalLB's word.
pub const NODE_ASSIGNED: &str = "nodeAssigned";

/// The reason of the Event that says that another host uses an address, as of the condition that says so.
const ADDRESS_IN_USE: &str = "AddressConflict";

/// An Event of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// One CamelCase word.
    pub reason: String,
    /// Something is wrong.
    pub is_warning: bool,
    /// It is about whether gateways serve the Service, which may change often.
    pub is_of_traffic: bool,
    /// Sentences.
    pub message: String,
}

impl Event {
    fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            is_warning: false,
            is_of_traffic: false,
            message: message.into(),
        }
    }

    /// An address was not given, because another host uses it.
    pub(crate) fn address_passed_over(message: String) -> Self {
        Self::warning(ADDRESS_IN_USE, message)
    }

    fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self {
            is_warning: true,
            ..Self::normal(reason, message)
        }
    }
}

/// The Events for a status that changes from `before` to `after`. `held` is what the Service held
/// before, whether the status says so or not: an API server empties the status of one that is no
/// LoadBalancer any more. `wanted` is whether the Service is to have an address of ours from now
/// on.
pub fn events(before: &Status, held: &[IpAddr], after: &Status, wanted: bool) -> Vec<Event> {
    let mut events = Vec::new();
    let assigned = |status: &Status| status.conditions.get(ADDRESS_ASSIGNED).cloned();
    let addresses = |status: &Status| -> Vec<String> {
        status.ingress.iter().map(|it| it.ip.to_string()).collect()
    };
    let (had, has) = (addresses(before), addresses(after));
    if wanted {
        if before.conditions.is_empty() && had.is_empty() {
            events.push(Event::normal(
                "EnsuringLoadBalancer",
                "Ensuring load balancer",
            ));
        }
        match assigned(after) {
            Some(it) if !it.status && differs(assigned(before).as_ref(), &it) => {
                let message = format!("{}: {}", it.reason, it.message);
                events.push(Event::warning("SyncLoadBalancerFailed", message));
            }
            Some(it) if it.status && had.is_empty() && !has.is_empty() => {
                events.push(Event::normal("EnsuredLoadBalancer", it.message));
            }
            Some(_) if !had.is_empty() && had != has => {
                let message = format!("{} instead of {}", list(&has), list(&had));
                events.push(Event::normal("UpdatedLoadBalancer", message));
            }
            _ => {}
        }
    } else if assigned(before).is_some() || !had.is_empty() {
        let had = match had.is_empty() {
            true => held.iter().map(ToString::to_string).collect(),
            false => had,
        };
        events.push(Event::normal(
            "DeletingLoadBalancer",
            "Deleting load balancer",
        ));
        let message = match had.is_empty() {
            true => "There was no address to take back".to_owned(),
            false => format!("{} taken back", list(&had)),
        };
        events.push(Event::normal("DeletedLoadBalancer", message));
    }
    for (kind, bad) in [
        (ACCEPTED, false),
        (NODE_PORTS_ALLOCATED, false),
        (PROGRAMMED, false),
        (ENDPOINTS_ALLOWED, false),
        (OUT_OF_POOL, true),
        (ADDRESS_CONFLICT, true),
    ] {
        let Some(it) = after.conditions.get(kind) else {
            continue;
        };
        let before = before.conditions.get(kind);
        // Who forges answers for an address may name another hardware address each time.
        let is_of_traffic = matches!(kind, PROGRAMMED | ADDRESS_CONFLICT);
        let event = if it.status == bad && is_told(kind, it) && differs(before, it) {
            Event::warning(&it.reason, it.message.clone())
        } else if is_of_traffic && it.status && before.is_some_and(|before| !before.status) {
            // Who was told that there is no traffic is told that there is again.
            Event::normal(&it.reason, it.message.clone())
        } else {
            continue;
        };
        events.push(Event {
            is_of_traffic,
            ..event
        });
    }
    if let Some(it) = after.conditions.get(ANNOUNCED)
        && differs(before.conditions.get(ANNOUNCED), it)
    {
        events.push(Event::normal(NODE_ASSIGNED, it.message.clone()));
    }
    events
}

/// Whether people are told that a condition is bad. For a moment after every change gateways have not
/// applied it yet; a missing address has been told of; and a conflict has a condition of its own.
fn is_told(kind: &str, condition: &Condition) -> bool {
    let is_of_others = matches!(
        &*condition.reason,
        "GatewayBehind" | "AddressNotAssigned" | "AddressConflict"
    );
    !(kind == PROGRAMMED && is_of_others)
}

/// The Event for a decision that the store rejects with this error.
pub fn rejected(error: &str) -> Event {
    let message = format!(
        "Rejected: the API server does not take what was decided: {error}. It is tried again now and \
         then, and at once when the Service changes."
    );
    Event::warning("SyncLoadBalancerFailed", message)
}

/// Whether a condition says something new.
fn differs(before: Option<&Condition>, after: &Condition) -> bool {
    before.is_none_or(|before| {
        (before.status, &before.reason, &before.message)
            != (after.status, &after.reason, &after.message)
    })
}

fn list(addresses: &[String]) -> String {
    if addresses.is_empty() {
        return "no address".to_owned();
    }
    addresses.join(" and ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::exchange::{Ingress, IpMode};

    use super::*;

    fn status(addresses: &[&str], conditions: &[(&str, bool, &str)]) -> Status {
        Status {
            ingress: addresses
                .iter()
                .map(|ip| Ingress {
                    ip: ip.parse().unwrap(),
                    hostname: None,
                    ip_mode: IpMode::Proxy,
                    ports: Vec::new(),
                })
                .collect(),
            has_foreign_ingress: false,
            conditions: conditions
                .iter()
                .map(|(kind, status, reason)| {
                    let condition = Condition {
                        status: *status,
                        reason: (*reason).into(),
                        message: format!("{reason}."),
                        since: Default::default(),
                    };
                    ((*kind).into(), condition)
                })
                .collect(),
        }
    }

    fn reasons(before: &Status, after: &Status, wanted: bool) -> Vec<String> {
        let events = events(before, &[], after, wanted).into_iter();
        events.map(|event| event.reason).collect()
    }

    #[test]
    fn each_change_is_told_with_the_reason_that_the_field_knows() {
        let nothing = status(&[], &[]);
        let assigned = status(&["192.0.2.1"], &[(ADDRESS_ASSIGNED, true, "Assigned")]);
        let moved = status(&["192.0.2.2"], &[(ADDRESS_ASSIGNED, true, "Assigned")]);
        let pending = status(&[], &[(ADDRESS_ASSIGNED, false, "PoolExhausted")]);
        let other = status(&[], &[(ADDRESS_ASSIGNED, false, "NoPool")]);
        let refused = status(
            &["192.0.2.1"],
            &[
                (ADDRESS_ASSIGNED, true, "Assigned"),
                (PROGRAMMED, false, "PortInUse"),
            ],
        );
        let programmed = |status, reason| {
            let assigned = (ADDRESS_ASSIGNED, true, "Assigned");
            self::status(&["192.0.2.1"], &[assigned, (PROGRAMMED, status, reason)])
        };
        let served = programmed(true, "Programmed");
        let behind = programmed(false, "GatewayBehind");
        let without = programmed(false, "NoGateway");
        let unannounced = programmed(false, "AddressNotAnnounced");
        let with = |status: &Status, kind: &str, reason: &str| {
            let mut status = status.clone();
            let it = self::status(&[], &[(kind, true, reason)]);
            let it = it.conditions.get(kind).unwrap().clone();
            status.conditions.insert(kind.into(), it);
            status
        };
        let announced = with(&served, ANNOUNCED, "Layer2");
        let contested = with(
            &programmed(false, "AddressConflict"),
            ADDRESS_CONFLICT,
            "AddressConflict",
        );
        let given = ["EnsuringLoadBalancer", "EnsuredLoadBalancer"];
        let taken = ["DeletingLoadBalancer", "DeletedLoadBalancer"];
        for (before, after, wanted, told) in [
            (&nothing, &nothing, false, &[][..]),
            (&nothing, &assigned, true, &given[..]),
            (&assigned, &assigned, true, &[][..]),
            (&assigned, &moved, true, &["UpdatedLoadBalancer"][..]),
            (
                &nothing,
                &pending,
                true,
                &["EnsuringLoadBalancer", "SyncLoadBalancerFailed"][..],
            ),
            (&pending, &pending, true, &[][..]),
            (&pending, &other, true, &["SyncLoadBalancerFailed"][..]),
            (&pending, &assigned, true, &["EnsuredLoadBalancer"][..]),
            (&assigned, &refused, true, &["PortInUse"][..]),
            (&refused, &without, true, &["NoGateway"][..]),
            (&refused, &served, true, &["Programmed"][..]),
            (&without, &served, true, &["Programmed"][..]),
            (&without, &behind, true, &[][..]),
            (&behind, &served, true, &["Programmed"][..]),
            (&served, &behind, true, &[][..]),
            (&assigned, &served, true, &[][..]),
            (&assigned, &nothing, false, &taken[..]),
            (&pending, &nothing, false, &taken[..]),
            (&served, &announced, true, &["nodeAssigned"][..]),
            (&announced, &announced, true, &[][..]),
            (&announced, &contested, true, &["AddressConflict"][..]),
            (&contested, &served, true, &["Programmed"][..]),
            (&announced, &unannounced, true, &["AddressNotAnnounced"][..]),
            (
                &unannounced,
                &announced,
                true,
                &["Programmed", "nodeAssigned"][..],
            ),
        ] {
            assert_eq!(
                reasons(before, after, wanted),
                told,
                "{before:?} to {after:?}"
            );
        }
    }

    #[test]
    fn an_event_says_what_the_condition_says() {
        let pending = status(&[], &[(ADDRESS_ASSIGNED, false, "PoolExhausted")]);
        let told = events(&Status::default(), &[], &pending, true);
        let warning = told.iter().find(|event| event.is_warning).unwrap();
        assert_eq!(warning.message, "PoolExhausted: PoolExhausted.");
    }
    #[test]
    fn what_is_taken_back_is_named_where_the_status_is_empty_already() {
        let emptied = status(&[], &[(ADDRESS_ASSIGNED, true, "Assigned")]);
        let held = ["192.0.2.1".parse().unwrap()];
        for (held, wanted) in [
            (&held[..], "192.0.2.1 taken back"),
            (&[], "There was no address to take back"),
        ] {
            let told = events(&emptied, held, &Status::default(), false);
            assert_eq!(told.last().unwrap().message, wanted);
        }
    }
}
