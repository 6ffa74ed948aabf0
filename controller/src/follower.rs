//! Follows a store for a process that decides nothing (a gateway): the rows of its tables.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fairway_config::exchange::{Batch, Change};
use fairway_config::names::ClusterName;
use fairway_config::pool::AddressPool;
use fairway_config::view::{PoolRow, ServiceRow};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::feed::lock;
use crate::rows::Rows;

/// The objects that a store has told of, for tables. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Follower(Arc<Mutex<FollowedObjects>>);

#[derive(Debug, Default)]
struct FollowedObjects {
    rows: Rows,
    pools: BTreeMap<ClusterName, Arc<AddressPool>>,
}

impl Follower {
    /// Takes in the batches of a store until it closes or `stop`.
    pub async fn run(self, mut batches: mpsc::Receiver<Batch>, stop: CancellationToken) {
        while let Some(Some(batch)) = stop.run_until_cancelled(batches.recv()).await {
            let mut seen = lock(&self.0);
            for change in &batch.changes {
                seen.rows.note(change);
                match change {
                    Change::Pool(name, Some(pool)) => {
                        seen.pools.insert(Arc::clone(name), Arc::clone(pool));
                    }
                    Change::Pool(name, None) => {
                        seen.pools.remove(name);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Rows for `get services`, ordered by namespace and name, without the reports of gateways.
    pub fn services(&self) -> Vec<ServiceRow> {
        let seen = lock(&self.0);
        seen.rows.services().map(|(_, row)| row).collect()
    }

    /// Rows for `get pools`, ordered by name. How many addresses are used is known by the
    /// controller alone.
    pub fn pools(&self) -> Vec<PoolRow> {
        let seen = lock(&self.0);
        let rows = seen.pools.values().map(|pool| PoolRow {
            name: pool.name.to_string(),
            addresses: pool.blocks.iter().map(|it| it.range.to_string()).collect(),
            auto_assign: pool.auto_assign,
            priority: pool.priority,
            forwarding: pool.forwarding,
            counts: BTreeMap::new(),
            conditions: Vec::new(),
        });
        rows.collect()
    }
}
