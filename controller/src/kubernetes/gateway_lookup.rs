//! What one gateway says of itself and of its addresses, for a command that asks now and then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::AddressReport;
use fairway_config::time::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::{Client, ResourceExt as _};

use super::gateway_report::{
    GATEWAY, GatewaySelfReport, ReportReadError, SERVICES, decode_gateway, decode_services,
};
use super::settings::REQUEST;

/// What the Lease of a gateway says.
#[derive(Clone, Debug)]
pub struct LeaseWords {
    /// How it is.
    pub gateway: GatewaySelfReport,
    /// Its external addresses.
    pub addresses: BTreeMap<IpAddr, Arc<AddressReport>>,
    /// When it said so, by its own clock: another time with each renewal, down to the microsecond.
    pub renewed: Option<String>,
    /// The same in seconds.
    pub renewed_at: Timestamp,
}

/// Why the Lease of a gateway can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LeaseLookupError {
    /// The API server refuses, or can't be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer in time")]
    Late,
    /// A version that is too old, or somebody has edited the Lease.
    #[error("{0}")]
    Unreadable(String),
}

impl From<ReportReadError> for LeaseLookupError {
    fn from(error: ReportReadError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// What the gateway of that name says; nothing: it has no Lease in that namespace.
///
/// # Errors
/// The Lease can't be read.
pub async fn look_up(
    client: &Client,
    namespace: &str,
    gateway: &str,
) -> Result<Option<LeaseWords>, LeaseLookupError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let name = format!("fairway-gateway-{gateway}");
    let answer = tokio::time::timeout(REQUEST, leases.get_opt(&name)).await;
    let Some(lease) = answer.map_err(|_| LeaseLookupError::Late)?? else {
        return Ok(None);
    };
    let annotation = |name| lease.annotations().get(name).map_or("", String::as_str);
    let told = decode_gateway(annotation(GATEWAY))?;
    let services = decode_services(&gateway.into(), annotation(SERVICES))?;
    let renewed = lease.spec.and_then(|spec| spec.renew_time);
    Ok(Some(LeaseWords {
        gateway: told,
        addresses: services.addresses,
        renewed_at: Timestamp(renewed.as_ref().map_or(0, |at| at.0.as_second())),
        renewed: renewed.map(|at| at.0.to_string()),
    }))
}
