//! From the outcomes of probes to a verdict: an endpoint fails after `fall` failures in a row, and passes again after
//! `rise` successes in a row, as in HAProxy. Of one that nothing is known of the first probe decides: it may never have
//! worked.

use std::sync::Arc;

use fairway_config::health_check::EndpointCheck;

use crate::health::CheckVerdict;
use crate::route::Tick;

/// The outcome of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The endpoint has answered as it should.
    Passed,
    /// It has not; the end of a sentence says why: `HTTP 503`.
    Failed(Arc<str>),
    /// The probe could not be made, as this host lacks something: it says nothing of the endpoint.
    NotMade(Arc<str>),
}

/// What is known of an endpoint by its probes.
#[derive(Clone, Debug, Default)]
pub struct RiseFall {
    verdict: Option<CheckVerdict>,
    /// So many outcomes in a row were other than the verdict.
    against: u16,
    /// When the first of these ended.
    since: Tick,
}

impl RiseFall {
    /// The verdict; none before the first probe.
    pub fn verdict(&self) -> Option<CheckVerdict> {
        self.verdict.clone()
    }

    /// Goes on with the verdict of another process, where there is none yet.
    pub fn go_on(&mut self, verdict: CheckVerdict) {
        self.verdict.get_or_insert(verdict);
    }

    /// Whether the last outcome was other than the verdict, or nothing is known: the next one is needed soon.
    pub fn is_changing(&self) -> bool {
        self.against > 0 || self.verdict.is_none()
    }

    /// Takes in an outcome. Returns whether the verdict has changed.
    pub fn record(&mut self, outcome: &CheckOutcome, check: &EndpointCheck, now: Tick) -> bool {
        let needed = match (&self.verdict, outcome) {
            (_, CheckOutcome::NotMade(_)) => return false,
            (Some(CheckVerdict::Passing), CheckOutcome::Passed)
            | (Some(CheckVerdict::Failing { .. }), CheckOutcome::Failed(_)) => {
                self.against = 0;
                return false;
            }
            (Some(CheckVerdict::Passing), CheckOutcome::Failed(_)) => check.fall,
            (Some(CheckVerdict::Failing { .. }), CheckOutcome::Passed) => check.rise,
            (None, _) => 1,
        };
        if self.against == 0 {
            self.since = now;
        }
        self.against = self.against.saturating_add(1);
        if self.against < needed {
            return false;
        }
        self.against = 0;
        self.verdict = Some(match outcome {
            CheckOutcome::Failed(why) => CheckVerdict::Failing {
                since: self.since,
                why: why.clone(),
            },
            _ => CheckVerdict::Passing,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use fairway_config::health_check::CheckKind;
    use proptest::prelude::*;

    use super::*;

    fn check(rise: u16, fall: u16) -> EndpointCheck {
        let kind = CheckKind::Grpc { service: "".into() };
        EndpointCheck {
            rise,
            fall,
            ..EndpointCheck::new(kind)
        }
    }

    fn outcome(letter: char) -> CheckOutcome {
        match letter {
            '+' => CheckOutcome::Passed,
            '-' => CheckOutcome::Failed("HTTP 503".into()),
            _ => CheckOutcome::NotMade("no descriptor".into()),
        }
    }

    /// After each outcome: u for up, d for down, ? for nothing known; upper case where that is new.
    fn run(outcomes: &str, rise: u16, fall: u16) -> String {
        let mut state = RiseFall::default();
        let check = check(rise, fall);
        let outcomes = outcomes.chars().enumerate();
        let shown = outcomes.map(|(at, letter)| {
            let is_new = state.record(&outcome(letter), &check, Tick(at as u64));
            let letter = match state.verdict() {
                None => '?',
                Some(CheckVerdict::Passing) => 'u',
                Some(CheckVerdict::Failing { .. }) => 'd',
            };
            if is_new {
                letter.to_ascii_uppercase()
            } else {
                letter
            }
        });
        shown.collect()
    }

    #[test]
    fn it_takes_so_many_in_a_row() {
        for (outcomes, rise, fall, shown) in [
            ("++++", 2, 3, "Uuuu"),
            ("-++", 2, 3, "DdU"),
            ("+---", 2, 3, "UuuD"),
            ("+--+--+---", 2, 3, "UuuuuuuuuD"),
            ("---+-++", 2, 3, "DdddddU"),
            ("+-+-", 1, 1, "UDUD"),
            // What could not be made counts neither way.
            (" -", 2, 3, "?D"),
            ("+- - -", 2, 3, "UuuuuD"),
            ("-+ +", 2, 3, "DddU"),
        ] {
            assert_eq!(run(outcomes, rise, fall), shown, "{outcomes}");
        }
    }

    #[test]
    fn it_fails_since_the_first_of_the_failures_in_a_row() {
        let mut state = RiseFall::default();
        let check = check(2, 3);
        for (at, letter) in "+-+---".chars().enumerate() {
            state.record(&outcome(letter), &check, Tick(at as u64));
        }
        assert_eq!(
            state.verdict(),
            Some(CheckVerdict::Failing {
                since: Tick(3),
                why: "HTTP 503".into()
            })
        );
    }

    proptest! {
        /// Against a model that looks at all outcomes anew each time.
        #[test]
        fn it_is_as_the_whole_history_says(
            outcomes in "[+\\- ]{0,40}", rise in 1..5_u16, fall in 1..5_u16,
        ) {
            let made: Vec<char> = outcomes.chars().filter(|it| *it != ' ').collect();
            let mut is_up = None;
            let mut run_length = 0;
            for letter in &made {
                let passed = *letter == '+';
                match is_up {
                    None => is_up = Some(passed),
                    Some(up) if up == passed => run_length = 0,
                    Some(up) => {
                        run_length += 1;
                        if run_length >= if up { fall } else { rise } {
                            is_up = Some(passed);
                            run_length = 0;
                        }
                    }
                }
            }
            let shown = run(&outcomes, rise, fall);
            let last = shown.chars().last().map(|it| it.to_ascii_lowercase());
            let wanted = match is_up {
                None => '?',
                Some(true) => 'u',
                Some(false) => 'd',
            };
            prop_assert!(last.is_none_or(|last| last == wanted), "{outcomes}: {shown}");
        }
    }
}
