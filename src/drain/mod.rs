//! `fairway drain`: the gateway of a node hands its addresses over to others, before work on the node.
//!
//! Or new connections are kept away from endpoints, before work on these (`endpoints`).
//!
//! `source` is where it is asked for and looked at: a cluster, or the admin address of a gateway without one. What counts
//! as drained is what the gateway itself says after it was asked: of one that says nothing, nobody knows whether it
//! still answers for an address.

mod endpoints;
mod source;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fairway_config::drained::DrainTarget;
use fairway_config::exchange::{AddressReport, AddressState, Successor};

use self::endpoints::EndpointWish;
use self::source::{DrainSource, GatewayWords};
use self::words::{EVERY, complain, say};
use crate::args::{DEFAULT_ADMIN, DrainArgs};
use crate::outcome::WrongConfiguration;
use crate::{address, start, table};

/// Who was frozen lets go of addresses, and takes again what no other gateway takes. So an address that nobody owns has
/// left a gateway only after this time.
const NOBODY: Duration = Duration::from_secs(3);

/// How long it is waited until other gateways have taken all addresses.
const HANDED_OVER: Duration = Duration::from_secs(60);

/// Drains, ends that, or says what a drain would do. Ends with 1 where addresses stay.
pub(crate) fn run(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let DrainArgs {
        node,
        endpoint,
        endpoints_on,
        wait: is_waiting,
        simulate: is_simulated,
        undo: is_undone,
        timeout,
        admin,
        cluster,
    } = args;
    let target = endpoint.map(DrainTarget::Place);
    let target = target.or(endpoints_on.map(|node| DrainTarget::Node(node.into())));
    if let Some(target) = target {
        let admin = admin.map_or_else(|| address::admin(DEFAULT_ADMIN), Ok);
        let admin = admin.map_err(WrongConfiguration)?;
        let wish = match (is_undone, is_waiting) {
            (true, _) => EndpointWish::Undo,
            (false, true) => EndpointWish::DrainAndWait(timeout),
            (false, false) => EndpointWish::Drain,
        };
        return endpoints::run(&target, wish, admin);
    }
    let Some(node) = node else {
        return Err(
            WrongConfiguration("name the node whose gateway is to be drained".to_owned()).into(),
        );
    };
    let timeout = timeout.unwrap_or(HANDED_OVER);
    start::runtime()?.block_on(async {
        let source = DrainSource::new(&node, admin, cluster).await?;
        match (is_simulated, is_undone) {
            (true, _) => simulate(&source, &node).await,
            (_, true) => undo(&source, &node, timeout).await,
            (false, false) => {
                let before = source.look().await?;
                source.ask(true).await?;
                match (before.silent(), before.owned().len()) {
                    (Some(why), _) => {
                        complain(&format!("the gateway on {node} {why}: waiting for it"))
                    }
                    (None, 0) => say(&format!(
                        "The gateway on {node} owns no address on layer 2."
                    )),
                    (None, 1) => say(&format!("The gateway on {node} owns 1 address.")),
                    (None, more) => say(&format!("The gateway on {node} owns {more} addresses.")),
                }
                wait(&source, &node, before, timeout).await
            }
        }
    })
}

