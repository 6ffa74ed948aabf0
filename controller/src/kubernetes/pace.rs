//! As many writes at a time as the API server takes.
//!
//! One that is busy refuses (429): nothing has happened, and the same request may be sent again. Where
//! one is refused, or not answered in time, one fewer is sent at a time from then on; where all goes
//! well, now and then one more.

use std::sync::Mutex;
use std::time::Duration;

use kube::Error;
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;

use super::settings::REQUEST;
use super::term::Term;
use crate::feed::lock;

/// On their way at a time, at most.
pub(super) const MOST: usize = 32;

/// So many that went well let one more on its way.
const GOOD: usize = 16;

/// How often a request is sent that is refused each time, and the first and longest pause before it
/// is sent again.
const TRIES: u32 = 8;
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How many requests are on their way.
#[derive(Debug)]
pub(super) struct Pace {
    room: Semaphore,
    allowed: Mutex<Allowed>,
}

#[derive(Debug)]
struct Allowed {
    at_a_time: usize,
    good: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            room: Semaphore::new(MOST),
            allowed: Mutex::new(Allowed {
                at_a_time: MOST,
                good: 0,
            }),
        }
    }
}

/// Whether the API server had no room for a request.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 429)
}

/// What an answer says of how many requests the API server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// It has time for them.
    Well,
    /// It had no room for this one, with which nothing has happened.
    Refused,
    /// It, or what stands before it, has too much to do.
    Ailing,
    /// Nothing: something else is wrong.
    Neither,
}

impl Sign {
    fn of<T>(answer: &Result<kube::Result<T>, Elapsed>) -> Self {
        match answer {
            Ok(Ok(_)) => Self::Well,
            Ok(Err(error)) if is_refusal(error) => Self::Refused,
            Ok(Err(Error::Api(status))) => match status.code {
                400..500 => Self::Well,
                503 | 504 => Self::Ailing,
                _ => Self::Neither,
            },
            Ok(Err(_)) => Self::Neither,
            Err(_) => Self::Ailing,
        }
    }
}

impl Pace {
    /// Sends a request when there is room for it, and again where it was refused. Nothing, where this
    /// process does not lead any more when its turn comes.
    pub(super) async fn send<T, F>(
        &self,
        term: &Term,
        request: impl Fn() -> F,
    ) -> Option<Result<kube::Result<T>, Elapsed>>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut tries = 0;
        loop {
            // It is never closed.
            let place = self.room.acquire().await.ok()?;
            if !term.holds() {
                return None;
            }
            let answer = tokio::time::timeout(REQUEST, request()).await;
            let sign = Sign::of(&answer);
            match sign {
                Sign::Well => self.went_well(),
                Sign::Refused | Sign::Ailing => {
                    if self.was_too_much() {
                        place.forget();
                    } else {
                        drop(place);
                    }
                }
                Sign::Neither => {}
            }
            tries += 1;
            if sign != Sign::Refused || tries == TRIES {
                return Some(answer);
            }
            tokio::time::sleep((PAUSE.0 * 2u32.pow(tries)).min(PAUSE.1)).await;
        }
    }

    /// Whether one fewer is sent at a time from now on.
    fn was_too_much(&self) -> bool {
        let mut allowed = lock(&self.allowed);
        allowed.good = 0;
        let fewer = allowed.at_a_time > 1;
        allowed.at_a_time -= usize::from(fewer);
        fewer
    }

    fn went_well(&self) {
        let mut allowed = lock(&self.allowed);
        allowed.good += 1;
        if allowed.good >= GOOD && allowed.at_a_time < MOST {
            allowed.good = 0;
            allowed.at_a_time += 1;
            self.room.add_permits(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use kube::core::Status;

    use super::*;

    #[tokio::test]
    async fn of_many_requests_all_come_about_where_one_is_taken_at_a_time() {
        let (pace, term) = (Pace::default(), Term::default());
        term.set(Some(Instant::now() + Duration::from_secs(600)));
        let (inside, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let request = || async {
            if inside.fetch_add(1, Ordering::Relaxed) > 0 {
                inside.fetch_sub(1, Ordering::Relaxed);
                refused.fetch_add(1, Ordering::Relaxed);
                let status = Status::failure("busy", "TooManyRequests").with_code(429);
                return Err(Error::Api(status.boxed()));
            }
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        };
        let all = (0..200).map(|_| pace.send(&term, request));
        for answer in futures::future::join_all(all).await {
            answer.unwrap().unwrap().unwrap();
        }
        // It was found out soon how many are taken, and now and then whether it are more.
        let refused = refused.load(Ordering::Relaxed);
        assert!((MOST - 1..100).contains(&refused), "{refused}");
        term.set(None);
        assert!(pace.send(&term, request).await.is_none());
    }

    #[tokio::test]
    async fn an_ailing_api_server_is_given_less_and_not_more() {
        let (pace, term) = (Pace::default(), Term::default());
        term.set(Some(Instant::now() + Duration::from_secs(600)));
        let at_a_time = || lock(&pace.allowed).at_a_time;
        let answer = async |code: u16| {
            let request = || async move {
                let status = Status::failure("so it is", "Reason").with_code(code);
                Err::<(), _>(Error::Api(status.boxed()))
            };
            // It is told at once: what was sent may have been done.
            let answer = pace.send(&term, request).await;
            answer.unwrap().unwrap().unwrap_err();
        };
        for (count, code) in [503, 504, 503].into_iter().enumerate() {
            answer(code).await;
            assert_eq!(at_a_time(), MOST - 1 - count);
        }
        for _ in 0..2 * GOOD {
            answer(500).await;
        }
        assert_eq!(at_a_time(), MOST - 3);
        // That one object is not taken says that there is time for it.
        for _ in 0..GOOD {
            answer(422).await;
        }
        assert_eq!(at_a_time(), MOST - 2);
        assert_eq!(pace.room.available_permits(), MOST - 2);
        // However bad it is, one is sent.
        for _ in 0..2 * MOST {
            answer(503).await;
        }
        assert_eq!((at_a_time(), pace.room.available_permits()), (1, 1));
    }

    #[tokio::test]
    async fn no_answer_in_time_is_a_sign_of_too_much() {
        let late = tokio::time::timeout(Duration::ZERO, std::future::pending()).await;
        let answer: Result<kube::Result<()>, _> = late;
        assert_eq!(Sign::of(&answer), Sign::Ailing);
    }
}
