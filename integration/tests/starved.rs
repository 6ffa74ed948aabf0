//! Gateways on a machine that has far more to do than it can.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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
    for edge in &lan.edges {
        run_before_others(all.on(edge)?.process()?.id())?;
    }
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
    // Terms have numbers: whoever has lost an address, and be it for a moment, has begun a new one.
    while begun.elapsed() < TIME {
        let now = owned()?;
        ensure!(now == before, "{before:?}\n{now:?}");
    }
    drop(busy);
    let after = owned()?;
    ensure!(after == before, "{before:?}\n{after:?}");
    Ok(())
}

/// The threads that must be in time have a real-time priority. How soon a machine is so busy that it counts depends on
/// what else it does: a machine with nothing but this test may pass without.
fn run_before_others(process: u32) -> Result<()> {
    let mut seen = BTreeSet::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let folder = task?.path();
        let name = std::fs::read_to_string(folder.join("comm"))?;
        let stat = std::fs::read_to_string(folder.join("stat"))?;
        let (_, fields) = stat.rsplit_once(") ").context("a state")?;
        // rt_priority and policy, which is SCHED_RR: the 40th and the 41st field (proc_pid_stat(5)).
        let fields: Vec<&str> = fields.split(' ').skip(37).take(2).collect();
        if fields == ["1", "2"] {
            seen.insert(name.trim().to_owned());
        }
    }
    let wanted = ["fairway-fleet", "fairway-layer2"].map(str::to_owned);
    ensure!(seen == BTreeSet::from(wanted), "{seen:?}");
    Ok(())
}
