//! How long a client was not served: the figures of its attempts. Pure.

use std::time::{Duration, Instant};

/// One attempt of a client: a connection of its own, a question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub started: Instant,
    /// What became of it.
    pub end: AttemptEnd,
}

/// See [`Attempt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// It was answered with this line: who answered, and whom that saw.
    Answered(String),
    /// There was no answer in time.
    GivenUp,
    /// It was refused, reset, or closed without an answer.
    Broken(std::io::ErrorKind),
}

/// What a client saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutageFigures {
    /// How many attempts there were.
    pub attempts: usize,
    /// How many of them had no answer.
    pub failed: usize,
    /// The longest gap between starts of attempts that were answered; the first and the last attempt of all count as
    /// such, so that a client that is served no more is not passed over.
    pub outage: Duration,
    /// The longest gap between starts of attempts: no outage can be told that is shorter.
    pub pause: Duration,
}

/// The figures of attempts in the order of their starts.
pub fn figures(attempts: &[Attempt]) -> OutageFigures {
    let is_good = |it: &&Attempt| matches!(it.end, AttemptEnd::Answered(_));
    let good = attempts.iter().filter(is_good);
    let ends = [attempts.first(), attempts.last()].into_iter().flatten();
    let mut served: Vec<Instant> = good.chain(ends).map(|it| it.started).collect();
    served.sort();
    let all: Vec<Instant> = attempts.iter().map(|it| it.started).collect();
    OutageFigures {
        attempts: attempts.len(),
        failed: attempts.iter().filter(|it| !is_good(it)).count(),
        outage: longest_gap(&served),
        pause: longest_gap(&all),
    }
}

fn longest_gap(times: &[Instant]) -> Duration {
    let gaps = times.windows(2).map(|pair| match pair {
        [one, next] => next.saturating_duration_since(*one),
        _ => Duration::ZERO,
    });
    gaps.max().unwrap_or_default()
}

/// How times are spread.
#[derive(Clone, Debug, Default)]
pub struct Distribution(Vec<Duration>);

impl Distribution {
    /// Of these.
    pub fn new(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one at that quantile, by the nearest rank; nothing of none.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (self.0.len() as f64 * quantile).ceil() as usize;
        let last = self.0.len().checked_sub(1)?;
        self.0.get(rank.saturating_sub(1).min(last)).copied()
    }

    /// How many are not longer than that.
    pub fn within(&self, limit: Duration) -> usize {
        self.0.iter().filter(|it| **it <= limit).count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_outage_is_the_longest_gap_between_starts_of_attempts_that_were_answered() {
        // A letter for each attempt: answered, given up, broken; one every 10 ms, a dot where there is none.
        let table = [
            ("", 0, 0, 0, 0),
            ("a", 1, 0, 0, 0),
            ("aaaa", 4, 0, 10, 10),
            ("aagggaa", 7, 3, 40, 10),
            ("aagagga", 7, 3, 30, 10),
            ("aabbaa", 6, 2, 30, 10),
            // Served no more, and never served.
            ("aagggg", 6, 4, 40, 10),
            ("gggg", 4, 4, 30, 10),
            ("ggaa", 4, 2, 20, 10),
            // The client itself paused.
            ("aa...aa", 4, 0, 40, 40),
        ];
        let start = Instant::now();
        for (letters, attempts, failed, outage, pause) in table {
            let all = letters.chars().enumerate().filter(|(_, it)| *it != '.');
            let all = all.map(|(n, letter)| Attempt {
                started: start + Duration::from_millis(10 * n as u64),
                end: match letter {
                    'a' => AttemptEnd::Answered("a server".to_owned()),
                    'g' => AttemptEnd::GivenUp,
                    _ => AttemptEnd::Broken(std::io::ErrorKind::ConnectionReset),
                },
            });
            let wanted = OutageFigures {
                attempts,
                failed,
                outage: Duration::from_millis(outage),
                pause: Duration::from_millis(pause),
            };
            assert_eq!(figures(&all.collect::<Vec<_>>()), wanted, "{letters}");
        }
    }

    #[test]
    fn a_distribution_makes_no_value_up() {
        let millis = Duration::from_millis;
        let times = Distribution::new((1..=50).rev().map(millis));
        let at = |quantile| times.quantile(quantile).unwrap();
        assert_eq!(
            [at(0.0), at(0.5), at(0.9), at(1.0)],
            [1, 25, 45, 50].map(millis)
        );
        assert_eq!((times.count(), times.within(millis(49))), (50, 49));
        assert_eq!(Distribution::default().quantile(0.5), None);
    }
}
