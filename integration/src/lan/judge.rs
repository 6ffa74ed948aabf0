//! Who answered for an address when: the judgement on what an observer has heard. Pure; it knows nothing of
//! gateways, only of hardware addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::frames::Naming;

/// Somebody was heard to say where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardNaming {
    /// When.
    pub at: Instant,
    /// What was said.
    pub naming: Naming,
}

/// Answers of one host for an address, one soon after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerSpan {
    /// The host that was named.
    pub hardware: [u8; 6],
    /// The first time.
    pub from: Instant,
    /// The last time.
    pub until: Instant,
}

/// Two hosts that were named for one address at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The address.
    pub address: IpAddr,
    /// Who was there first.
    pub one: [u8; 6],
    /// Who came.
    pub other: [u8; 6],
    /// The first word of who came.
    pub from: Instant,
    /// The last word of who is named less long.
    pub until: Instant,
}

impl Overlap {
    /// How long.
    pub fn span(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }
}

/// Answers of a host that are no further apart belong together. An owner whose predecessor was silent for 500 ms, of
/// which it may have answered for 300 ms, comes 200 ms after the last answer of that at the earliest, and its own
/// successor likewise: whoever is back sooner than this was never away.
pub const TOGETHER: Duration = Duration::from_millis(400);

/// The spans in which hosts were named for the address, by their beginnings.
pub fn spans(heard: &[HeardNaming], address: IpAddr) -> Vec<AnswerSpan> {
    let mut of_address: Vec<_> = heard
        .iter()
        .filter(|it| it.naming.address == address)
        .collect();
    of_address.sort_by_key(|it| it.at);
    let mut last: BTreeMap<[u8; 6], usize> = BTreeMap::new();
    let mut spans: Vec<AnswerSpan> = Vec::new();
    for it in of_address {
        let hardware = it.naming.hardware;
        let known = last.get(&hardware).and_then(|at| spans.get_mut(*at));
        match known.filter(|span| it.at.duration_since(span.until) <= TOGETHER) {
            Some(span) => span.until = it.at,
            None => {
                last.insert(hardware, spans.len());
                spans.push(AnswerSpan {
                    hardware,
                    from: it.at,
                    until: it.at,
                });
            }
        }
    }
    spans
}

/// Every time that two hosts were named for an address at once, however short.
pub fn overlaps(heard: &[HeardNaming]) -> Vec<Overlap> {
    let addresses: BTreeSet<IpAddr> = heard.iter().map(|it| it.naming.address).collect();
    let mut found = Vec::new();
    for address in addresses {
        let spans = spans(heard, address);
        for (n, one) in spans.iter().enumerate() {
            // They are in the order of their beginnings.
            let others = spans.iter().skip(n + 1);
            let beside = others.filter(|it| it.from <= one.until && it.hardware != one.hardware);
            found.extend(beside.map(|other| Overlap {
                address,
                one: one.hardware,
                other: other.hardware,
                from: other.from,
                until: one.until.min(other.until),
            }));
        }
    }
    found
}

/// The longest time that two hosts were named for one address at once.
pub fn longest_overlap(heard: &[HeardNaming]) -> Duration {
    let spans = overlaps(heard).into_iter().map(|it| it.span());
    spans.max().unwrap_or_default()
}

