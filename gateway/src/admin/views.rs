//! The data that the admin address shows.

use fairway_config::drained::DrainTarget;
use fairway_config::names::ServiceName;
use fairway_config::problem::Problem;
use fairway_config::view::{
    AddressRow, BgpPeerRow, EndpointRow, Explanation, GatewayRow, ListenerRow, PoolRow, Readiness,
    ServiceRow,
};

/// What the admin address shows. Called for each request, on the admin's runtime; rows come
/// ordered by name. Nothing has a default: it would show nothing where somebody forgot to pass on what there is.
pub trait Views: Send + Sync {
    /// Fairway's version.
    fn version(&self) -> String;
    /// What `get services` shows.
    fn services(&self) -> Vec<ServiceRow>;
    /// What `get endpoints` shows.
    fn endpoints(&self) -> Vec<EndpointRow>;
    /// What `get pools` shows.
    fn pools(&self) -> Vec<PoolRow>;
    /// What `get gateways` shows.
    fn gateways(&self) -> Vec<GatewayRow>;
    /// What `get listeners` shows.
    fn listeners(&self) -> Vec<ListenerRow>;
    /// What `get addresses` shows.
    fn addresses(&self) -> Vec<AddressRow>;
    /// What `get peers` shows.
    fn peers(&self) -> Vec<BgpPeerRow>;
    /// What is wrong in the manifests now.
    fn problems(&self) -> Vec<Problem>;
    /// What `explain service` says; nothing where there is no such Service.
    fn explain(&self, service: &ServiceName) -> Option<Explanation>;
    /// Why lists may not have everything, a sentence for people.
    fn note(&self) -> Option<String>;
    /// Whether everything that can be there is there.
    fn readiness(&self) -> Readiness;
    /// Which lines the log has: a level, or levels of modules.
    fn log_filter(&self) -> String;
    /// Changes [`Self::log_filter`] until the process ends.
    ///
    /// # Errors
    /// The text is no filter; the error is a sentence.
    fn set_log_filter(&self, filter: &str) -> Result<(), String>;
    /// Has the gateway of that name in this process hand its addresses over, or ends that.
    ///
    /// # Errors
    /// There is no such gateway here; the error is a sentence.
    fn set_draining(&self, gateway: &str, is_asked: bool) -> Result<(), String>;
    /// Keeps new connections away from endpoints, or ends that. It is kept over restarts. May take some time.
    ///
    /// # Errors
    /// It can't be done; the error is a sentence.
    fn set_drained(&self, target: DrainTarget, is_drained: bool) -> Result<(), String>;
    /// The text of `/metrics`, in the Prometheus text format 0.0.4.
    fn metrics(&self) -> String;
}
