//! What a Service's status says.
//!
//! | type | on | True | False |
//! |---|---|---|---|
//! | `AddressAssigned` | LoadBalancer Services that are ours | `Assigned` | why an address is missing: `NoPools`, `NoSuchPool`, `PoolExhausted`, `QuotaExceeded`, `NotSelected`, `NotAutoAssigned`, `NoAddressOfFamily`, `AddressInNoPool`, `AddressNotInPool`, `AddressHeld`, `NodeAddress`, `SharingPortClash`, `SharingWithoutConsent`, `FamilyNotWanted`, `DualStackUnavailable` |
//! | `NodePortsAllocated` | Services that want node ports, where Fairway allocates them or asks for them | `Allocated` | `NodePortOutOfRange`, `NodePortHeld`, `NodePortUsedTwice`, `NodePortsExhausted`, `NodePortsRefused` |
//! | `Programmed` | Services of which a gateway has reported listeners | `Programmed`: every one takes traffic | the reason of the first listener that can't |
//! | `OutOfPool` | Services that hold an address which no pool would give them now | `OutOfPool`, `NotSelected`, `NodeAddress` | never written |
//! | `Accepted` | Services with something well-formed and wrong | never written | the reason of the first notice |
//! | `SourceCurrent` | Services whose source can't be read | never written | `SourceUnreadable` |
//! | `EndpointsAllowed` | Services with endpoints that a gateway must not dial | never written | `EndpointsRefused` |
//! | `GatewayNotice` | Services of which a gateway has something else to say | the reason of the first notice | never written |
//!
//! A condition that says that something is wrong is there only while it is. A Service of which
//! nothing is to be said gets no status.

/// Whether a LoadBalancer Service has the addresses that it wants.
pub const ADDRESS_ASSIGNED: &str = "AddressAssigned";
/// Whether a Service has the node ports that it wants.
pub const NODE_PORTS_ALLOCATED: &str = "NodePortsAllocated";
/// Whether every listener for a Service takes traffic, on every gateway that has reported.
pub const PROGRAMMED: &str = "Programmed";
/// True: a Service keeps an address that no pool would give it now.
pub const OUT_OF_POOL: &str = "OutOfPool";
/// False: something in the Service is well-formed and wrong, and is left out.
pub const ACCEPTED: &str = "Accepted";
/// False: the source of the Service can't be read, and its last good form is in force.
pub const SOURCE_CURRENT: &str = "SourceCurrent";
/// False: some endpoints are refused.
pub const ENDPOINTS_ALLOWED: &str = "EndpointsAllowed";
/// True: a gateway has something to say that is no failure.
pub const GATEWAY_NOTICE: &str = "GatewayNotice";
/// All that Fairway writes to Services; the others there are somebody else's.
pub const OF_SERVICES: [&str; 8] = [
    ADDRESS_ASSIGNED,
    NODE_PORTS_ALLOCATED,
    PROGRAMMED,
    OUT_OF_POOL,
    ACCEPTED,
    SOURCE_CURRENT,
    ENDPOINTS_ALLOWED,
    GATEWAY_NOTICE,
];
/// Whether addresses of a pool can be given out.
pub const READY: &str = "Ready";
/// True: a pool has addresses in common with another one.
pub const OVERLAPS: &str = "Overlaps";
