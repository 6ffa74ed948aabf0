//! The labels under which Services and gateways are counted.

use std::fmt;

use fairway_config::conditions::PROGRAMMED;
use fairway_config::exchange::{GatewayProgress, GatewayStatus, Status};

/// The reasons of the condition `Programmed` that are counted one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProgrammedCount {
    /// A gateway takes traffic for every port.
    Programmed,
    /// None is alive.
    NoGateway,
    /// Those that live have not yet programmed the Service as it is now.
    GatewayBehind,
    /// There is no endpoint that is ready.
    NoEndpoints,
    /// No endpoint can be reached.
    EndpointsUnreachable,
    /// No gateway announces its address.
    AddressNotAnnounced,
    /// Another host has its address, or two gateways have it at once.
    AddressConflict,
    /// It waits for an address or a node port.
    NotAssigned,
    /// A listener can't stand, or nobody carries what the Service asks for.
    Other,
}

impl ProgrammedCount {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Programmed,
        Self::NoGateway,
        Self::GatewayBehind,
        Self::NoEndpoints,
        Self::EndpointsUnreachable,
        Self::AddressNotAnnounced,
        Self::AddressConflict,
        Self::NotAssigned,
        Self::Other,
    ];

    /// As the metric has it: the condition's reason where that is one.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Programmed => "Programmed",
            Self::NoGateway => "NoGateway",
            Self::GatewayBehind => "GatewayBehind",
            Self::NoEndpoints => "NoEndpoints",
            Self::EndpointsUnreachable => "EndpointsUnreachable",
            Self::AddressNotAnnounced => "AddressNotAnnounced",
            Self::AddressConflict => "AddressConflict",
            Self::NotAssigned => "NotAssigned",
            Self::Other => "Other",
        }
    }

    /// What a status says; nothing where gateways are not to serve the Service.
    pub(crate) fn of(status: &Status) -> Option<Self> {
        let condition = status.conditions.get(PROGRAMMED)?;
        if condition.status {
            return Some(Self::Programmed);
        }
        let named = Self::ALL
            .into_iter()
            .find(|it| it.as_str() == &*condition.reason);
        Some(match &*condition.reason {
            "AddressNotAssigned" | "NodePortNotAllocated" => Self::NotAssigned,
            _ => named.unwrap_or(Self::Other),
        })
    }
}

impl fmt::Display for ProgrammedCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The states of an external address that gateways announce on layer 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressCount {
    /// One gateway owns it.
    Owned,
    /// None does, and no gateway would serve a Service there.
    Idle,
    /// None does, though gateways would serve a Service there.
    Unowned,
    /// Another host has it, or two gateways have it at once.
    Conflict,
}

impl AddressCount {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Owned, Self::Idle, Self::Unowned, Self::Conflict];

    /// As the metric has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owned => "owned",
            Self::Idle => "idle",
            Self::Unowned => "unowned",
            Self::Conflict => "conflict",
        }
    }
}

/// The states of a gateway that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatewayCount {
    /// It lives, and says that all is well.
    Ready,
    /// It lives, and says that it is not ready, or nothing that can be relied on.
    NotReady,
    /// It has not been heard of for too long, and did not say that it stops.
    Silent,
    /// It has been stopped, or is stopping.
    Stopped,
}

impl GatewayCount {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ready, Self::NotReady, Self::Silent, Self::Stopped];

    /// As the metric has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not_ready",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
        }
    }

    pub(crate) fn of(gateway: &GatewayStatus) -> Self {
        match gateway.progress {
            _ if gateway.stopped => Self::Stopped,
            GatewayProgress::Gone => Self::Silent,
            _ if gateway.row.ready => Self::Ready,
            _ => Self::NotReady,
        }
    }
}

impl fmt::Display for GatewayCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
