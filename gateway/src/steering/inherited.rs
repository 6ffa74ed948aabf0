//! The steering of another process, which hands it over: the same maps, program and link, so that no connection is
//! steered to nobody for a moment.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The layout of keys and values in the maps, and what the program makes of them. It is in the names of what is handed
/// over: a process with another layout does not find them, and has a program of its own.
const LAYOUT: &str = "steering-2";

const PLACES: &str = "places";
const SOCKETS: &str = "sockets";
const BLOCKS: &str = "blocks";
const INQUIRY: &str = "inquiry";
const LINK: &str = "link";

/// The maps and the link of another process.
#[derive(Debug)]
pub(crate) struct InheritedSteering {
    pub(super) places: OwnedFd,
    pub(super) sockets: OwnedFd,
    pub(super) blocks: OwnedFd,
    pub(super) inquiry: OwnedFd,
    pub(super) link: OwnedFd,
}

impl InheritedSteering {
    /// Takes them out of what has been handed over; none where they are not all there.
    pub(crate) fn take(named: &mut BTreeMap<String, OwnedFd>) -> Option<Self> {
        let mut take = |what| named.remove(&name(what));
        let (places, sockets) = (take(PLACES), take(SOCKETS));
        let blocks = take(BLOCKS);
        let (inquiry, link) = (take(INQUIRY), take(LINK));
        Some(Self {
            places: places?,
            sockets: sockets?,
            blocks: blocks?,
            inquiry: inquiry?,
            link: link?,
        })
    }
}

/// The maps and the link of this process, by the names that another one looks for.
///
/// # Errors
/// The process has no file descriptors left.
pub(super) fn named(
    places: BorrowedFd<'_>,
    sockets: BorrowedFd<'_>,
    blocks: BorrowedFd<'_>,
    inquiry: BorrowedFd<'_>,
    link: BorrowedFd<'_>,
) -> io::Result<Vec<(String, OwnedFd)>> {
    let all = [
        (PLACES, places),
        (SOCKETS, sockets),
        (BLOCKS, blocks),
        (INQUIRY, inquiry),
        (LINK, link),
    ];
    let all = all.into_iter();
    all.map(|(what, it)| Ok((name(what), it.try_clone_to_owned()?)))
        .collect()
}

fn name(what: &str) -> String {
    format!("{LAYOUT}-{what}")
}
