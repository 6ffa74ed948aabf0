//! A thread on one processor.

use rustix::thread::CpuSet;

/// Binds the calling thread to one of the processors that the process may use. A thread that can't
/// be bound works as well, with colder caches.
pub(crate) fn pin(number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else {
        return;
    };
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect();
    let Some(cpu) = number.checked_rem(usable.len()).and_then(|n| usable.get(n)) else {
        return;
    };
    let mut set = CpuSet::new();
    set.set(*cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::debug!(%error, "worker not pinned");
    }
}
