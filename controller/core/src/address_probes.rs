//! Addresses that are asked for on the network before a Service is shown with them.
//!
//! An address that nobody asked for by number, of a pool that is announced on layer 2, is reserved for its Service
//! and not shown until a gateway has asked on its network whether another host uses it. A number tells which question
//! an answer belongs to. The first answer that says something counts. Nobody waits where no gateway lives, where all
//! that live can't ask, and for longer than [`PATIENCE`]: an address that could not be asked for is given out, and
//! its gateways say what they find. Where gateways answered nothing at all for that time, those that wait their turn
//! are given out as well.
//!
//! An address that another host uses is set aside for [`ASIDE`], and the next one is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairway_config::exchange::{AddressReport, AddressState};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::time::Timestamp;

/// How long gateways that live may take to answer; in seconds, of which the first may be over at once.
pub(crate) const PATIENCE: i64 = 4;

/// How long an address is given to nobody who does not ask for it, after another host was found to use it; in
/// seconds.
pub(crate) const ASIDE: i64 = 300;

/// So long an answer counts that nobody uses an address, in seconds: a change of its Service does not ask again.
const FRESH: i64 = 10;

/// So many addresses are asked for at a time: all of them stand in the statuses of pools.
const AT_ONCE: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct AddressProbes {
    /// Gateways are asked for these now.
    asked: BTreeMap<IpAddr, OpenProbe>,
    /// These wait for others to be answered.
    waiting: BTreeSet<IpAddr>,
    /// Those of both of which a Service has let go since the last call of [`Self::retain`].
    let_go: BTreeSet<IpAddr>,
    aside: BTreeMap<IpAddr, AddressAside>,
    /// Addresses that were found free a moment ago, and until when that counts.
    free: BTreeMap<IpAddr, Timestamp>,
    last_number: u64,
    /// A gateway has answered since the last call of [`Self::conclude`].
    is_answered: bool,
    /// When a gateway answered the last time.
    last_answer: Option<Timestamp>,
    /// Others are asked for than at the last call of [`Self::news`].
    is_news: bool,
}

#[derive(Debug)]
struct OpenProbe {
    /// When it was asked.
    at: Timestamp,
    /// The number of the question.
    number: u64,
    /// Gateways that can't ask.
    unable: BTreeSet<ClusterName>,
    answer: Option<ProbeAnswer>,
}

/// What a gateway has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeAnswer {
    /// No other host uses the address, or it could not be known.
    Free,
    /// The one with this hardware address does.
    Taken(Box<str>),
}

/// An address that another host uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressAside {
    /// The hardware address of that host.
    pub(crate) hardware_address: Box<str>,
    /// Until then it is set aside.
    pub(crate) until: Timestamp,
    /// The Services that would have got it.
    pub(crate) services: BTreeSet<ServiceName>,
}

/// The gateways that may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Respondents {
    /// The one in this process.
    Own,
    /// These live.
    Processes(BTreeSet<ClusterName>),
}

impl AddressProbes {
    /// Whether an address is not to be shown yet.
    pub(crate) fn is_open(&self, address: IpAddr) -> bool {
        self.asked.contains_key(&address) || self.waiting.contains(&address)
    }

    /// How many there are that are not to be shown yet.
    pub(crate) fn open(&self) -> usize {
        self.asked.len() + self.waiting.len()
    }

    /// An address was reserved that has to be asked for.
    pub(crate) fn begin(&mut self, address: IpAddr) {
        if !self.free.contains_key(&address) && !self.asked.contains_key(&address) {
            self.waiting.insert(address);
        }
    }

    /// Nobody has the address at this moment. Who has let go of it may take it again before [`Self::retain`].
    pub(crate) fn let_go(&mut self, address: IpAddr) {
        if self.is_open(address) {
            self.let_go.insert(address);
        }
    }

    /// A gateway reports on an address: perhaps that is an answer.
    pub(crate) fn hear(&mut self, address: IpAddr, gateway: &ClusterName, report: &AddressReport) {
        let Some(probe) = self.asked.get_mut(&address) else {
            return;
        };
        if report.probe != Some(probe.number) {
            return;
        }
        self.is_answered = true;
        if probe.answer.is_some() {
            return;
        }
        match report.state {
            // What a gateway of ours has is not another host's.
            AddressState::Free | AddressState::Owned | AddressState::Elsewhere => {
                probe.answer = Some(ProbeAnswer::Free);
            }
            AddressState::Conflict => {
                let conflict = report.conflict.as_ref();
                let hardware = conflict.map(|it| it.hardware_address.clone());
                probe.answer = Some(ProbeAnswer::Taken(hardware.unwrap_or_default()));
            }
            AddressState::Unowned => {
                probe.unable.insert(ClusterName::clone(gateway));
            }
        }
    }

