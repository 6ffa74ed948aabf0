//! What keeps the kernel quiet where there is no nftables: two settings of an interface
//! (Documentation/networking/ip-sysctl.rst). `arp_ignore` 1: it answers only for addresses of the interface that was
//! asked on. `arp_announce` 2: it names only an address of the interface as a sender.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::{fs, io};

/// The settings and what they are to be at least.
const SETTINGS: [(&str, u8); 2] = [("arp_ignore", 1), ("arp_announce", 2)];

/// The settings that were changed.
#[derive(Debug, Default)]
pub(super) struct ArpSettings {
    interfaces: BTreeSet<Box<str>>,
    /// What they were before.
    former: BTreeMap<PathBuf, u8>,
}

impl ArpSettings {
    /// Whether they were set for just these interfaces.
    pub(super) fn are_of(&self, interfaces: &BTreeSet<Box<str>>) -> bool {
        self.interfaces == *interfaces
    }

    /// The interfaces that they were set for, or should have been.
    pub(super) fn interfaces(&self) -> BTreeSet<Box<str>> {
        self.interfaces.clone()
    }

    /// Sets them for these interfaces. An interface that is away has them when it comes.
    ///
    /// # Errors
    /// /proc/sys can't be written: in a container it is read-only.
    pub(super) fn set(&mut self, interfaces: &BTreeSet<Box<str>>) -> io::Result<()> {
        self.interfaces = interfaces.clone();
        for interface in interfaces {
            for (setting, least) in SETTINGS {
                let path = PathBuf::from("/proc/sys/net/ipv4/conf")
                    .join(&**interface)
                    .join(setting);
                let now = match fs::read_to_string(&path) {
                    Ok(text) => text.trim().parse().unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                if now < least {
                    fs::write(&path, least.to_string())?;
                    self.former.insert(path, now);
                }
            }
        }
        Ok(())
    }

    /// Sets them back to what they were.
    pub(super) fn put_back(&mut self) {
        for (path, value) in std::mem::take(&mut self.former) {
            if let Err(error) = fs::write(&path, value.to_string())
                && error.kind() != io::ErrorKind::NotFound
            {
                let path = path.display();
                tracing::warn!(%path, %error, "a setting was not put back");
            }
        }
        self.interfaces.clear();
    }
}
