//! What the tasks of one worker share.

use std::sync::{Arc, OnceLock};

use crate::http;
use crate::shared::GatewayShared;

/// What the tasks of one worker share.
pub(crate) struct TaskContext {
    /// What all workers share.
    pub(crate) shared: Arc<GatewayShared>,
    /// The worker's HTTP server. It is made for the first HTTP connection: its pools take nearly one megabyte, and
    /// many gateways carry no HTTP.
    http: OnceLock<http::HttpServer>,
}

impl TaskContext {
    /// A context without an HTTP server yet.
    pub(crate) fn new(shared: Arc<GatewayShared>) -> Self {
        Self {
            shared,
            http: OnceLock::new(),
        }
    }

    /// The worker's HTTP server.
    pub(crate) fn http(&self) -> &http::HttpServer {
        self.http.get_or_init(|| {
            let shared = &self.shared;
            http::HttpServer::new(
                shared.draining.clone(),
                shared.connect_timeout,
                shared.descriptors.clone(),
                shared.source_pool.clone(),
                shared.transparency.clone(),
            )
        })
    }
}
