//! Where a gateway is asked to drain, and what it says of itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use fairway_config::annotations::labels::DRAIN_NODE;
use fairway_config::exchange::{AddressReport, AddressState};
use fairway_config::object::{self, Object};
use fairway_config::view::{AddressRow, BgpPeerRow, GatewayRow, List, ServiceRow};
use fairway_controller::kubernetes::{self, Connection, LeaseLookupError};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api_server::connect;
use crate::args::ClusterArgs;

/// How long one answer of the API server may take.
const REQUEST: Duration = Duration::from_secs(30);

/// A gateway that has not renewed its Lease for so long is taken for dead, in seconds.
const SILENT: i64 = 30;

/// How many Services are asked for at a time.
const PAGE: u32 = 500;

/// What a gateway says of itself.
#[derive(Debug)]
pub(super) struct GatewayWords {
    pub(super) is_draining: bool,
    /// It has said that it stops.
    pub(super) is_stopped: bool,
    pub(super) addresses: BTreeMap<IpAddr, AddressReport>,
    /// When it said so, where that is not just now: by its clock.
    said: Option<(String, i64)>,
}

impl GatewayWords {
    /// The addresses that it owns.
    pub(super) fn owned(&self) -> BTreeMap<IpAddr, AddressReport> {
        let owned = self.addresses.iter();
        let owned = owned.filter(|(_, report)| report.state == AddressState::Owned);
        owned.map(|(address, it)| (*address, it.clone())).collect()
    }

    /// Whether no gateway owns that address, as far as this one knows.
    pub(super) fn is_unowned(&self, address: &IpAddr) -> bool {
        let report = self.addresses.get(address);
        report.is_some_and(|it| it.state == AddressState::Unowned)
    }

    /// Whether the gateway has said something since then: a Lease says the same when its gateway is dead.
    pub(super) fn is_later_than(&self, before: &Self) -> bool {
        let said = |it: &Self| it.said.as_ref().map(|(said, _)| said.clone());
        said(self).is_none() || said(self) != said(before)
    }

    /// What is to be said of a gateway that has said nothing for long.
    pub(super) fn silent(&self) -> Option<String> {
        let (said, at) = self.said.as_ref()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let silent = now.as_secs().cast_signed().saturating_sub(*at);
        (silent > SILENT).then(|| format!("has not been heard of since {said}"))
    }
}

/// See the module.
pub(super) enum DrainSource {
    /// A gateway without a cluster.
    Standalone { node: String, admin: SocketAddr },
    /// The gateway on a Node.
    Cluster {
        node: String,
        client: Connection,
        namespace: String,
    },
}

impl DrainSource {
    pub(super) async fn new(
        node: &str,
        admin: Option<SocketAddr>,
        cluster: ClusterArgs,
    ) -> anyhow::Result<Self> {
        let node = node.to_owned();
        Ok(match admin {
            Some(admin) => Self::Standalone { node, admin },
            None => Self::Cluster {
                node,
                client: connect(cluster.api_server).await?,
                namespace: cluster.namespace,
            },
        })
    }