/// The longest time between `from` and `until` in which nobody answered for the address.
pub fn longest_silence(
    heard: &[HeardNaming],
    address: IpAddr,
    (from, until): (Instant, Instant),
) -> Duration {
    let mut times: Vec<Instant> = heard
        .iter()
        .filter(|it| it.naming.address == address && it.naming.is_answer)
        .map(|it| it.at)
        .filter(|at| (from..=until).contains(at))
        .collect();
    times.sort();
    times.push(until);
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in times {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

/// The first address of each family.
pub fn one_of_each_family(all: &[IpAddr]) -> Vec<IpAddr> {
    let of = |is_v4| all.iter().find(move |it| it.is_ipv4() == is_v4);
    let both = [of(true), of(false)];
    both.into_iter().flatten().copied().collect()
}

/// Who was named last for each of the addresses that anybody was named for.
pub fn last_named(heard: &[HeardNaming], addresses: &[IpAddr]) -> BTreeMap<IpAddr, [u8; 6]> {
    let addresses: BTreeSet<&IpAddr> = addresses.iter().collect();
    let mut last: BTreeMap<IpAddr, &HeardNaming> = BTreeMap::new();
    for it in heard
        .iter()
        .filter(|it| addresses.contains(&it.naming.address))
    {
        let known = last.entry(it.naming.address).or_insert(it);
        if it.at >= known.at {
            *known = it;
        }
    }
    let last = last.into_iter();
    last.map(|(address, it)| (address, it.naming.hardware))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A host (by its last byte), from when, until when, in milliseconds.
    type HostSpans = &'static [(u8, u64, u64)];

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 19, 1, 1));

    /// Answers of hosts (by their last byte) every 20 ms from one time to another, in milliseconds.
    fn heard(start: Instant, spans: &[(u8, u64, u64)]) -> Vec<HeardNaming> {
        let mut all = Vec::new();
        for &(host, from, until) in spans {
            all.extend((from..=until).step_by(20).map(|at| HeardNaming {
                at: start + Duration::from_millis(at),
                naming: Naming {
                    address: VIP,
                    hardware: [2, 0, 0, 0, 1, host],
                    is_answer: true,
                },
            }));
        }
        all
    }

    #[test]
    fn two_that_answer_at_once_are_found_and_a_change_of_owners_is_none() {
        // What was heard; how long two answered at once; how many spans there are.
        let table: &[(&str, HostSpans, u64, usize)] = &[
            ("one owner", &[(1, 0, 2000)], 0, 1),
            (
                "one follows another",
                &[(1, 0, 1000), (2, 1500, 3000)],
                0,
                2,
            ),
            (
                "at once after the other",
                &[(1, 0, 1000), (2, 1010, 3000)],
                0,
                2,
            ),
            (
                "the last words of the first",
                &[(1, 0, 1000), (2, 900, 3000)],
                100,
                2,
            ),
            (
                "two for all the time",
                &[(1, 0, 2000), (2, 10, 2000)],
                1990 - 10,
                2,
            ),
            ("one visits", &[(1, 0, 2000), (2, 500, 700)], 200, 2),
            (
                "in turns",
                &[(1, 0, 0), (2, 200, 200), (1, 400, 400), (2, 600, 600)],
                200,
                2,
            ),
            (
                "back after a term",
                &[(1, 0, 1000), (2, 1500, 2000), (1, 2500, 3000)],
                0,
                3,
            ),
            (
                "frozen, and back beside its successor",
                &[(1, 0, 1000), (2, 1500, 4000), (1, 3000, 3100)],
                100,
                3,
            ),
            (
                "three",
                &[(1, 0, 1000), (2, 800, 2000), (3, 900, 2000)],
                1100,
                3,
            ),
        ];
        let start = Instant::now();
        for (what, spans_of, wanted, count) in table {
            let heard = heard(start, spans_of);
            assert_eq!(
                longest_overlap(&heard),
                Duration::from_millis(*wanted),
                "{what}"
            );
            assert_eq!(spans(&heard, VIP).len(), *count, "{what}");
            // The order in which they were noted does not matter.
            let backwards: Vec<_> = heard.iter().rev().copied().collect();
            assert_eq!(overlaps(&backwards), overlaps(&heard), "{what}");
        }
    }

    #[test]
    fn a_silence_is_measured_to_both_ends() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let table: &[(&str, HostSpans, (u64, u64), u64)] = &[
            (
                "between two",
                &[(1, 0, 1000), (2, 1700, 3000)],
                (0, 3000),
                700,
            ),
            ("at the end", &[(1, 0, 1000)], (0, 3000), 2000),
            ("at the beginning", &[(1, 500, 1000)], (0, 1000), 500),
            ("none", &[(1, 0, 1000)], (0, 1000), 20),
            ("nobody ever", &[], (0, 1000), 1000),
            (
                "what was before does not count",
                &[(1, 0, 980), (1, 1800, 2000)],
                (1700, 2000),
                100,
            ),
        ];
        for (what, spans, (from, until), wanted) in table {
            let silence = longest_silence(&heard(start, spans), VIP, (at(*from), at(*until)));
            assert_eq!(silence, Duration::from_millis(*wanted), "{what}");
        }
        // A word that nobody asked for is no answer.
        let mut heard = heard(start, &[(1, 0, 1000)]);
        heard[20].naming.is_answer = false;
        assert_eq!(
            longest_silence(&heard, VIP, (start, at(1000))),
            Duration::from_millis(40)
        );
    }

    #[test]
    fn the_last_word_counts() {
        let start = Instant::now();
        let heard = heard(start, &[(2, 1500, 1600), (1, 0, 1000)]);
        assert_eq!(
            last_named(&heard, &[VIP]),
            [(VIP, [2, 0, 0, 0, 1, 2])].into()
        );
        assert!(last_named(&heard, &[]).is_empty());
    }
}
