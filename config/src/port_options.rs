//! What the annotations of a Service say of one of its ports.

use std::sync::Arc;

use crate::balance::Balance;
use crate::health_check::EndpointCheck;

/// How one port is carried, beyond what its Service's spec says. The default is that nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// How an endpoint is chosen; none: in turn by weight, and a UDP flow by the client's address and port.
    pub balance: Option<Balance>,
    /// How its endpoints are checked (`fairway.dev/health-check`); none: they are not.
    pub health_check: Option<Arc<EndpointCheck>>,
}
