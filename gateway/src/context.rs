//! What the tasks of one worker share.

use std::sync::{Arc, OnceLock};

use crate::http;
use crate::shared::Shared;

/// What the tasks of one worker share.
pub(crate) struct Context {
    /// What all workers share.
    pub(crate) shared: Arc<Shared>,
    /// The worker's HTTP side, made when the first connection asks for it: its pools take most of a
    /// megabyte, and many gateways carry no HTTP.
    http: OnceLock<http::Server>,
}

impl Context {
    /// What the worker's tasks start with.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            http: OnceLock::new(),
        }
    }

    /// The worker's HTTP side.
    pub(crate) fn http(&self) -> &http::Server {
        self.http.get_or_init(|| {
            let shared = &self.shared;
            http::Server::new(
                shared.stopping.clone(),
                shared.connect_timeout,
                shared.descriptors.clone(),
            )
        })
    }
}
