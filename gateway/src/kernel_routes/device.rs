//! The interface that the routes go by: it exists as long as a process has it open.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::DEVICE;

/// Where such interfaces are made.
const TUN: &str = "/dev/net/tun";

/// `struct ifreq` of linux/if.h, as far as TUNSETIFF reads it.
#[repr(C)]
struct TunRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the interface.
///
/// # Errors
/// It can't be made. The text is the end of a sentence.
pub(super) fn open() -> Result<OwnedFd, String> {
    let file = OpenOptions::new().read(true).write(true).open(TUN);
    let file = file.map_err(|error| unopened(&error))?;
    match make(&file) {
        Ok(()) => Ok(file.into()),
        Err(error) => Err(unmade(&error)),
    }
}

fn unopened(error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::NotFound => {
            "; a container needs it mounted (the chart's gateway.kernelRoutes=true), and the host's kernel the module tun"
        }
        ErrorKind::PermissionDenied => {
            "; the container's runtime, or the unit, has to allow this device (\"Routes in the kernel\" in deploy/README.md)"
        }
        _ if error.raw_os_error() == Some(libc::ENODEV) => {
            "; the host's kernel needs the module tun"
        }
        _ => "",
    };
    format!("{TUN} can't be opened: {error}{remedy}")
}

fn unmade(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            format!("there is an interface {DEVICE} already: another Fairway on this host has it")
        }
        Some(libc::EPERM) => {
            format!("the interface {DEVICE} can't be made: {error}; it takes CAP_NET_ADMIN")
        }
        _ => format!("the interface {DEVICE} can't be made: {error}"),
    }
}

#[expect(unsafe_code, reason = "no safe wrapper has this ioctl")]
fn make(file: &std::fs::File) -> io::Result<()> {
    let mut request = TunRequest {
        name: [0; libc::IFNAMSIZ],
        // One that another process has is not shared.
        flags: (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as u16,
        rest: [0; 22],
    };
    for (place, byte) in request.name.iter_mut().zip(DEVICE.bytes()) {
        *place = byte;
    }
    // SAFETY: TUNSETIFF (linux/if_tun.h) reads and writes a struct ifreq, which has 40 bytes.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_the_kernel_has_it() {
        assert_eq!(size_of::<TunRequest>(), 40);
        assert!(DEVICE.len() < libc::IFNAMSIZ);
    }

    #[test]
    fn what_is_refused_says_what_to_do() {
        for (errno, words) in [
            (libc::ENOENT, "gateway.kernelRoutes=true"),
            (libc::EPERM, "has to allow this device"),
            (libc::EACCES, "has to allow this device"),
            (libc::ENODEV, "the module tun"),
        ] {
            let said = unopened(&io::Error::from_raw_os_error(errno));
            assert!(said.contains(words), "{said}");
        }
        for (errno, words) in [
            (libc::EPERM, "it takes CAP_NET_ADMIN"),
            (libc::EBUSY, "another Fairway on this host has it"),
        ] {
            let said = unmade(&io::Error::from_raw_os_error(errno));
            assert!(said.contains(words), "{said}");
        }
    }
}
