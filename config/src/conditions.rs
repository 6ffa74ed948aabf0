//! The conditions of Services and AddressPools that Fairway writes.
//!
//! | type | on | True | False |
//! |---|---|---|---|
//! | `fairway.dev/AddressAssigned` | LoadBalancer Services that are ours | `Assigned` | why an address is missing: `RequestUnreadable`, `NoPools`, `NoSuchPool`, `PoolNotUsable`, `PoolExhausted`, `QuotaExceeded`, `NotSelected`, `NotAutoAssigned`, `NoAddressOfFamily`, `AddressInNoPool`, `AddressNotInPool`, `AddressHeld`, `NodeAddress`, `SharingPortClash`, `SharingWithoutConsent`, `FamilyNotWanted`, `DualStackUnavailable` |
//! | `fairway.dev/NodePortsAllocated` | Services that want node ports, where Fairway allocates them or asks for them | `Allocated` | `NodePortUnreadable`, `NodePortOutOfRange`, `NodePortHeld`, `NodePortUsedTwice`, `NodePortsExhausted`, `NodePortsRefused` |
//! | `fairway.dev/Programmed` | Services that gateways are to serve | `Programmed`: a gateway that is alive takes traffic for every port of the Service as it is now | `NoGateway`, `GatewayBehind`, `NoEndpoints`, `EndpointsUnreachable`, `AddressNotAnnounced`, `AddressConflict`, `AddressNotAssigned`, `NodePortNotAllocated`, `UnsupportedProtocol`, or the reason of a listener that can't stand on a gateway |
//! | `fairway.dev/Announced` | Services with an address that a gateway owns and announces on layer 2 | `Layer2`; the message says which node announces it | never written |
//! | `fairway.dev/AddressConflict` | Services with an address that is announced on layer 2 | `AddressConflict`: another host uses or answers for the address, or two gateways own it at once | never written |
//! | `fairway.dev/OutOfPool` | Services that hold an address which no pool would give them now | `OutOfPool`, `PoolNotUsable`, `NotSelected`, `NodeAddress` | never written |
//! | `fairway.dev/Accepted` | Services with something well-formed and wrong | never written | the reason of the first notice; `ForwardingNode`: it says what kube-proxy does not do |
//! | `fairway.dev/SourceCurrent` | Services whose source can't be read | never written | `SourceUnreadable` |
//! | `fairway.dev/EndpointsAllowed` | Services with endpoints that a gateway must not dial | never written | `EndpointsRefused` |
//! | `fairway.dev/Taken` | LoadBalancer Services in a cluster to which a controller has given something | `Taken`; the message is `NAMESPACE/CLASS` of the controller, and gateways serve what one of their own namespace has taken | never written |
//! | `fairway.dev/Contested` | Services that a second controller would take, too; that one writes it, and when it is gone the first one takes it away | `TwoControllers` | never written |
//! | `fairway.dev/GatewayNotice` | Services of which a gateway has something else to say | the reason of the first notice | never written |
//!
//! A condition that reports a fault exists only while the fault does. A Service without any
//! condition gets no status.

/// Whether a LoadBalancer Service has the addresses that it wants.
pub const ADDRESS_ASSIGNED: &str = "fairway.dev/AddressAssigned";
/// Whether a Service has the node ports that it wants.
pub const NODE_PORTS_ALLOCATED: &str = "fairway.dev/NodePortsAllocated";
/// Whether a live gateway takes traffic for every port of a Service.
pub const PROGRAMMED: &str = "fairway.dev/Programmed";
/// True: a gateway owns an address of the Service and announces it.
pub const ANNOUNCED: &str = "fairway.dev/Announced";
/// True: somebody else has an address of the Service, too.
pub const ADDRESS_CONFLICT: &str = "fairway.dev/AddressConflict";
/// True: a Service keeps an address that no pool would give it now.
pub const OUT_OF_POOL: &str = "fairway.dev/OutOfPool";
/// False: something in the Service is well-formed and wrong, and is left out.
pub const ACCEPTED: &str = "fairway.dev/Accepted";
/// False: the source of the Service can't be read, and its last good form is in force.
pub const SOURCE_CURRENT: &str = "fairway.dev/SourceCurrent";
/// False: some endpoints are refused.
pub const ENDPOINTS_ALLOWED: &str = "fairway.dev/EndpointsAllowed";
/// True: a gateway has something to say that is no failure.
pub const GATEWAY_NOTICE: &str = "fairway.dev/GatewayNotice";
/// True: the controller that the message names has given what the status says. It is not among
/// [`OF_SERVICES`]: what writes it is the store.
pub const TAKEN: &str = "fairway.dev/Taken";
/// True: a second controller would take the Service, too, and leaves it alone. That one writes it; for the
/// one that has the Service it is somebody else's until that controller is gone.
pub const CONTESTED: &str = "fairway.dev/Contested";
/// All that the controller which has a Service writes of it; the others there are somebody else's.
pub const OF_SERVICES: [&str; 10] = [
    ADDRESS_ASSIGNED,
    NODE_PORTS_ALLOCATED,
    PROGRAMMED,
    ANNOUNCED,
    ADDRESS_CONFLICT,
    OUT_OF_POOL,
    ACCEPTED,
    SOURCE_CURRENT,
    ENDPOINTS_ALLOWED,
    GATEWAY_NOTICE,
];
/// Whether addresses of a pool can be given out; of a BGPPeer, whether every gateway that should have a session with
/// it has one.
pub const READY: &str = "Ready";
/// True: a pool has addresses in common with another one.
pub const OVERLAPS: &str = "Overlaps";

/// Whether a condition says that something is wrong. Most are good when True; a few report a fault
/// by being True.
pub fn is_trouble(kind: &str, status: bool) -> bool {
    let is_good_when_true = !matches!(kind, OUT_OF_POOL | ADDRESS_CONFLICT | OVERLAPS);
    status != is_good_when_true
}
