//! Gateways on a machine that has far more to do than it can.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fairway_integration::lab::Process;
use fairway_integration::lan::gateways::{self, LanGateways};
use fairway_integration::lan::network::{Lan, Snooping, vip, vip6};
use fairway_integration::servers::named;
use fairway_integration::{tests, wait};

tests![addresses_stay_where_they_are_on_a_machine_that_is_overloaded];

/// For each core so many processes that never wait.
const BUSY: usize = 24;

/// Longer than it takes, without a priority, until a gateway is missed.
const TIME: Duration = Duration::from_secs(8);

fn addresses_stay_where_they_are_on_a_machine_that_is_overloaded() -> Result<()> {
    let lan = Lan::new(3, Snooping::Off)?;
    let _farm = named(&lan.farm, &gateways::endpoints())?;
    let addresses: Vec<_> = (1..=6).flat_map(|n| [vip(n), vip6(n)]).collect();
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, gateways::services(&addresses)].join("---\n");
    let mut all = LanGateways::prepare(&lan, &manifests, |_, gateway| gateway)?;
    all.launch()?;
    let mut owned = || -> Result<BTreeSet<(String, u64)>> {
        let mut owned = BTreeSet::new();
        for edge in &lan.edges {
            let gateway = all.on(edge)?;
            for row in gateway.list("addresses")? {
                if row["state"] == "owned" {
                    let term = row["term"].as_u64().unwrap_or_default();
                    owned.insert((row["address"].to_string(), term));
                }
            }
        }
        Ok(owned)
    };
    let before = wait::until_some("each address has an owner", || {
        let owned = owned()?;
        ensure!(owned.len() == addresses.len(), "{owned:?}");
        Ok::<_, anyhow::Error>(owned)
    })?;
    let cores = std::thread::available_parallelism()?.get();
    // The kernel shares the machine out among sessions (autogroup, sched(7)), as it does among control groups. The one of
    // the gateways has much to do, and so have others: a nice value counts within one alone.
    let busy: Result<Vec<Process>> = (0..cores * BUSY)
        .map(|n| {
            let own_session = (n % 4 != 0).then_some("setsid");
            let words = own_session
                .into_iter()
                .chain(["sh", "-c", "while :; do :; done"]);
            let words: Vec<&str> = words.collect();
            let mut command = std::process::Command::new(words[0]);
            command.args(&words[1..]);
            lan.farm.spawn(command)
        })
        .collect();
    let busy = busy?;
    let begun = Instant::now();
    while begun.elapsed() < TIME {
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(busy);
    // Terms have numbers: whoever has lost an address, and be it for a moment, has begun a new one.
    let after = owned()?;
    ensure!(after == before, "{before:?}\n{after:?}");
    Ok(())
}
