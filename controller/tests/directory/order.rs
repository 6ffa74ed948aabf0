//! Whatever the order of files and however often it is started, a Service keeps what it was given.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fairway_controller::{Controller, DirectoryStore};
use fairway_controller_core::Settings;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::bed::{Bed, PATIENCE, service};

type Rows = BTreeMap<String, (Vec<std::net::IpAddr>, Vec<Option<u16>>)>;

/// What each Service has once all is settled.
async fn run(bed: &Bed, count: usize) -> Rows {
    let store = Arc::new(DirectoryStore::open(bed.settings()).unwrap());
    let (controller, handle) = Controller::new(
        store,
        Settings {
            class: "fairway.dev/gateway".into(),
            default_class: true,
            node_ports: Default::default(),
            allocates_node_ports: true,
            gateways_tell: false,
        },
    );
    let stop = CancellationToken::new();
    let running = tokio::spawn(controller.run(stop.clone()));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let rows = loop {
        let rows = handle.services();
        let given = rows.iter().filter(|row| !row.external_ips.is_empty());
        if given.count() == count && handle.missing().is_empty() {
            break rows;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            handle.missing()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    stop.cancel();
    running.await.unwrap();
    let held = rows.into_iter().map(|row| {
        let ports = row.ports.iter().map(|port| port.node_port).collect();
        (row.name, (row.external_ips, ports))
    });
    held.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn files_in_any_order_and_restarts_change_no_address_and_no_node_port(
        orders in prop::collection::vec(
            Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(), 2..5),
        files in 1..12_usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut first: Option<Rows> = None;
        let bed = Bed::new();
        for order in orders {
            for entry in fs::read_dir(&bed.manifests).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            bed.put(
                "pool.yaml",
                "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: edge}\n\
                 spec: {addresses: [192.0.2.0/28]}\n",
            );
            let mut texts = vec![String::new(); files];
            for (place, n) in order.iter().enumerate() {
                texts[place % files] += &format!("---\n{}", service(&format!("s-{n}"), 80));
            }
            for (n, text) in texts.iter().enumerate() {
                bed.put(&format!("{n}.yaml"), text);
            }
            let rows = runtime.block_on(run(&bed, order.len()));
            prop_assert_eq!(first.get_or_insert_with(|| rows.clone()), &rows);
        }
    }
}