/// Asks the gateway to drain no more, and waits until it says so. Of one that is not there the wish is withdrawn all the
/// same.
async fn undo(source: &DrainSource, node: &str, timeout: Duration) -> anyhow::Result<ExitCode> {
    let end = Instant::now() + timeout;
    let before = source.look().await.ok();
    let still = source.ask(false).await?;
    loop {
        let now = source.look().await;
        let is_later = |now: &&GatewayWords| before.as_ref().is_none_or(|it| now.is_later_than(it));
        let heard = now.as_ref().ok().filter(is_later);
        let outcome = match (heard, still) {
            (Some(now), _) if now.is_stopped => {
                Some("has been stopped: it may take addresses again when it is started".to_owned())
            }
            (Some(now), _) if !now.is_draining => Some(
                "drains no more: it may take addresses again, and none moves back by itself"
                    .to_owned(),
            ),
            (Some(_), Some(why)) => Some(format!("goes on draining, because of its Node: {why}")),
            _ => None,
        };
        if let Some(outcome) = outcome {
            say(&format!("The gateway on {node} {outcome}."));
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() >= end {
            let what = match (&now, heard) {
                (Err(fault), _) => format!("is asked to drain no more, and can't be asked how it is: {fault:#}"),
                (Ok(_), None) => {
                    "is asked to drain no more, and has said nothing since: whether it drains is not known".to_owned()
                }
                (Ok(_), Some(_)) => "is asked to drain no more, and drains still".to_owned(),
            };
            complain(&format!("the gateway on {node} {what}"));
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Waits until the gateway says that it owns no address, and prints each move.
async fn wait(
    source: &DrainSource,
    node: &str,
    before: GatewayWords,
    timeout: Duration,
) -> anyhow::Result<ExitCode> {
    let end = Instant::now() + timeout;
    let mut owned = before.owned();
    let mut had: BTreeSet<IpAddr> = owned.keys().copied().collect();
    let (mut staying, mut unowned_since) = (BTreeSet::new(), None);
    loop {
        let now = source.look().await;
        let fault = now.as_ref().err().map(|error| format!("{error:#}"));
        if let Ok(now) = &now {
            let still = now.owned();
            for address in owned.keys().filter(|it| !still.contains_key(*it)) {
                say(&format!(
                    "{address} {}",
                    whereto(now.addresses.get(address))
                ));
            }
            let heard = now.is_later_than(&before);
            for (address, report) in &still {
                if let (true, Some(Successor::Nobody(why))) =
                    (heard && now.is_draining, &report.successor)
                    && staying.insert(*address)
                {
                    say(&format!("{address} stays: {why}"));
                }
            }
            owned = still;
            had.extend(owned.keys());
            let is_settled = match had.iter().any(|it| now.is_unowned(it)) {
                true => unowned_since.get_or_insert_with(Instant::now).elapsed() >= NOBODY,
                false => true,
            };
            if !owned.is_empty() {
                unowned_since = None;
            }
            let is_gone = now.is_stopped || (now.is_draining && is_settled);
            if heard && owned.is_empty() && is_gone {
                say(&match now.is_stopped {
                    true => format!("The gateway on {node} has been stopped, and owns no address."),
                    false => {
                        format!("The gateway on {node} is drained: it owns no address on layer 2.")
                    }
                });
                if !now.is_stopped && source.tells_routers().await {
                    say(
                        "Routers that it tells of addresses (bgp, routes: kernel) still have its routes: see that they \
                         use others before it stops.",
                    );
                }
                return Ok(ExitCode::SUCCESS);
            }
        }
        if Instant::now() >= end {
            return Ok(give_up(node, &before, now.ok(), fault, &owned));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Where an address is that the gateway owns no more.
fn whereto(report: Option<&AddressReport>) -> String {
    match report.map(|report| (report.state, &report.owner)) {
        Some((AddressState::Elsewhere, Some(owner))) => format!("has moved to {owner}"),
        Some((AddressState::Unowned, _)) => "is owned by no gateway".to_owned(),
        _ => "is not owned by it any more".to_owned(),
    }
}

/// Says why the gateway is not drained.
fn give_up(
    node: &str,
    before: &GatewayWords,
    now: Option<GatewayWords>,
    fault: Option<String>,
    owned: &BTreeMap<IpAddr, AddressReport>,
) -> ExitCode {
    let heard = now.as_ref().is_some_and(|now| now.is_later_than(before));
    match (&now, heard) {
        (None, _) => complain(&format!(
            "the gateway on {node} can't be asked: {}",
            fault.unwrap_or_default()
        )),
        (Some(_), false) => complain(&format!(
            "the gateway on {node} has said nothing since it was asked to drain: whether it still answers for \
             addresses is not known"
        )),
        (Some(now), true) if !now.is_draining => {
            complain(&format!("the gateway on {node} does not drain yet"));
        }
        (Some(_), true) => {
            for (address, report) in owned {
                complain(&format!(
                    "{address} is still owned by the gateway on {node}: {}",
                    stays(report)
                ));
            }
        }
    }
    ExitCode::FAILURE
}

/// Why an address stays where it is.
fn stays(report: &AddressReport) -> String {
    match &report.successor {
        Some(Successor::Gateway(name)) => {
            format!("{name} has not taken it, as it can't serve it or does not hear of the offer")
        }
        Some(Successor::Nobody(why)) => why.to_string(),
        None => "who could take it is not known".to_owned(),
    }
}

/// Prints who would take each address of the gateway.
async fn simulate(source: &DrainSource, node: &str) -> anyhow::Result<ExitCode> {
    let now = source.look().await?;
    if let Some(why) = now.silent() {
        anyhow::bail!("the gateway on {node} {why}: which addresses it owns is not known");
    }
    let owned = now.owned();
    if owned.is_empty() {
        say(&format!(
            "The gateway on {node} owns no address on layer 2: nothing would move."
        ));
        if source.tells_routers().await {
            say("Routers keep the routes that they have of it.");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let local = source.local_services(&owned).await?;
    let mut has_stranded = false;
    let rows = owned.iter().map(|(address, report)| {
        let (taker, note) = match &report.successor {
            Some(Successor::Gateway(name)) => (name.to_string(), String::new()),
            Some(Successor::Nobody(why)) => ("<none>".to_owned(), why.to_string()),
            None => ("<unknown>".to_owned(), String::new()),
        };
        has_stranded |= !matches!(report.successor, Some(Successor::Gateway(_)));
        let services = local
            .get(address)
            .map(|names| names.join(","))
            .unwrap_or_default();
        vec![address.to_string(), taker, services, note]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    crate::outcome::print(&table::render(
        &["ADDRESS", "WOULD-GO-TO", "LOCAL-SERVICES", "WHY-NOBODY"],
        rows,
    ))?;
    if !local.is_empty() {
        say(
            "LOCAL-SERVICES have externalTrafficPolicy: Local: they have traffic on a node with an endpoint of theirs.",
        );
    }
    Ok(match has_stranded {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
