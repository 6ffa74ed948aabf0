//! Slow start: an endpoint that has come back takes a growing share.

use std::time::Duration;

use crate::route::Tick;

/// The whole share, in the parts that [`share`] counts.
pub const WHOLE: u32 = 1_000;

/// The share at first: a tenth. With nothing an endpoint would learn nothing, and of a port with a connection a minute
/// it would get none for long.
const FIRST: u32 = WHOLE / 10;

/// The share that an endpoint gets at `now`, in parts of [`WHOLE`]: a tenth when it comes back at `returned`, all of it
/// after the time `over`, and in between in proportion to the time. One that has not come back has all of it.
pub fn share(returned: Option<Tick>, over: Duration, now: Tick) -> u32 {
    let Some(returned) = returned else {
        return WHOLE;
    };
    let over = over.as_millis();
    let since = u128::from(now.0.saturating_sub(returned.0));
    if since >= over {
        return WHOLE;
    }
    let grown = u128::from(WHOLE - FIRST) * since / over;
    FIRST + u32::try_from(grown).unwrap_or(WHOLE - FIRST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OVER: Duration = Duration::from_secs(10);

    #[test]
    fn it_grows_from_a_tenth_to_the_whole() {
        let came = Some(Tick(5_000));
        for (now, wanted) in [
            (5_000, 100),
            (6_000, 190),
            (10_000, 550),
            (14_999, 999),
            (15_000, 1_000),
            (99_000, 1_000),
            // A clock of another thread may be a little behind.
            (4_990, 100),
        ] {
            assert_eq!(share(came, OVER, Tick(now)), wanted, "{now}");
        }
        assert_eq!(share(None, OVER, Tick(5_000)), WHOLE);
        assert_eq!(share(came, Duration::ZERO, Tick(5_000)), WHOLE);
    }

    proptest! {
        #[test]
        fn it_never_falls_and_stays_within_its_bounds(came: u64, over in 0..u64::MAX, a: u64, b: u64) {
            let (first, then) = (a.min(b), a.max(b));
            let at = |now| share(Some(Tick(came)), Duration::from_millis(over), Tick(now));
            prop_assert!((FIRST..=WHOLE).contains(&at(first)));
            prop_assert!(at(first) <= at(then));
        }
    }
}