    /// Ends what is answered or need not be waited for, and answers with that.
    pub(crate) fn conclude(
        &mut self,
        now: Timestamp,
        respondents: &Respondents,
    ) -> Vec<(IpAddr, ProbeAnswer)> {
        if std::mem::take(&mut self.is_answered) {
            self.last_answer = Some(now);
        }
        // A clock that was set back would have them wait for as long.
        let is_late = |at: Timestamp| at.0 + PATIENCE <= now.0 || now < at;
        let is_silent = |at: Timestamp| self.last_answer.is_none_or(|last| last < at);
        let mut is_nobody_there =
            matches!(respondents, Respondents::Processes(alive) if alive.is_empty());
        is_nobody_there |= self
            .asked
            .values()
            .any(|it| is_late(it.at) && is_silent(it.at));
        let concluded = self.asked.extract_if(.., |_, probe| {
            let is_over = match respondents {
                Respondents::Processes(alive) => alive.is_subset(&probe.unable),
                Respondents::Own => !probe.unable.is_empty(),
            };
            probe.answer.is_some() || is_over || is_nobody_there || is_late(probe.at)
        });
        let answer = |probe: OpenProbe| probe.answer.unwrap_or(ProbeAnswer::Free);
        let mut concluded: Vec<_> = concluded.map(|(at, it)| (at, answer(it))).collect();
        self.is_news |= !concluded.is_empty();
        if is_nobody_there {
            let waiting = std::mem::take(&mut self.waiting).into_iter();
            concluded.extend(waiting.map(|address| (address, ProbeAnswer::Free)));
        }
        let free = concluded.iter().filter(|(_, it)| *it == ProbeAnswer::Free);
        let until = Timestamp(now.0 + FRESH);
        self.free.extend(free.map(|(address, _)| (*address, until)));
        concluded
    }

    /// Forgets those of which a Service has let go, and which nobody needs.
    pub(crate) fn retain(&mut self, is_needed: impl Fn(IpAddr) -> bool) {
        for address in std::mem::take(&mut self.let_go) {
            if !is_needed(address) {
                self.is_news |= self.asked.remove(&address).is_some();
                self.waiting.remove(&address);
            }
        }
    }

    /// Other pools are there: the next call of [`Self::retain`] looks at all, and pools have to be told what is asked.
    pub(crate) fn pools_have_changed(&mut self) {
        let all = self.asked.keys().chain(&self.waiting).copied();
        self.let_go = all.collect();
        self.is_news = true;
    }

    /// Asks for those that wait, as far as there is room.
    pub(crate) fn ask(&mut self, now: Timestamp) {
        while self.asked.len() < AT_ONCE
            && let Some(address) = self.waiting.pop_first()
        {
            // Greater than those of a controller before this one: it asked for no more than so many in a second.
            let first = u64::try_from(now.0).unwrap_or_default() * AT_ONCE as u64;
            let number = first.max(self.last_number + 1);
            self.last_number = number;
            let probe = OpenProbe {
                at: now,
                number,
                unable: BTreeSet::new(),
                answer: None,
            };
            self.asked.insert(address, probe);
            self.is_news = true;
        }
    }

    /// What gateways are asked now, where that is something else than at the last call.
    pub(crate) fn news(&mut self) -> Option<impl Iterator<Item = (IpAddr, u64)>> {
        let all = self.asked.iter().map(|(address, it)| (*address, it.number));
        std::mem::take(&mut self.is_news).then_some(all)
    }

    /// Another host uses the address.
    pub(crate) fn set_aside(&mut self, address: IpAddr, aside: AddressAside) {
        self.aside.insert(address, aside);
    }

    /// The addresses that are set aside no longer.
    pub(crate) fn take_back(&mut self, now: Timestamp) -> Vec<IpAddr> {
        let is_over = |until: Timestamp, span| until <= now || until.0 > now.0 + span;
        self.free.retain(|_, until| !is_over(*until, FRESH));
        let over = self.aside.extract_if(.., |_, it| is_over(it.until, ASIDE));
        over.map(|(address, _)| address).collect()
    }

