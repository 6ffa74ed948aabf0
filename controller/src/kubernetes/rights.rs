//! What our role allows (RBAC), asked and remembered for a moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairway_config::object::Kind;
use tokio::sync::Mutex;

/// How long an answer is remembered, and how long it is remembered that there was none: a rule
/// against thousands of Services makes thousands of requests fail in a moment.
const KNOWN: Duration = Duration::from_secs(10);
const UNKNOWN: Duration = Duration::from_secs(1);

/// What can be patched: a kind of objects, or a subresource of it.
type Patched = (Kind, Option<&'static str>);

/// The last answers: they are the same in all namespaces.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// Locked during a question: of many that want to know, one asks.
    heard: Mutex<BTreeMap<Patched, (Option<bool>, Instant)>>,
}

impl Rights {
    pub(super) async fn of<F>(&self, patched: Patched, ask: impl FnOnce() -> F) -> Option<bool>
    where
        F: Future<Output = Option<bool>>,
    {
        let mut heard = self.heard.lock().await;
        if let Some((allowed, at)) = heard.get(&patched) {
            let holds = if allowed.is_some() { KNOWN } else { UNKNOWN };
            if at.elapsed() < holds {
                return *allowed;
            }
        }
        let allowed = ask().await;
        heard.insert(patched, (allowed, Instant::now()));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn of_many_that_want_to_know_a_right_one_asks() {
        let (rights, asked) = (Rights::default(), AtomicUsize::new(0));
        let ask = || async {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Some(true)
        };
        let status = (Kind::Service, Some("status"));
        let began = Instant::now();
        let all = (0..100).map(|_| rights.of(status, ask));
        let answers = futures::future::join_all(all).await;
        assert!(answers.into_iter().all(|it| it == Some(true)));
        // Another right is another question.
        let other = rights.of((Kind::Service, None), || async { Some(false) });
        assert_eq!(other.await, Some(false));
        assert_eq!(rights.of(status, ask).await, Some(true));
        let asked = asked.load(Ordering::Relaxed);
        assert!(asked == 1 || began.elapsed() >= KNOWN, "{asked}");
    }
}
