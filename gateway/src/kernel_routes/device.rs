//! The interface that the routes go by: it exists as long as a process has it open.

use std::fs::OpenOptions;
use std::io;
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
    let file = file.map_err(|error| format!("{TUN} can't be opened: {error}"))?;
    match make(&file) {
        Ok(()) => Ok(file.into()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(format!(
            "there is an interface {DEVICE} already: another Fairway on this host has it"
        )),
        Err(error) => Err(format!("the interface {DEVICE} can't be made: {error}")),
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
}
