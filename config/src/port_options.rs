//! What the annotations of a Service say of one of its ports.

/// How one port is carried, beyond what its Service's spec says. The default is that nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {}
