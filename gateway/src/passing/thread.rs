//! The thread that keeps the kernel up to date. What it does may wait for others in the kernel, and the fleet must not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::names::ClusterName;
use fairway_gateway_core::layer2::HardwareAddress;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::board::{PassTarget, PassedAddress, PassingShared, PassingState};
use super::kernel::PassingProgram;
use super::neighbors::{NeighborPlace, NeighborTable};
use crate::bpf;
use crate::metrics::{PASSED_PACKETS, PASSING_ADDRESSES};
use crate::steering::Inquiry;

/// How often packets are counted, and neighbors looked at: a gateway may get another network card.
const LOOK: Duration = Duration::from_secs(1);

/// How often a neighbor is looked for that is not known yet.
const SOON: Duration = Duration::from_millis(20);

/// When the kernel is asked again that has refused.
const RETRY: Duration = Duration::from_secs(10);

/// The addresses with a predecessor.
type WantedPassing = BTreeMap<PassedAddress, PassTarget>;

/// What the thread knows.
#[derive(Default)]
struct PassingThread {
    inquiry: Option<Arc<Inquiry>>,
    program: Option<PassingProgram>,
    neighbors: Option<NeighborTable>,
    /// Where packets went at the last look. The kernel may forget a neighbor, or not be able to say, and a gateway may
    /// get another address: it is still there.
    former: BTreeMap<PassedAddress, (ClusterName, HardwareAddress)>,
    /// The gateways that packets are passed to.
    gateways: BTreeSet<ClusterName>,
    /// Why they can't be, as it was logged.
    refused: Option<Arc<str>>,
}

/// Runs until the handle is gone.
pub(super) fn run(shared: &PassingShared, inquiry: Option<Arc<Inquiry>>) {
    keep_two_capabilities();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let thread = PassingThread {
                inquiry,
                ..PassingThread::default()
            };
            runtime.block_on(thread.run(shared));
        }
        Err(error) => tracing::error!(%error, "no packets can be passed to other gateways"),
    }
}

