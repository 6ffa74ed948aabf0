//! Tells systemd how the process is, where it asks for that (sd_notify(3), `Type=notify`).
//!
//! The watchdog is fed on evidence alone: every loop of the process has turned since it was last asked
//! to, and what the store told then has been worked in. A loop that is stuck ends the process by this
//! way, to be started anew.

use std::time::Duration;

use fairway_config::view::Readiness;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// How often it is looked how things are, at most.
const TICK: Duration = Duration::from_secs(1);

/// So much longer a start may take from each moment on in which all loops turn.
const STARTING: Duration = Duration::from_secs(60);

/// What is known of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// How often each loop has turned.
    pub(crate) turns: Vec<(String, u64)>,
    /// How much the store has told.
    pub(crate) told: u64,
    /// How much of it has been worked in.
    pub(crate) done: u64,
}

impl Observed {
    /// What has not gone on since `before`, a name each.
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

/// How a process is looked at.
pub(crate) trait Observe: Send + Sync + 'static {
    /// The evidence that it goes on.
    fn observed(&self) -> Observed;
    /// Whether it is ready.
    fn readiness(&self) -> Readiness;
}

/// Tells systemd until `stop` is told, and then that the process stops. Does nothing where systemd does
/// not ask.
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
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
    act();
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
    // Where systemd does not listen there is nobody to tell; without a socket nothing is sent.
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
