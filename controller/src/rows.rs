//! What tables show of Services, from what a store tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_config::exchange::{Change, ConditionMap, Report, StoredService};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::view::{ConditionRow, GatewayRow, PortRow, ServiceRow};

/// The Services there are, and what gateways say of them.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    services: BTreeMap<ServiceName, Arc<StoredService>>,
    reports: BTreeMap<ServiceName, Arc<Report>>,
    gateways: BTreeMap<ClusterName, Arc<GatewayRow>>,
}

impl Rows {
    /// Takes a change in.
    pub(crate) fn note(&mut self, change: &Change) {
        match change {
            Change::Service(name, Some(service)) => {
                self.services.insert(name.clone(), Arc::clone(service));
            }
            Change::Service(name, None) => {
                self.services.remove(name);
            }
            Change::Report(name, _, Some(report)) => {
                self.reports.insert(name.clone(), Arc::clone(report));
            }
            Change::Report(name, _, None) => {
                self.reports.remove(name);
            }
            Change::Gateway(name, Some(row)) => {
                self.gateways.insert(Arc::clone(name), Arc::clone(row));
            }
            Change::Gateway(name, None) => {
                self.gateways.remove(name);
            }
            _ => {}
        }
    }

    /// Rows for `get gateways`, of gateways that are processes of their own.
    pub(crate) fn gateways(&self) -> Vec<GatewayRow> {
        self.gateways.values().map(|row| (**row).clone()).collect()
    }

    /// Rows for `get services`, ordered by namespace and name.
    pub(crate) fn services(&self) -> Vec<ServiceRow> {
        let rows = self.services.iter().map(|(name, stored)| {
            let report = self.reports.get(name);
            service_row(stored, report.map_or(0, |it| it.eligible_endpoints))
        });
        rows.collect()
    }
}

fn service_row(stored: &StoredService, endpoints: usize) -> ServiceRow {
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
        endpoints,
        conditions: condition_rows(&stored.status.conditions),
        source: stored.source.as_deref().map(str::to_owned),
        source_problem: stored.source_problem.clone(),
        health_check_node_port: stored.held.health_check_node_port,
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
