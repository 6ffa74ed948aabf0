//! Who tells the kernel that a client may come again.

use std::fmt::Debug;

use fairway_gateway_core::client_network::ClientNetwork;

/// The clients that the kernel refuses by itself, where it steers connections.
pub(crate) trait KernelBlocks: Debug + Send + Sync {
    /// A client of the port of that number may come again.
    fn unblock(&self, port: u32, client: ClientNetwork);
}