/// bpf(2) needs CAP_BPF, and CAP_NET_ADMIN for programs that see packets.
fn keep_two_capabilities() {
    let kept = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let dropped = capabilities(None).and_then(|had| {
        let sets = CapabilitySets {
            effective: had.permitted & kept,
            permitted: had.permitted & kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    });
    if let Err(error) = dropped {
        tracing::debug!(%error, "capabilities not given up");
    }
}

impl PassingThread {
    async fn run(mut self, shared: &PassingShared) {
        loop {
            let (is_ending, wanted) = {
                let board = shared.lock();
                (board.is_ending, board.wanted.clone())
            };
            if is_ending {
                return;
            }
            let (states, again) = self.pass(&wanted).await;
            self.say(&states);
            // What was there before is freed when others may go on.
            let _former = std::mem::replace(&mut shared.lock().states, states);
            match again {
                Some(again) => drop(tokio::time::timeout(again, shared.wake.notified()).await),
                None => shared.wake.notified().await,
            }
        }
    }

    /// Has the kernel pass what is wanted. Returns how that is, and when it is to be looked at again.
    async fn pass(
        &mut self,
        wanted: &WantedPassing,
    ) -> (
        BTreeMap<PassedAddress, (PassTarget, PassingState)>,
        Option<Duration>,
    ) {
        self.count();
        let mut states = BTreeMap::new();
        if wanted.is_empty() {
            (self.program, self.neighbors) = (None, None);
            self.former.clear();
            return (states, None);
        }
        let refused = |why: String| PassingState::Refused(why.into());
        let mut program = match self.program.take().map_or_else(|| self.load(), Ok) {
            Ok(program) => program,
            Err(error) => {
                let state = refused(format!("the program was not loaded: {error}"));
                let all = wanted.iter();
                states.extend(all.map(|(it, to)| (*it, (to.clone(), state.clone()))));
                return (states, Some(RETRY));
            }
        };
        let places = wanted
            .iter()
            .map(|((interface, _), to)| (*interface, to.at));
        let known = self.look_up(places.collect()).await;
        let known = known.unwrap_or_else(|error| {
            tracing::debug!(%error, "neighbors not read");
            self.neighbors = None;
            BTreeMap::new()
        });
        let now = |(interface, _): &PassedAddress, to: &PassTarget| {
            known.get(&(*interface, to.at)).copied()
        };
        let before = |address: &PassedAddress, to: &PassTarget| {
            let former = self.former.get(address);
            former.and_then(|(gateway, hardware)| (*gateway == to.gateway).then_some(*hardware))
        };
        let entries: BTreeMap<PassedAddress, HardwareAddress> = wanted
            .iter()
            .filter_map(|(address, to)| {
                let hardware = now(address, to).or_else(|| before(address, to))?;
                Some((*address, hardware))
            })
            .collect();
        self.former = entries
            .iter()
            .filter_map(|(address, hardware)| {
                let gateway = wanted.get(address)?.gateway.clone();
                Some((*address, (gateway, *hardware)))
            })
            .collect();
        let failed = program.set(&entries);
        self.program = Some(program);
        for (address, to) in wanted {
            let state = match failed.get(address) {
                Some(error) => refused(format!("the program was not attached: {error}")),
                None if entries.contains_key(address) => PassingState::Passed,
                None => continue,
            };
            states.insert(*address, (to.clone(), state));
        }
        let again = match (entries.len() < wanted.len(), failed.is_empty()) {
            (true, _) => SOON,
            (false, true) => LOOK,
            (false, false) => RETRY,
        };
        (states, Some(again))
    }

    async fn look_up(
        &mut self,
        places: BTreeSet<NeighborPlace>,
    ) -> io::Result<BTreeMap<NeighborPlace, HardwareAddress>> {
        let neighbors = match self.neighbors.take() {
            Some(neighbors) => neighbors,
            None => NeighborTable::open()?,
        };
        self.neighbors.insert(neighbors).look_up(places).await
    }

    fn load(&mut self) -> io::Result<PassingProgram> {
        let inquiry = match self.inquiry.take() {
            Some(inquiry) => inquiry,
            None => Arc::new(bpf::processor_numbers()?),
        };
        self.inquiry = Some(inquiry.clone());
        PassingProgram::load(&inquiry)
    }

    /// Adds to the counter what was passed since the last time.
    fn count(&mut self) {
        if let Some(program) = &mut self.program {
            metrics::counter!(PASSED_PACKETS).increment(program.take_count());
        }
    }

    /// Says what has changed, to the log and to the metrics.
    fn say(&mut self, states: &BTreeMap<PassedAddress, (PassTarget, PassingState)>) {
        let (mut passed, mut refused) = (0_u32, 0_u32);
        let (mut gateways, mut why) = (BTreeSet::new(), None);
        for (to, state) in states.values() {
            match state {
                PassingState::Passed => {
                    passed += 1;
                    gateways.insert(to.gateway.clone());
                }
                PassingState::Refused(reason) => {
                    refused += 1;
                    why = why.or(Some(reason.clone()));
                }
            }
        }
        metrics::gauge!(PASSING_ADDRESSES, "state" => "passed").set(passed);
        metrics::gauge!(PASSING_ADDRESSES, "state" => "refused").set(refused);
        for gateway in gateways.difference(&self.gateways) {
            tracing::info!(
                gateway = &**gateway,
                "connections that another gateway has go on there: their packets are passed to it"
            );
        }
        for gateway in self.gateways.difference(&gateways) {
            tracing::info!(
                gateway = &**gateway,
                "packets are passed to another gateway no more"
            );
        }
        self.gateways = gateways;
        if let Some(why) = why.as_ref().filter(|it| self.refused.as_ref() != Some(it)) {
            tracing::warn!(
                addresses = refused,
                %why,
                "connections that another gateway has end: their packets can't be passed to it (this takes CAP_BPF and \
                 CAP_NET_ADMIN, and Linux 6.6)"
            );
        }
        self.refused = why;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::testing::{in_namespace, run};
    use super::*;

    #[tokio::test]
    async fn packets_are_passed_while_the_kernel_has_forgotten_where_the_other_gateway_is() {
        const NAME: &str = "passing::thread::tests::\
            packets_are_passed_while_the_kernel_has_forgotten_where_the_other_gateway_is";
        if !in_namespace(NAME) {
            return;
        }
        run("ip link add gateway0 type veth peer name client0");
        run("ip link set gateway0 up");
        let shown = run("ip -o link show gateway0");
        let interface: u32 = shown.split(':').next().unwrap().trim().parse().unwrap();
        let address = (interface, "203.0.113.1".parse().unwrap());
        let target = PassTarget {
            gateway: ClusterName::from("edge-2"),
            at: "192.0.2.7".parse().unwrap(),
        };
        let wanted = BTreeMap::from([(address, target.clone())]);
        let passed = BTreeMap::from([(address, (target, PassingState::Passed))]);
        let mut thread = PassingThread::default();
        let goes_to = |thread: &PassingThread| thread.former[&address].1.0[5];
        assert!(thread.pass(&wanted).await.0.is_empty());
        run("ip neighbor add 192.0.2.7 lladdr 02:00:00:00:00:07 dev gateway0");
        assert_eq!(thread.pass(&wanted).await.0, passed);
        run("ip neighbor del 192.0.2.7 dev gateway0");
        assert_eq!(thread.pass(&wanted).await.0, passed);
        assert_eq!(goes_to(&thread), 7);
        // It has another card.
        run("ip neighbor add 192.0.2.7 lladdr 02:00:00:00:00:08 dev gateway0");
        assert_eq!(thread.pass(&wanted).await.0, passed);
        assert_eq!(goes_to(&thread), 8);
        // It has another address, at which it has not been seen.
        let mut elsewhere = wanted.clone();
        elsewhere.get_mut(&address).unwrap().at = "192.0.2.9".parse().unwrap();
        assert_eq!(thread.pass(&elsewhere).await.0.len(), 1);
        assert_eq!(goes_to(&thread), 8);
        // Another gateway is somewhere else.
        let mut other = elsewhere.clone();
        other.get_mut(&address).unwrap().gateway = ClusterName::from("edge-3");
        assert!(thread.pass(&other).await.0.is_empty());
        assert_eq!(thread.pass(&wanted).await.0, passed);
        // A later move begins anew.
        run("ip neighbor del 192.0.2.7 dev gateway0");
        thread.pass(&BTreeMap::new()).await;
        assert!(thread.pass(&wanted).await.0.is_empty());
    }
}
