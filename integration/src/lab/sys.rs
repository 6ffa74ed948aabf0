//! The system calls that Rust can't vouch for.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into new namespaces.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(
        !flags.contains(UnshareFlags::FILES),
        "descriptors must stay shared"
    );
    // SAFETY: unshare(2) is unsound only with CLONE_FILES, by which descriptors that other threads
    // own would stand for something else here. Namespaces own no memory and no descriptor.
    unsafe { unshare_unsafe(flags) }.map_err(Into::into)
}

/// Has the kernel kill the program that `command` starts when the thread that starts it ends.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe and
    // allocates nothing.
    unsafe {
        command
            .pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
}

/// Binds a packet socket (packet(7)) to the interface of that index: it gets every frame there, and with each the
/// time at which the kernel had it (SO_TIMESTAMPNS in socket(7)).
pub(super) fn bind_packet(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int, which `on` is.
    let stamped = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if stamped != 0 {
        return Err(io::Error::last_os_error());
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: interface.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads an address of the length that it is told.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    match bound {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A frame that a packet socket has received.
pub(super) struct StampedFrame {
    /// Its bytes in the buffer.
    pub(super) length: usize,
    /// When the kernel had it.
    pub(super) at: SystemTime,
    /// Whether this host sent it.
    pub(super) is_own: bool,
}

/// Receives a frame; does not wait.
pub(super) fn receive_stamped(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<StampedFrame> {
    // SAFETY: zeros are a value of these, which hold numbers and pointers alone.
    let (mut from, mut header): (libc::sockaddr_ll, libc::msghdr) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut control = [0_u64; 16];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of_val(&from) as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: all that the header points to lives until the call is over, and has the lengths that it says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    let mut at = SystemTime::now();
    // SAFETY: the kernel has written whole entries into `control`, and says up to where.
    let mut entry = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: see above; CMSG_NXTHDR ends with a null pointer.
    while let Some(it) = unsafe { entry.as_ref() } {
        if it.cmsg_level == libc::SOL_SOCKET && it.cmsg_type == libc::SO_TIMESTAMPNS {
            // SAFETY: what such an entry holds is a timespec.
            let stamp: libc::timespec = unsafe {
                libc::CMSG_DATA(entry)
                    .cast::<libc::timespec>()
                    .read_unaligned()
            };
            let since = Duration::new(stamp.tv_sec.cast_unsigned(), stamp.tv_nsec as u32);
            at = UNIX_EPOCH + since;
        }
        // SAFETY: see above.
        entry = unsafe { libc::CMSG_NXTHDR(&raw const header, entry) };
    }
    Ok(StampedFrame {
        length,
        at,
        is_own: from.sll_pkttype == libc::PACKET_OUTGOING,
    })
}
