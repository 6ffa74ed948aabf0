//! Signals that come while a process begins anew (execve(2)) wait for it.
//!
//! The first process of a PID namespace, as in a container, has no default actions: what comes before it has a handler is
//! dropped, and the kubelet would wait for its whole grace period. A signal that is blocked waits, and stays blocked
//! in the new program.

#![expect(unsafe_code, reason = "no safe wrapper has masks of signals")]

use std::io;
use std::mem;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;

/// The signals that stop a process.
const STOP: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT];

/// Has these signals wait in what the command starts, until it [takes](take) them.
pub(crate) fn keep(command: &mut Command) {
    // SAFETY: it makes one system call, and takes no lock and no memory.
    unsafe {
        command.pre_exec(|| mask(libc::SIG_BLOCK));
    }
}

/// Takes those signals from now on, on this thread: those that wait, too. There are handlers for them.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn take() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

fn mask(how: libc::c_int) -> io::Result<()> {
    // SAFETY: zeroes are a set of signals, and `sigemptyset` and `sigaddset` fill one in.
    let set = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in STOP {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    };
    // SAFETY: the set is read, and nothing is written to a null pointer.
    let error = unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// The blocked signals of a program that is started so, as the kernel says.
    fn blocked(command: &mut Command) -> u64 {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        u64::from_str_radix(text.split_whitespace().next_back().unwrap(), 16).unwrap()
    }

    #[test]
    fn signals_are_blocked_in_what_is_started() {
        let status = || {
            let mut command = Command::new("grep");
            command.args(["SigBlk", "/proc/self/status"]);
            command
        };
        assert_eq!(blocked(&mut status()), 0);
        let mut kept = status();
        keep(&mut kept);
        let bits = STOP.map(|signal| 1 << (signal - 1)).iter().sum::<u64>();
        assert_eq!(blocked(&mut kept), bits);
        take().unwrap();
    }
}
