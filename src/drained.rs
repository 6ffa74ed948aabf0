//! Which endpoints are drained, in memory and in the state directory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_config::drained::{DrainTarget, DrainedEndpoints, KEPT};
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use fairway_controller::DirectoryStore;
use fairway_gateway::Gateway;

/// The file in the state directory.
const FILE: &str = "drained.json";

/// What an operator drains, kept over restarts.
pub(crate) struct EndpointDrains {
    store: Arc<DirectoryStore>,
    /// What is drained, or why that can't be read.
    known: Mutex<Result<Arc<DrainedEndpoints>, String>>,
}

impl EndpointDrains {
    /// What was drained before. Where that can't be read, nothing is, and it is a [problem](Self::problem).
    pub(crate) fn open(store: Arc<DirectoryStore>) -> Self {
        let known = match store.kept(FILE) {
            Ok(None) => Ok(DrainedEndpoints::default()),
            Ok(Some(text)) => DrainedEndpoints::of_file(&text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match &known {
            Ok(drained) => {
                for (target, since) in drained.targets() {
                    tracing::info!(%target, %since, "drained still, until fairway drain --undo");
                }
            }
            Err(error) => {
                tracing::error!(
                    file = FILE,
                    error,
                    "which endpoints are drained can't be read"
                );
            }
        }
        Self {
            store,
            known: Mutex::new(known.map(Arc::new)),
        }
    }

    /// What is drained now.
    pub(crate) fn now(&self) -> Arc<DrainedEndpoints> {
        self.lock().as_ref().map(Arc::clone).unwrap_or_default()
    }

    /// Why it is not known what is drained.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let known = self.lock();
        let error = known.as_ref().err()?;
        Some(Problem::of_file(FILE, unreadable(error)))
    }

    /// Drains, or ends that, and waits until the gateway does so.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn set(
        &self,
        gateway: &Gateway,
        target: DrainTarget,
        is_drained: bool,
    ) -> Result<(), String> {
        // Held until the gateway does so: another request would take the place of this one.
        let mut known = self.lock();
        let before = known.as_ref().map_err(|error| unreadable(error))?;
        let is_listed = || {
            let rows = gateway.endpoints();
            let mut rows = rows.iter();
            rows.any(|row| target.covers(row.endpoint, row.node.as_deref()))
        };
        let mut after = DrainedEndpoints::clone(before);
        let text = target.to_string();
        let set = after.set(target.clone(), is_drained, now());
        let is_news = set.map_err(|error| error.to_string())?;
        match (is_news, is_drained) {
            (true, true) if !is_listed() => {
                return Err(format!(
                    "no Service has an {text} here: see fairway get endpoints"
                ));
            }
            (true, _) => {}
            (false, true) => return Ok(()),
            (false, false) => return Err(format!("no {text} is drained by that name")),
        }
        let kept = self.store.keep(FILE, after.to_file());
        kept.map_err(|error| format!("it can't be written to the state directory: {error}"))?;
        let after = Arc::new(after);
        *known = Ok(after.clone());
        let since = now();
        match is_drained {
            true => tracing::info!(%target, %since, "drained: new connections go elsewhere"),
            false => tracing::info!(%target, "drained no more"),
        }
        gateway
            .set_drained(after)
            .map_err(|error| format!("this is noted, but {error}"))
    }

    /// Forgets what no Service has had for long. To be called from time to time, where the gateway knows all Services.
    pub(crate) fn sweep(&self, gateway: &Gateway) {
        let mut known = self.lock();
        let Ok(before) = known.as_ref() else {
            return;
        };
        if before.is_empty() {
            return;
        }
        let rows = gateway.endpoints();
        let is_listed = |target: &DrainTarget| {
            let mut rows = rows.iter();
            rows.any(|row| target.covers(row.endpoint, row.node.as_deref()))
        };
        let mut after = DrainedEndpoints::clone(before);
        let swept = after.sweep(is_listed, now());
        if !swept.is_news {
            return;
        }
        if let Err(error) = self.store.keep(FILE, after.to_file()) {
            // It is tried again.
            return tracing::warn!(%error, file = FILE, "it can't be written to the state directory");
        }
        for target in &swept.unlisted {
            tracing::info!(%target, days = KEPT / 86_400, "drained, and no Service has it: forgotten after these days");
        }
        for target in &swept.gone {
            tracing::info!(%target, "no Service has had it for long: drained no more");
        }
        let after = Arc::new(after);
        *known = Ok(after.clone());
        if let Err(error) = gateway.set_drained(after) {
            tracing::warn!(%error, "the gateway hears later of what is drained no more");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Result<Arc<DrainedEndpoints>, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreadable(error: &str) -> String {
    format!(
        "{FILE} in the state directory says which endpoints are drained, and can't be read: {error}; remove it, start \
         Fairway again, and drain them again"
    )
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
}
