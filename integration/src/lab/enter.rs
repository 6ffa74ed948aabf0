//! Leaving the machine's own network before the first test runs.

use std::fs;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::UnshareFlags;

use super::sys;

/// `CAP_SYS_ADMIN` in capabilities(7).
const CAP_SYS_ADMIN: u32 = 21;

/// Moves this process into a network and a mount namespace of its own, and where it lacks the right
/// to do so, into a user namespace first. To be called while the process has one thread: the kernel
/// allows no other to enter a user namespace, and threads that are there already would stay behind.
pub fn enter() -> Result<()> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        bail!("a process with {threads} threads can't be moved into new namespaces");
    }
    let own = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if may_administer()? {
        sys::unshare(own)
            .context("no network namespace, although this process has CAP_SYS_ADMIN")?;
    } else {
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        sys::unshare(own | UnshareFlags::NEWUSER).context(
            "no user namespace: run the tests as root, or let users make namespaces (sysctl \
             user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)",
        )?;
        // user_namespaces(7): the group map may be written only once setgroups is given up.
        fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("uid_map")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("gid_map")?;
    }
    // What tests mount is not to be seen outside.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("the mount namespace can't be made private")
}

fn may_administer() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("/proc/self/status has no CapEff")?;
    let effective = u64::from_str_radix(effective.trim(), 16)?;
    Ok(effective & (1 << CAP_SYS_ADMIN) != 0)
}
