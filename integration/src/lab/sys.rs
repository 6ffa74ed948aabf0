//! The system calls that Rust can't vouch for.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into new namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(
        !flags.contains(UnshareFlags::FILES),
        "descriptors must stay shared"
    );
    // SAFETY: unshare(2) is unsound only with CLONE_FILES, by which descriptors that other threads
    // own would stand for something else here. Namespaces own no memory and no descriptor.
    unsafe { unshare_unsafe(flags) }.map_err(Into::into)
}

/// Has the kernel kill the program that `command` starts when the thread that starts it ends.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and
    // allocates nothing.
    unsafe {
        command
            .pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
}
