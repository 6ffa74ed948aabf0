//! The priority of threads that others take for dead when they are late: those that say to other gateways and routers
//! that this one lives, and that answer for addresses.
//!
//! A nice value is not enough for that: it counts within a control group and within a session alone (autogroup, sched(7)),
//! so a thread of nice -15 waits for each other group of the machine all the same. A thread of a real-time policy runs
//! before all others, and what it may take of a machine is bounded (`kernel.sched_rt_runtime_us`).

use std::io;
use std::sync::Once;

/// The lowest one of a real-time policy (sched(7)): before all that has none.
const PRIORITY: libc::c_int = 1;

/// Where a thread may not have it: as near as it gets (setpriority(2)).
const NICE: i32 = -15;

/// The calling thread runs before all others of the machine, where it may (CAP_SYS_NICE, or RLIMIT_RTPRIO).
pub(crate) fn raise() {
    let _ = raised();
}

/// The same. Where it may not, the log says so once.
pub(crate) fn raise_or_say() {
    static SAID: Once = Once::new();
    if let Err(error) = raised() {
        SAID.call_once(|| {
            tracing::info!(
                %error,
                "the threads that other gateways and routers must hear in time have no real-time priority: on a \
                 machine that is overloaded this gateway may lose addresses (CAP_SYS_NICE or RLIMIT_RTPRIO gives it)"
            );
        });
    }
}

fn raised() -> io::Result<()> {
    real_time().inspect_err(|_| {
        // Better than nothing, if even that is allowed.
        let _ = rustix::process::setpriority_process(None, NICE);
    })
}

/// Round robin among threads of this kind. What a thread starts is not raised with it.
fn real_time() -> io::Result<()> {
    let priority = libc::sched_param {
        sched_priority: PRIORITY,
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads the structure during the call alone. 0 is the calling thread.
    #[expect(unsafe_code, reason = "no crate in use has this call")]
    let done = unsafe { libc::sched_setscheduler(0, policy, &raw const priority) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