    /// The addresses that are set aside.
    pub(crate) fn aside(&self) -> impl Iterator<Item = (IpAddr, &AddressAside)> {
        self.aside.iter().map(|(address, it)| (*address, it))
    }

    /// Whether an address is set aside.
    pub(crate) fn is_aside(&self, address: IpAddr) -> bool {
        self.aside.contains_key(&address)
    }

    /// When there is something to do, whatever gateways say.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        let asked = self.asked.values();
        let asked = asked.map(|it| Timestamp(it.at.0 + PATIENCE));
        asked.chain(self.aside.values().map(|it| it.until)).min()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    /// So many addresses are to be asked for.
    fn begun(count: usize) -> AddressProbes {
        let mut probes = AddressProbes::default();
        for n in 0..count {
            probes.begin(address(n));
        }
        probes.ask(NOW);
        probes
    }

    fn address(n: usize) -> IpAddr {
        let n = u32::try_from(n).unwrap();
        IpAddr::from((0x0a00_0000 + n).to_be_bytes())
    }

    fn one_lives() -> Respondents {
        Respondents::Processes(["edge-1".into()].into())
    }

    /// A gateway answers this question.
    fn answer(probes: &mut AddressProbes, address: IpAddr, number: u64) {
        let report = AddressReport {
            state: AddressState::Free,
            owner: None,
            since: NOW,
            term: 0,
            why: "".into(),
            interfaces: Vec::new(),
            conflict: None,
            successor: None,
            probe: Some(number),
        };
        probes.hear(address, &"edge-1".into(), &report);
    }

    #[test]
    fn thousands_of_addresses_are_asked_for_some_at_a_time() {
        let mut probes = begun(AT_ONCE + 100);
        let asked: Vec<_> = probes.news().unwrap().collect();
        assert_eq!(asked.len(), AT_ONCE);
        assert!(probes.news().is_none());
        for &(address, number) in asked.iter().skip(50) {
            answer(&mut probes, address, number);
        }
        // Those that are answered wait for none of the others.
        assert_eq!(probes.conclude(NOW, &one_lives()).len(), AT_ONCE - 50);
        probes.ask(NOW);
        assert_eq!(probes.news().unwrap().count(), 150);
        // One that does answer is waited for by each as long as by the first.
        let late = Timestamp(NOW.0 + PATIENCE);
        let (address, number) = probes
            .asked
            .iter()
            .map(|(at, it)| (*at, it.number))
            .next_back()
            .unwrap();
        answer(&mut probes, address, number);
        assert_eq!(
            probes.conclude(Timestamp(late.0 - 1), &one_lives()).len(),
            1
        );
        assert_eq!(probes.conclude(late, &one_lives()).len(), 149);
        assert_eq!(probes.open(), 0);
    }

    #[test]
    fn where_gateways_answer_nothing_nobody_waits_for_his_turn() {
        let mut probes = begun(3 * AT_ONCE);
        let late = Timestamp(NOW.0 + PATIENCE);
        assert_eq!(probes.due(), Some(late));
        assert!(
            probes
                .conclude(Timestamp(late.0 - 1), &one_lives())
                .is_empty()
        );
        assert_eq!(probes.conclude(late, &one_lives()).len(), 3 * AT_ONCE);
        assert_eq!((probes.open(), probes.due()), (0, None));
    }

    #[test]
    fn a_clock_that_is_set_back_has_nobody_wait_for_longer() {
        let mut probes = begun(1);
        let aside = AddressAside {
            hardware_address: "".into(),
            until: Timestamp(NOW.0 + ASIDE),
            services: BTreeSet::new(),
        };
        probes.set_aside(address(7), aside);
        assert!(probes.take_back(NOW).is_empty());
        let before = Timestamp(NOW.0 - 3600);
        assert_eq!(probes.conclude(before, &one_lives()).len(), 1);
        assert_eq!(probes.take_back(before), [address(7)]);
    }

    #[test]
    fn a_controller_that_begins_later_has_greater_numbers() {
        let mut probes = begun(3 * AT_ONCE);
        let last = probes.news().unwrap().map(|(_, number)| number).max();
        let mut next = AddressProbes::default();
        next.begin(address(0));
        next.ask(Timestamp(NOW.0 + 1));
        assert!(next.news().unwrap().map(|(_, number)| number).min() > last);
    }
}
