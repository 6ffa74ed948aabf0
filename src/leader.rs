//! What a controller does while it leads, and what it shows then and while it stands by.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use fairway_config::names::ServiceName;
use fairway_config::problem::Problem;
use fairway_config::view::{AddressRow, BgpPeerRow, GatewayRow, PoolRow, Section, ServiceRow};
use fairway_controller::kubernetes::Connection;
use fairway_controller::{Controller, KubernetesSettings, KubernetesStore, Leadership, OwnAddress};
use fairway_controller_core::{Counts, Settings};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::views::ServiceViews;

/// What a controller does while it leads.
pub(crate) struct Leader {
    pub(crate) client: Connection,
    pub(crate) store: KubernetesSettings,
    pub(crate) core: Settings,
    pub(crate) views: Arc<LeaderViews>,
}

impl Leader {
    /// Runs a controller whenever this process leads, each time from new lists: nothing is carried
    /// over from an earlier term, because another process may have decided since.
    pub(crate) async fn run(self, mut leads: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            let begins = leads.wait_for(|leads| *leads);
            match stop.run_until_cancelled(begins).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
            let store = KubernetesStore::open(self.client.clone(), self.store.clone(), None);
            let (controller, handle) = Controller::new(Arc::new(store), self.core.clone());
            self.views.set(Some(Arc::new(handle)));
            tokio::select! {
                all_ended = controller.run(stop.clone()) => {
                    if !all_ended {
                        tracing::warn!("the Lease is not given back: writes are on their way that are not answered");
                        self.store.leadership.let_expire();
                    }
                }
                _ = leads.wait_for(|leads| !*leads) => {}
            }
            self.views.set(None);
        }
    }
}

/// What the admin address of a controller shows: everything while it leads, and nothing while it
/// stands by.
pub(crate) struct LeaderViews {
    /// The name of the Lease that the leader holds.
    pub(crate) lease: String,
    pub(crate) leadership: Leadership,
    pub(crate) known: Mutex<Option<Arc<dyn ServiceViews>>>,
}

impl LeaderViews {
    fn set(&self, known: Option<Arc<dyn ServiceViews>>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn ask<T>(&self, question: impl FnOnce(&dyn ServiceViews) -> T) -> Option<T> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        known.map(|known| question(&*known))
    }

    /// The message of a controller that does not lead.
    fn stands_by(&self) -> String {
        format!(
            "This controller stands by and knows of nothing: ask the one that kubectl get lease {} \
             names, in Fairway's namespace.",
            self.lease
        )
    }
}

impl ServiceViews for LeaderViews {
    fn services(&self) -> Vec<ServiceRow> {
        self.ask(|known| known.services()).unwrap_or_default()
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.ask(|known| known.pools()).unwrap_or_default()
    }

    fn gateways(&self) -> Vec<GatewayRow> {
        self.ask(|known| known.gateways()).unwrap_or_default()
    }

    fn peers(&self) -> Vec<BgpPeerRow> {
        self.ask(|known| known.peers()).unwrap_or_default()
    }

    fn addresses(&self) -> Vec<AddressRow> {
        self.ask(|known| known.addresses()).unwrap_or_default()
    }

    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress> {
        self.ask(|known| known.own_addresses()).unwrap_or_default()
    }

    fn explain(&self, service: &ServiceName) -> Option<Vec<Section>> {
        self.ask(|known| known.explain(service)).unwrap_or_else(|| {
            Some(vec![Section {
                title: "Standing by".to_owned(),
                sentences: vec![self.stands_by()],
            }])
        })
    }

    fn decides(&self) -> bool {
        true
    }

    fn counts(&self) -> Option<Counts> {
        self.ask(|known| known.counts()).flatten()
    }

    fn problems(&self) -> Vec<Problem> {
        self.ask(|known| known.problems()).unwrap_or_default()
    }

    fn note(&self) -> Option<String> {
        self.ask(|known| known.note())
            .unwrap_or_else(|| Some(self.stands_by()))
    }

    fn missing(&self) -> Vec<String> {
        // A controller that stands by is ready where it could take over and knows that another one
        // leads.
        let missing = self.ask(|known| known.missing()).unwrap_or_default();
        self.leadership
            .missing()
            .into_iter()
            .chain(missing)
            .collect()
    }

    fn unheard(&self) -> Vec<String> {
        self.ask(|known| known.unheard()).unwrap_or_default()
    }

    fn told(&self) -> u64 {
        self.ask(|known| known.told()).unwrap_or_default()
    }

    fn done(&self) -> u64 {
        self.ask(|known| known.done()).unwrap_or_default()
    }
}
