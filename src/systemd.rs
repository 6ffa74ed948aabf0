//! Reports the state of the process to systemd, where it asks for that (sd_notify(3),
//! `Type=notify`).
//!
//! The watchdog is fed only on evidence: every loop of the process has turned since the last check,
//! and what the store had published then has been worked in. Where a loop is stuck systemd kills
//! the process and starts it again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairway_config::view::Readiness;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// How often the process is checked, at most.
const TICK: Duration = Duration::from_secs(1);

/// How much longer a start may take after each check in which all loops turned.
const STARTING: Duration = Duration::from_secs(60);

/// Whether another process speaks to systemd in place of this one.
static SILENT: AtomicBool = AtomicBool::new(false);

/// The progress of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// How often each loop has turned.
    pub(crate) turns: Vec<(String, u64)>,
    /// The number of the latest batch that the store has published.
    pub(crate) told: u64,
    /// The number of the latest batch that has been worked in.
    pub(crate) done: u64,
}

impl Observed {
    /// The names of the loops that have made no progress since `before`.
    fn stuck(&self, before: &Self) -> Vec<String> {
        let turned = |loops: &(String, u64)| before.turns.contains(loops);
        let mut stuck: Vec<String> = self
            .turns
            .iter()
            .filter(|loops| turned(loops))
            .map(|(name, _)| name.clone())
            .collect();
        if self.done < before.told && self.done == before.done {
            stuck.push("what takes in changes".to_owned());
        }
        stuck
    }
}

/// What the checks ask of a process.
pub(crate) trait Observe: Send + Sync + 'static {
    /// Its progress.
    fn observed(&self) -> Observed;
    /// Whether it is ready.
    fn readiness(&self) -> Readiness;
}

/// Reports to systemd until `stop` is cancelled, and then that the process stops. Does nothing
/// where systemd does not ask for it.
pub(crate) async fn tell(process: impl Observe, stop: CancellationToken) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut limit = 0;
    let watchdog = sd_notify::watchdog_enabled(false, &mut limit);
    let tick = match watchdog {
        true => TICK.min(Duration::from_micros(limit) / 4),
        false => TICK,
    };
    let (mut ready, mut said) = (false, String::new());
    let mut before = process.observed();
    while stop
        .run_until_cancelled(tokio::time::sleep(tick))
        .await
        .is_some()
    {
        let now = process.observed();
        let stuck = now.stuck(&before);
        before = now;
        let readiness = process.readiness();
        if readiness.ready && !ready {
            ready = true;
            send(&[NotifyState::Ready]);
        }
        let status = status(&readiness, &stuck);
        if status != said {
            if !stuck.is_empty() {
                tracing::warn!(
                    stuck = stuck.join(", "),
                    "a loop of the process has not turned"
                );
            }
            send(&[NotifyState::Status(&status)]);
            said = status;
        }
        if stuck.is_empty() && !ready {
            let micros = u32::try_from(STARTING.as_micros()).unwrap_or(u32::MAX);
            send(&[NotifyState::ExtendTimeoutUsec(micros)]);
        } else if stuck.is_empty() && watchdog {
            send(&[NotifyState::Watchdog]);
        }
    }
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("Stopping: connections drain."),
    ]);
}

/// Tells systemd that the configuration is read again; `after` that it has been.
pub(crate) fn reload(act: impl FnOnce()) {
    reloading();
    act();
    reloaded();
}

/// Tells systemd that the process of that number is the main one from now on. Another one speaks for itself: this one
/// says nothing any more.
pub(crate) fn succeeded_by(pid: u32) {
    let is_other = pid != std::process::id();
    if !is_other {
        SILENT.store(false, Ordering::Relaxed);
    }
    send(&[NotifyState::MainPid(pid)]);
    SILENT.store(is_other, Ordering::Relaxed);
}

/// Tells systemd that the process reloads, until [`reloaded`], here or in another process that has taken over.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// Tells systemd that it has reloaded.
pub(crate) fn reloaded() {
    send(&[NotifyState::Ready]);
}

fn status(readiness: &Readiness, stuck: &[String]) -> String {
    if !stuck.is_empty() {
        return format!("Stuck: {}.", stuck.join(", "));
    }
    match readiness.missing.first() {
        None => "Ready.".to_owned(),
        Some(first) => format!("Not ready: {first}"),
    }
}

fn send(state: &[NotifyState<'_>]) {
    if SILENT.load(Ordering::Relaxed) {
        return;
    }
    // An error is ignored: where systemd does not listen there is no one to tell.
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::debug!(%error, "systemd can't be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_gone_on_is_named() {
        let observed = |worker, store, told, done| Observed {
            turns: vec![("worker".to_owned(), worker), ("store".to_owned(), store)],
            told,
            done,
        };
        for (before, now, stuck) in [
            (observed(1, 1, 5, 5), observed(2, 2, 5, 5), &[][..]),
            (observed(1, 1, 5, 5), observed(2, 1, 5, 5), &["store"][..]),
            (
                observed(1, 1, 5, 5),
                observed(1, 1, 5, 5),
                &["worker", "store"],
            ),
            // Told since: it is still on its way.
            (observed(1, 1, 5, 5), observed(2, 2, 9, 5), &[]),
            (observed(1, 1, 9, 5), observed(2, 2, 9, 7), &[]),
            (
                observed(1, 1, 9, 5),
                observed(2, 2, 9, 5),
                &["what takes in changes"],
            ),
        ] {
            assert_eq!(now.stuck(&before), stuck, "{before:?} {now:?}");
        }
    }
}
