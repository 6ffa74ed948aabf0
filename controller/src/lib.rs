//! The shell around the controller core: stores, and the loop that decides and writes.
//!
//! Reading order:
//! 1. [`store`]: the only wire between controller and gateway;
//! 2. [`directory`]: a store over a directory of manifests; [`kubernetes`]: one over an API server;
//!    [`state`]: what both keep on disk;
//! 3. [`run`]: the loop over any store, and what people can ask it, with `retries`, the failed
//!    writes (`retry_queue`: when each is tried again); [`follower`]: the same for a process that
//!    decides nothing; `own_addresses`: what the gateway of this process says of external addresses.
//!
//! Invariants:
//! - Nothing is decided before the store has published every object.
//! - Start, event and resync take one path: a batch of changes.
//! - A write that fails is tried again for as long as it takes, and holds up no other.

pub mod directory;
mod feed;
pub mod follower;
pub mod kubernetes;
mod own_addresses;
mod retries;
mod retry_queue;
mod rows;
pub mod run;
pub mod state;
mod status_json;
pub mod store;

pub use directory::{DirectorySettings, DirectoryStore, OpenError};
pub use follower::Follower;
pub use kubernetes::{Elector, KubernetesSettings, KubernetesStore, Leadership, Reads, Snapshot};
pub use own_addresses::OwnAddress;
pub use run::{Controller, Handle};
pub use state::TakeError;
pub use state::lock::{StateOwner, state_owner};
pub use store::{Outcomes, Store, WriteKey, WriteOutcome};