    /// Asks the gateway to drain, or to end that. Answers with why it drains all the same.
    pub(super) async fn ask(&self, is_asked: bool) -> anyhow::Result<Option<&'static str>> {
        match self {
            Self::Standalone { node, admin } => {
                let (admin, body) = (*admin, json!({"node": node, "drain": is_asked}));
                blocking(move || crate::client::post(admin, "/api/v1/drain", &body)).await?;
                Ok(None)
            }
            Self::Cluster { node, client, .. } => {
                let value = is_asked.then_some("true");
                let patch = json!({"metadata": {"annotations": {DRAIN_NODE: value}}});
                let patch = Patch::Merge(patch);
                let nodes = api(client, "Node", "nodes");
                let parameters = PatchParams::default();
                let patched = nodes.patch(node, &parameters, &patch);
                let patched = in_time(patched).await;
                let patched =
                    patched.with_context(|| format!("the Node {node} can't be annotated"))?;
                Ok(reason(&serde_json::to_value(patched)?).filter(|_| !is_asked))
            }
        }
    }

    /// What the gateway says of itself.
    pub(super) async fn look(&self) -> anyhow::Result<GatewayWords> {
        match self {
            Self::Standalone { node, admin } => {
                let rows: List<AddressRow> = asked(*admin, "/api/v1/addresses").await?;
                let gateways: List<GatewayRow> = asked(*admin, "/api/v1/gateways").await?;
                let own = gateways.items.iter().find(|row| row.name == *node);
                let own = own.with_context(|| {
                    let names: Vec<&str> = gateways.items.iter().map(|row| &*row.name).collect();
                    format!("the gateway at {admin} is {}, not {node}", names.join(", "))
                })?;
                let rows = rows.items.into_iter().filter(|row| row.gateway == *node);
                Ok(GatewayWords {
                    is_draining: own.draining.is_some(),
                    is_stopped: false,
                    addresses: rows.map(|row| (row.address, row.report)).collect(),
                    said: None,
                })
            }
            Self::Cluster {
                node,
                client,
                namespace,
            } => {
                let lease = kubernetes::look_up(client, namespace, node).await;
                let lease = lease.map_err(|error| match error {
                    LeaseLookupError::Api(error) => in_words(error),
                    error => error.into(),
                });
                let lease = lease.with_context(|| format!("the Lease of the gateway on {node}"))?;
                let Some(lease) = lease else {
                    return Err(no_lease(client, namespace, node).await);
                };
                if let Some(why) = &lease.gateway.behind {
                    anyhow::bail!(
                        "which addresses the gateway on {node} owns is not known: its Lease says that {why}"
                    );
                }
                let addresses = lease.addresses.into_iter();
                Ok(GatewayWords {
                    is_draining: lease.gateway.row.draining.is_some(),
                    is_stopped: lease.gateway.stopping,
                    addresses: addresses
                        .map(|(address, it)| (address, AddressReport::clone(&it)))
                        .collect(),
                    said: Some((lease.renewed.unwrap_or_default(), lease.renewed_at.0)),
                })
            }
        }
    }

    /// Whether gateways tell routers of addresses (`bgp`, `routes: kernel`). Where that can't be found out, they may.
    pub(super) async fn tells_routers(&self) -> bool {
        let found = match self {
            Self::Standalone { admin, .. } => told_routers(*admin).await,
            Self::Cluster { client, .. } => {
                let pools = api_of(
                    client,
                    "fairway.dev",
                    "v1alpha1",
                    "AddressPool",
                    "addresspools",
                );
                let listed = in_time(pools.list(&ListParams::default())).await;
                listed.map(|listed| {
                    listed.items.iter().any(|pool| {
                        let says = |what| pool.data.pointer(what).is_some_and(|it| !it.is_null());
                        says("/spec/announce/bgp") || says("/spec/announce/routes")
                    })
                })
            }
        };
        found.unwrap_or(true)
    }

    /// The Services with `externalTrafficPolicy: Local` at each of these addresses.
    pub(super) async fn local_services(
        &self,
        addresses: &BTreeMap<IpAddr, AddressReport>,
    ) -> anyhow::Result<BTreeMap<IpAddr, Vec<String>>> {
        let mut local: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        let mut note = |address: IpAddr, name: String| {
            if addresses.contains_key(&address) {
                local.entry(address).or_default().push(name);
            }
        };
        match self {
            Self::Standalone { admin, .. } => {
                let rows: List<ServiceRow> = asked(*admin, "/api/v1/services").await?;
                for row in rows.items.into_iter().filter(|row| row.is_local) {
                    for address in &row.external_ips {
                        note(*address, format!("{}/{}", row.namespace, row.name));
                    }
                }
            }
            Self::Cluster { client, .. } => {
                let services = api(client, "Service", "services");
                let mut page = ListParams::default().limit(PAGE);
                loop {
                    let listed = in_time(services.list(&page)).await;
                    let listed = listed.context("Services can't be listed")?;
                    for service in &listed.items {
                        let policy = service.data.pointer("/spec/externalTrafficPolicy");
                        if policy.and_then(Value::as_str) != Some("Local") {
                            continue;
                        }
                        let ingress = service.data.pointer("/status/loadBalancer/ingress");
                        let ingress = ingress.and_then(Value::as_array).into_iter().flatten();
                        let ips = ingress.filter_map(|it| it.get("ip")?.as_str()?.parse().ok());
                        let metadata = &service.metadata;
                        let namespace = metadata.namespace.as_deref().unwrap_or_default();
                        let name = metadata.name.as_deref().unwrap_or_default();
                        ips.for_each(|ip| note(ip, format!("{namespace}/{name}")));
                    }
                    match listed.metadata.continue_.filter(|it| !it.is_empty()) {
                        Some(next) => page = page.continue_token(&next),
                        None => break,
                    }
                }
            }
        }
        Ok(local)
    }
}

/// Why nothing can be said of a gateway that has no Lease.
async fn no_lease(client: &Connection, namespace: &str, node: &str) -> anyhow::Error {
    match in_time(api(client, "Node", "nodes").get_opt(node)).await {
        Ok(None) => anyhow!("there is no Node {node}"),
        _ => anyhow!(
            "no gateway runs on {node}: it has no Lease in the namespace {namespace} (--namespace names another one)"
        ),
    }
}

/// Why the gateway on a Node drains.
fn reason(node: &Value) -> Option<&'static str> {
    match object::read(node).ok()?.object {
        Object::Node(node) => node.draining,
        _ => None,
    }
}

/// Whether the gateway at an admin address has routers to tell, or routes in a kernel table.
async fn told_routers(admin: SocketAddr) -> anyhow::Result<bool> {
    let peers: List<BgpPeerRow> = asked(admin, "/api/v1/peers").await?;
    let metrics = blocking(move || crate::client::get(admin, "/metrics")).await?;
    let metrics = String::from_utf8_lossy(&metrics);
    let mut samples = metrics.lines();
    Ok(!peers.items.is_empty() || samples.any(|line| line.starts_with("fairway_kernel_routes")))
}

fn api(client: &Connection, kind: &str, plural: &str) -> Api<DynamicObject> {
    api_of(client, "", "v1", kind, plural)
}

fn api_of(
    client: &Connection,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
) -> Api<DynamicObject> {
    let api_version = match group {
        "" => version.to_owned(),
        _ => format!("{group}/{version}"),
    };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    Api::all_with(client.clone(), &resource)
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(in_words(error)),
        Err(_) => Err(anyhow!("the API server did not answer in time")),
    }
}

/// What people are told of a failed request.
fn in_words(error: kube::Error) -> anyhow::Error {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match &error {
        kube::Error::Api(status) => anyhow!("{} ({})", status.message, status.code),
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            anyhow!("the API server can't be reached: {cause}")
        }
        _ => error.into(),
    }
}

/// What the admin address answers, decoded.
async fn asked<T: DeserializeOwned>(admin: SocketAddr, path: &'static str) -> anyhow::Result<T> {
    let body = blocking(move || crate::client::get(admin, path)).await?;
    serde_json::from_slice(&body).with_context(|| format!("{admin} did not answer as Fairway does"))
}

/// Runs what waits on a thread of its own: the client has a runtime of its own.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(act).await?
}
