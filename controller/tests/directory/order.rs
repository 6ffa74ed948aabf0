//! Whatever the order of files and however often it is started, a Service keeps what it was given.

use std::fs;

use proptest::prelude::*;

use super::bed::{Bed, Given, service};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn files_in_any_order_and_restarts_change_no_address_and_no_node_port(
        orders in prop::collection::vec(
            Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(), 2..5),
        files in 1..12_usize,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut first: Option<Given> = None;
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
            let rows = runtime.block_on(bed.run(order.len())).0;
            prop_assert_eq!(first.get_or_insert_with(|| rows.clone()), &rows);
        }
    }
}
