//! The rows of tables of Services and gateways, from the changes that a store publishes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{
    AddressReport, AddressState, Change, ConditionMap, GatewayStatus, StoredService,
};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::service::ExternalTrafficPolicy;
use fairway_config::view::{AddressRow, BgpPeerRow, ConditionRow, GatewayRow, PortRow, ServiceRow};

/// The Services and the gateways there are, and what gateways say of external addresses.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    services: BTreeMap<ServiceName, Arc<StoredService>>,
    gateways: BTreeMap<ClusterName, Arc<GatewayStatus>>,
    addresses: BTreeMap<(IpAddr, ClusterName), Arc<AddressReport>>,
}

impl Rows {
    /// Takes in a change.
    pub(crate) fn note(&mut self, change: &Change) {
        match change {
            Change::Service(name, Some(service)) => {
                self.services.insert(name.clone(), Arc::clone(service));
            }
            Change::Service(name, None) => {
                self.services.remove(name);
            }
            Change::Gateway(name, Some(status)) => {
                self.gateways.insert(Arc::clone(name), Arc::clone(status));
            }
            Change::Gateway(name, None) => {
                self.gateways.remove(name);
            }
            Change::Address(address, gateway, Some(report)) => {
                let key = (*address, Arc::clone(gateway));
                self.addresses.insert(key, Arc::clone(report));
            }
            Change::Address(address, gateway, None) => {
                self.addresses.remove(&(*address, Arc::clone(gateway)));
            }
            _ => {}
        }
    }

    /// Rows for `get gateways`, of gateways that are processes of their own.
    pub(crate) fn gateways(&self) -> Vec<GatewayRow> {
        let mut owned: BTreeMap<&ClusterName, usize> = BTreeMap::new();
        for ((_, gateway), report) in &self.addresses {
            *owned.entry(gateway).or_default() += usize::from(report.state == AddressState::Owned);
        }
        let row = |(name, status): (&ClusterName, &Arc<GatewayStatus>)| GatewayRow {
            addresses: owned.get(name).copied().unwrap_or_default(),
            ..status.row.clone()
        };
        self.gateways.iter().map(row).collect()
    }

    /// Rows for `get peers`, ordered by router and gateway.
    pub(crate) fn peers(&self) -> Vec<BgpPeerRow> {
        let rows = self.gateways.values().flat_map(|it| it.sessions.iter());
        let mut rows: Vec<BgpPeerRow> = rows.cloned().collect();
        rows.sort_by(|one, other| (&one.name, &one.gateway).cmp(&(&other.name, &other.gateway)));
        rows
    }

    /// Rows for `get addresses`, ordered by address and gateway.
    pub(crate) fn addresses(&self) -> Vec<AddressRow> {
        let rows = self.addresses.iter();
        let rows = rows.map(|((address, gateway), report)| AddressRow {
            address: *address,
            gateway: gateway.to_string(),
            report: AddressReport::clone(report),
        });
        rows.collect()
    }

    /// Rows for `get services`, ordered by namespace and name, without the reports of gateways.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&ServiceName, ServiceRow)> {
        let rows = self.services.iter();
        rows.map(|(name, stored)| (name, service_row(stored)))
    }
}

fn service_row(stored: &StoredService) -> ServiceRow {
    let service = &stored.service;
    ServiceRow {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        kind: service.kind,
        cluster_ips: if service.headless {
            vec!["None".to_owned()]
        } else {
            service
                .cluster_ips
                .iter()
                .map(ToString::to_string)
                .collect()
        },
        external_ips: stored.status.ingress.iter().map(|entry| entry.ip).collect(),
        external_name: service.external_name.as_deref().map(str::to_owned),
        ports: service
            .ports
            .iter()
            .map(|port| PortRow {
                name: port.name.as_deref().map(str::to_owned),
                port: port.port,
                protocol: port.protocol,
                node_port: stored.held.node_ports.get(&port.key()).copied(),
            })
            .collect(),
        created: service.created.unwrap_or(stored.first_seen).to_string(),
        endpoints: None,
        serving: None,
        gateways: None,
        owners: Vec::new(),
        refused: None,
        conditions: condition_rows(&stored.status.conditions),
        source: stored.source.as_deref().map(str::to_owned),
        source_problem: stored.source_problem.clone(),
        health_check_node_port: stored.held.health_check_node_port,
        is_local: service.external_traffic_policy == ExternalTrafficPolicy::Local,
    }
}

/// Conditions as tables show them.
pub(crate) fn condition_rows(conditions: &ConditionMap) -> Vec<ConditionRow> {
    conditions
        .iter()
        .map(|(kind, condition)| ConditionRow {
            kind: kind.to_string(),
            status: if condition.status { "True" } else { "False" }.to_owned(),
            reason: condition.reason.to_string(),
            message: condition.message.clone(),
            last_transition_time: condition.since.to_string(),
        })
        .collect()
}
