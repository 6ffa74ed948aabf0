//! Processes that may not do all that it takes.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use fairway_integration::lab::Host;
use fairway_integration::lan::judge;
use fairway_integration::lan::network::{INTERFACE, Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;

use crate::responder::{Responder, SETTLED, table};

/// The kernel has no nftables for whom it does not let use it. The settings of interfaces are files that root may write.
const NO_NFTABLES: &[&str] = &["setpriv", "--bounding-set=-net_admin"];

/// As in a container, where these files can't be written either.
const NOTHING: &[&str] = &[
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys \
     && exec setpriv --bounding-set=-net_admin \"$0\" \"$@\"",
];

const NO_SOCKETS: &[&str] = &["setpriv", "--bounding-set=-net_raw"];

fn settings(host: &Host) -> Result<[String; 2]> {
    host.run(|| {
        ["arp_ignore", "arp_announce"].map(|setting| {
            let path = format!("/proc/sys/net/ipv4/conf/{INTERFACE}/{setting}");
            std::fs::read_to_string(path).map(|it| it.trim().to_owned())
        })
    })
    .into_iter()
    .collect::<std::io::Result<Vec<_>>>()?
    .try_into()
    .map_err(|found| anyhow::anyhow!("{found:?}"))
}

pub(crate) fn without_nftables_settings_keep_the_kernel_quiet_and_are_put_back() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let (one, other) = (lan.edge(1)?, lan.edge(2)?);
    let before = settings(&other.host)?;
    let _owner = Responder::start(&one.host, &[vip(1), vip6(1)])?;
    let bystander = Responder::start_under(&other.host, NO_NFTABLES, &[vip(2), vip6(2)])?;
    bystander.says("answering")?;
    ensure!(table(&other.host).is_err(), "{}", table(&other.host)?);
    ensure!(settings(&other.host)? == ["1", "2"], "{before:?}");
    // Both hosts have both addresses as local ones.
    let all = [vip(1), vip6(1), vip(2), vip6(2)];
    let observer = lan.observe(&all, ASKED_EVERY)?;
    let owners = observer.settled(&all, SETTLED)?;
    for (address, owner) in [
        (vip(1), one),
        (vip6(1), one),
        (vip(2), other),
        (vip6(2), other),
    ] {
        ensure!(
            owners.get(&address) == Some(&owner.hardware()),
            "{address}: {owners:?}"
        );
    }
    let heard = observer.finish()?;
    ensure!(
        judge::overlaps(&heard).is_empty(),
        "{:?}",
        judge::overlaps(&heard)
    );
    bystander.end()?;
    ensure!(settings(&other.host)? == before, "{before:?}");
    Ok(())
}

pub(crate) fn a_kernel_that_cannot_be_kept_quiet_is_told() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let responder = Responder::start_under(&lan.edge(1)?.host, NOTHING, &[])?;
    responder.says("the kernel answers: the kernel can't be kept from answering ARP requests")?;
    // It is so: nobody owns it.
    let observer = lan.observe(&[vip(1)], ASKED_EVERY)?;
    observer.settled(&[vip(1)], SETTLED)?;
    Ok(())
}

pub(crate) fn who_may_not_open_packet_sockets_says_so_and_answers_nothing() -> Result<()> {
    let lan = Lan::new(1, Snooping::Off)?;
    let both = [vip(1), vip6(1)];
    let responder = Responder::start_under(&lan.edge(1)?.host, NO_SOCKETS, &both)?;
    responder.says("fault the process may not open packet sockets (CAP_NET_RAW)")?;
    let observer = lan.observe(&both, ASKED_EVERY)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(observer.heard().is_empty(), "{:?}", observer.heard());
    Ok(())
}
