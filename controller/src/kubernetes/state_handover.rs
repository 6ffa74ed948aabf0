//! A gateway's process hands its state over to another one of the same gateway: its state directory, and the right to
//! write its Lease.

use std::io;
use std::os::fd::OwnedFd;

use super::lease_turn::LeaseWriter;
use super::snapshot_writer::{SnapshotHolder, WriterOrder};
use super::store::KubernetesStore;
use crate::feed::lock;
use crate::state::TakeError;

impl KubernetesStore {
    fn holder(&self) -> Option<SnapshotHolder> {
        let snapshot = self.shared().snapshot.as_ref();
        snapshot.map(|snapshot| lock(snapshot).holder())
    }

    fn order(&self, order: WriterOrder) {
        if let Some(holder) = self.holder() {
            holder.order(order);
        }
    }

    /// Writes what is known, and then nothing until [`Self::go_on`]: another process is to have the state directory.
    /// Returns whether all could be written; else the store goes on. It tells the cluster as before.
    pub fn hold(&self) -> bool {
        let held = self.holder().and_then(|it| it.ask(WriterOrder::Hold));
        held.unwrap_or(false)
    }

    /// The other process has ended, and has written nothing: the store goes on.
    pub fn go_on(&self) {
        self.shared().lease_turn.resume();
        self.order(WriterOrder::GoOn);
    }

    /// The other process has the state directory for good: this one writes and tells nothing any more.
    pub fn give_up(&self) {
        self.shared().lease_turn.set(LeaseWriter::Gone);
        self.order(WriterOrder::GiveUp);
    }

    /// The lock of the state directory for the other process. This one does not release it any more, and tells the
    /// cluster nothing until [`Self::go_on`].
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn share_lock(&self) -> io::Result<OwnedFd> {
        self.shared().lease_turn.pause();
        let missing = || io::Error::other("there is no state directory");
        let shared = self.holder().and_then(|it| it.ask(WriterOrder::ShareLock));
        shared.ok_or_else(missing).flatten()
    }

    /// The state directory is this process's: another one has handed its lock over, or (none) has ended.
    ///
    /// # Errors
    /// The other one has it still.
    pub fn own(&self, lock: Option<OwnedFd>) -> Result<(), TakeError> {
        let order = |reply| WriterOrder::Own(lock, reply);
        self.holder().and_then(|it| it.ask(order)).unwrap_or(Ok(()))
    }

    /// Another process of this gateway tells the cluster how it is, until [`Self::begin_to_tell`].
    pub fn let_another_tell(&self) {
        self.shared().lease_turn.set(LeaseWriter::Waiting);
    }

    /// This process tells the cluster from now on, unless yet another one has taken over.
    pub fn begin_to_tell(&self) {
        self.shared().lease_turn.begin();
    }
}
