//! Addresses that are asked for on the network before a Service is shown with them.
//!
//! An address that nobody asked for by number, of a pool that is announced on layer 2, is reserved for its Service
//! and not shown until a gateway has asked on its network whether another host uses it. A number tells which question
//! an answer belongs to. The first answer that says something counts. Nobody waits where no gateway lives, where all
//! that live can't ask, and for longer than [`PATIENCE`]: an address that could not be asked for is given out, and
//! its gateways say what they find.
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
    open: BTreeMap<IpAddr, OpenProbe>,
    aside: BTreeMap<IpAddr, AddressAside>,
    /// Addresses that were found free a moment ago, and until when that counts.
    free: BTreeMap<IpAddr, Timestamp>,
    last_number: u64,
}

#[derive(Debug, Default)]
struct OpenProbe {
    /// When it was asked, and the number of the question; nothing: it waits for others to be answered.
    asked: Option<(Timestamp, u64)>,
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
        self.open.contains_key(&address)
    }

    /// How many there are that are not to be shown yet.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    /// An address was reserved that has to be asked for.
    pub(crate) fn begin(&mut self, address: IpAddr) {
        if self.free.contains_key(&address) {
            return;
        }
        self.open.entry(address).or_default();
    }

    /// A gateway reports on an address: perhaps that is an answer.
    pub(crate) fn hear(&mut self, address: IpAddr, gateway: &ClusterName, report: &AddressReport) {
        let Some(probe) = self.open.get_mut(&address) else {
            return;
        };
        let number = probe.asked.map(|(_, number)| number);
        if number.is_none() || report.probe != number || probe.answer.is_some() {
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
        let concluded = self.open.extract_if(.., |_, probe| {
            let is_over = match (&probe.asked, respondents) {
                (_, Respondents::Processes(alive)) if alive.is_subset(&probe.unable) => true,
                (_, Respondents::Own) if !probe.unable.is_empty() => true,
                (Some((at, _)), _) => at.0 + PATIENCE <= now.0,
                (None, _) => false,
            };
            probe.answer.is_some() || is_over
        });
        let answer = |probe: OpenProbe| probe.answer.unwrap_or(ProbeAnswer::Free);
        let concluded: Vec<_> = concluded.map(|(at, it)| (at, answer(it))).collect();
        let free = concluded.iter().filter(|(_, it)| *it == ProbeAnswer::Free);
        let until = Timestamp(now.0 + FRESH);
        self.free.extend(free.map(|(address, _)| (*address, until)));
        concluded
    }

    /// Forgets those that need not be asked for any more.
    pub(crate) fn retain(&mut self, is_needed: impl Fn(IpAddr) -> bool) {
        self.open.retain(|address, _| is_needed(*address));
    }

    /// Asks for those that were not asked for yet.
    pub(crate) fn ask(&mut self, now: Timestamp) {
        let asked = self.open.values().filter(|it| it.asked.is_some()).count();
        let waiting = self.open.values_mut().filter(|it| it.asked.is_none());
        for probe in waiting.take(AT_ONCE.saturating_sub(asked)) {
            // Greater than those of a controller before this one.
            let number = u64::try_from(now.0)
                .unwrap_or_default()
                .max(self.last_number + 1);
            self.last_number = number;
            probe.asked = Some((now, number));
        }
    }

    /// What gateways are asked now.
    pub(crate) fn asked(&self) -> impl Iterator<Item = (IpAddr, u64)> {
        let all = self.open.iter();
        all.filter_map(|(address, it)| Some((*address, it.asked?.1)))
    }

    /// Another host uses the address.
    pub(crate) fn set_aside(&mut self, address: IpAddr, aside: AddressAside) {
        self.aside.insert(address, aside);
    }

    /// The addresses that are set aside no longer.
    pub(crate) fn take_back(&mut self, now: Timestamp) -> Vec<IpAddr> {
        self.free.retain(|_, until| *until > now);
        let over = self.aside.extract_if(.., |_, it| it.until <= now);
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
        let open = self.open.values().filter_map(|it| it.asked);
        let open = open.map(|(at, _)| Timestamp(at.0 + PATIENCE));
        open.chain(self.aside.values().map(|it| it.until)).min()
    }
}
