//! bpf(2): maps, programs, and their links to a network namespace or an interface.
//!
//! The kernel removes each of them when its file descriptor is closed, so nothing is left when the process ends.
//! [`instructions`]: what programs are made of.

#![expect(unsafe_code, reason = "no safe wrapper has bpf(2)")]

pub(crate) mod instructions;

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use self::instructions::Instruction;

/// Commands of `enum bpf_cmd` of linux/bpf.h.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_MAP_TYPE_HASH`, `BPF_MAP_TYPE_ARRAY`, `BPF_MAP_TYPE_PERCPU_ARRAY`, `BPF_MAP_TYPE_LRU_HASH`, `BPF_MAP_TYPE_SOCKMAP`.
const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const SOCKMAP: u32 = 15;

/// `BPF_PROG_TYPE_SCHED_CLS`, `BPF_PROG_TYPE_SK_LOOKUP`.
const SCHED_CLS_PROGRAM: u32 = 3;
const SK_LOOKUP_PROGRAM: u32 = 30;

/// `BPF_SK_LOOKUP`, `BPF_TCX_INGRESS`.
const SK_LOOKUP_ATTACH: u32 = 36;
const TCX_INGRESS_ATTACH: u32 = 46;

/// `BPF_F_BEFORE`: before all programs that are there, for one that takes a packet ends the row (a CNI's does).
const BEFORE: u32 = 1 << 3;

/// `BPF_F_NO_PREALLOC`: an entry takes memory when it is added.
const NO_PREALLOC: u32 = 1;

/// `BPF_MPROG_MAX`: the most programs in one row.
const ROW: usize = 64;

/// Some helpers are only for programs under the GPL. Those that this program calls are not among them.
const LICENSE: &CStr = c"Apache-2.0";

/// `union bpf_attr`, as far as it is used: the kernel takes a shorter one and fills it up with zeroes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct MapElement {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ProgramQuery {
    target: u32,
    attach: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    _pad: u32,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ObjectInfo {
    object: u32,
    length: u32,
    info: u64,
}

/// The begin of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgramInfo {
    kind: u32,
    number: u32,
}

/// A map from keys of `K` bytes to values of `V`.
#[derive(Debug)]
pub(crate) struct Map<const K: usize, const V: usize>(OwnedFd);

impl<const K: usize, const V: usize> Map<K, V> {
    fn create(kind: u32, entries: u32, flags: u32) -> io::Result<Self> {
        let attribute = MapCreate {
            kind,
            key_size: K as u32,
            value_size: V as u32,
            max_entries: entries,
            flags,
        };
        // SAFETY: a new map is a file descriptor of our own.
        unsafe { descriptor(MAP_CREATE, &attribute) }.map(Self)
    }

    /// A map that another process has made, with keys and values of this size.
    pub(crate) fn of(map: OwnedFd) -> Self {
        Self(map)
    }

    /// The key behind that one, in the kernel's order; the first one where that one is not there, or none is named.
    ///
    /// # Errors
    /// ENOENT: there is no other.
    pub(crate) fn next(&self, key: Option<[u8; K]>) -> io::Result<[u8; K]> {
        let mut next = [0; K];
        let attribute = MapElement {
            map: self.0.as_raw_fd().cast_unsigned(),
            _pad: 0,
            key: key.as_ref().map_or(0, |key| ptr::from_ref(key) as u64),
            value: ptr::from_mut(&mut next) as u64,
            flags: 0,
        };
        // SAFETY: both keys are as long as the map was made for, and outlive the call.
        unsafe { bpf(MAP_GET_NEXT_KEY, &attribute) }?;
        Ok(next)
    }

    /// The map as a program names it.
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// E2BIG: the map is full; ENOMEM.
    pub(crate) fn set(&self, key: [u8; K], value: [u8; V]) -> io::Result<()> {
        self.element(MAP_UPDATE_ELEM, &key, ptr::from_ref(&value) as u64)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// ENOENT: the key has none.
    pub(crate) fn get(&self, key: [u8; K]) -> io::Result<[u8; V]> {
        let mut value = [0; V];
        self.element(MAP_LOOKUP_ELEM, &key, ptr::from_mut(&mut value) as u64)?;
        Ok(value)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// ENOENT: it was not there.
    pub(crate) fn remove(&self, key: [u8; K]) -> io::Result<()> {
        self.element(MAP_DELETE_ELEM, &key, 0)
    }

    /// `value` is the address of a `[u8; V]`, which a look-up writes; 0 where the command takes none.
    fn element(&self, command: libc::c_long, key: &[u8; K], value: u64) -> io::Result<()> {
        let attribute = MapElement {
            map: self.0.as_raw_fd().cast_unsigned(),
            _pad: 0,
            key: ptr::from_ref(key) as u64,
            value,
            flags: 0,
        };
        // SAFETY: key and value are as long as the map was made for, and outlive the call.
        unsafe { bpf(command, &attribute) }.map(drop)
    }
}

impl<const K: usize, const V: usize> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A hash map with at most `entries` entries.
pub(crate) fn hash<const K: usize, const V: usize>(entries: u32) -> io::Result<Map<K, V>> {
    Map::create(HASH, entries, NO_PREALLOC)
}

/// A map from numbers to sockets.
pub(crate) fn sockets(entries: u32) -> io::Result<Map<4, 8>> {
    Map::create(SOCKMAP, entries, 0)
}

/// A hash map with at most `entries` entries: where it is full, those that were not used for longest give way. The
/// memory for all of them is taken at once.
pub(crate) fn lru_hash<const K: usize, const V: usize>(entries: u32) -> io::Result<Map<K, V>> {
    Map::create(LRU_HASH, entries, 0)
}

/// One number, which a program counts in. Its key is 0.
pub(crate) fn counter() -> io::Result<Map<4, 8>> {
    Map::create(ARRAY, 1, 0)
}

/// One number for each processor, which programs alone read and write. Its key is 0.
pub(crate) fn processor_numbers() -> io::Result<Map<4, 8>> {
    Map::create(PERCPU_ARRAY, 1, 0)
}

/// Has the network namespace of this thread run a program whenever it looks for a socket, until the returned
/// descriptor is closed.
///
/// # Errors
/// The process may not (CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN), or the kernel can't (before 5.9).
pub(crate) fn attach_to_socket_lookup(code: &[Instruction]) -> io::Result<OwnedFd> {
    let program = load(
        SK_LOOKUP_PROGRAM,
        SK_LOOKUP_ATTACH,
        *b"fairway_steer\0\0\0",
        code,
    )?;
    let namespace = std::fs::File::open("/proc/thread-self/ns/net")?;
    let target = namespace.as_fd().as_raw_fd().cast_unsigned();
    link(&program, target, (SK_LOOKUP_ATTACH, 0))
}

/// Loads a program for packets that arrive on an interface.
///
/// # Errors
/// The process may not (CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN), or the kernel can't.
pub(crate) fn load_for_ingress(code: &[Instruction]) -> io::Result<OwnedFd> {
    load(SCHED_CLS_PROGRAM, 0, *b"fairway_pass\0\0\0\0", code)
}

/// Has the kernel run a [program](load_for_ingress) for each packet that arrives on the interface of that number,
/// until the returned descriptor is closed. The other programs there run after it.
///
/// # Errors
/// EINVAL: the kernel can't (before 6.6). ENODEV: there is no such interface. EEXIST: it is there already.
pub(crate) fn attach_to_ingress(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    link(program, interface, (TCX_INGRESS_ATTACH, BEFORE))
}

/// Adds a program behind the others.
#[cfg(test)]
pub(crate) fn attach_last_to_ingress(program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    link(program, interface, (TCX_INGRESS_ATTACH, 0))
}

/// The kernel's number of a program.
///
/// # Errors
/// It is none.
pub(crate) fn number(program: &OwnedFd) -> io::Result<u32> {
    let mut info = ProgramInfo::default();
    let mut attribute = ObjectInfo {
        object: program.as_raw_fd().cast_unsigned(),
        length: mem::size_of::<ProgramInfo>() as u32,
        info: ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the kernel writes as many bytes of information as is said, and the length into the attribute.
    unsafe { ask(OBJ_GET_INFO_BY_FD, &mut attribute) }?;
    Ok(info.number)
}

/// The kernel's numbers of the programs that it runs for each packet which arrives on the interface of that number, in
/// their order.
///
/// # Errors
/// EPERM: the process lacks CAP_NET_ADMIN. ENODEV: there is no such interface. EINVAL: the kernel can't (before 6.6).
pub(crate) fn ingress_programs(interface: u32) -> io::Result<Vec<u32>> {
    let mut numbers = vec![0_u32; ROW];
    let mut attribute = ProgramQuery {
        target: interface,
        attach: TCX_INGRESS_ATTACH,
        query_flags: 0,
        attach_flags: 0,
        programs: numbers.as_mut_ptr() as u64,
        count: ROW as u32,
        _pad: 0,
    };
    // SAFETY: the kernel writes no more numbers than is said, and how many there are into the attribute.
    match unsafe { ask(PROG_QUERY, &mut attribute) } {
        Ok(_) => numbers.truncate(attribute.count as usize),
        // No program at all.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => numbers.clear(),
        Err(error) => return Err(error),
    }
    Ok(numbers)
}

fn load(kind: u32, attach: u32, name: [u8; 16], code: &[Instruction]) -> io::Result<OwnedFd> {
    let attribute = ProgramLoad {
        kind,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        instructions: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach,
    };
    // SAFETY: instructions and licence outlive the call; a new program is a descriptor of our own.
    unsafe { descriptor(PROG_LOAD, &attribute) }
}

fn link(program: &OwnedFd, target: u32, (attach, flags): (u32, u32)) -> io::Result<OwnedFd> {
    let attribute = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        target,
        attach,
        flags,
    };
    // SAFETY: a new link is a file descriptor of our own.
    unsafe { descriptor(LINK_CREATE, &attribute) }
}

/// Runs a [program](load_for_ingress) once on a frame that arrives on loopback. Returns what it answers, and the frame
/// as it is then.
#[cfg(test)]
pub(crate) fn run_on(program: &OwnedFd, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    const PROG_TEST_RUN: libc::c_long = 10;
    #[repr(C, align(8))]
    #[derive(Clone, Copy)]
    struct TestRun {
        program: u32,
        answer: u32,
        length: u32,
        room: u32,
        data: u64,
        out: u64,
        repeat: u32,
        duration: u32,
    }
    let mut out = vec![0_u8; frame.len() + 256];
    let mut attribute = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        answer: 0,
        length: frame.len() as u32,
        room: out.len() as u32,
        data: frame.as_ptr() as u64,
        out: out.as_mut_ptr() as u64,
        repeat: 1,
        duration: 0,
    };
    // SAFETY: both frames are as long as is said, and outlive the call, which writes to the second and to the attribute.
    unsafe { ask(PROG_TEST_RUN, &mut attribute) }?;
    out.truncate(attribute.room as usize);
    Ok((attribute.answer, out))
}

/// Makes a call that returns a file descriptor.
///
/// # Safety
/// As [`bpf`], and what it returns is a descriptor that nobody else owns.
unsafe fn descriptor<T: Copy>(command: libc::c_long, attribute: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says.
    let number = unsafe { bpf(command, attribute) }?;
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: as the caller says.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// # Safety
/// `attribute` is what the command takes, and what it points to is there.
unsafe fn bpf<T: Copy>(command: libc::c_long, attribute: &T) -> io::Result<libc::c_long> {
    let mut attribute = *attribute;
    // SAFETY: as the caller says.
    unsafe { ask(command, &mut attribute) }
}

/// The same where the kernel writes into the attribute.
///
/// # Safety
/// As [`bpf`].
unsafe fn ask<T: Copy>(command: libc::c_long, attribute: &mut T) -> io::Result<libc::c_long> {
    let mut room = AttributeRoom {
        attribute: *attribute,
        beyond: [0; BEYOND],
    };
    // SAFETY: as the caller says; what the kernel writes behind the attribute is in the room.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            ptr::from_mut(&mut room),
            mem::size_of::<T>(),
        )
    };
    // Before anything else makes a system call.
    let error = io::Error::last_os_error();
    *attribute = room.attribute;
    match answer {
        0.. => Ok(answer),
        _ => Err(error),
    }
}

/// More than `union bpf_attr` has bytes in any version.
const BEYOND: usize = 1024;

/// An attribute, and room for what the kernel writes behind it: it writes some answers to where its own version of `union
/// bpf_attr` has them, however short the attribute is that it was given (`PROG_QUERY`: a revision, at byte 56).
#[repr(C, align(8))]
struct AttributeRoom<T> {
    attribute: T,
    beyond: [u8; BEYOND],
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_namespaces::Namespaces;

    use super::instructions::{R, exit, set};
    use super::*;

    #[test]
    fn the_kernel_writes_nothing_behind_an_attribute() {
        const TEST: &str = "bpf::tests::the_kernel_writes_nothing_behind_an_attribute";
        if !Namespaces::NetworkOfRoot.is_inside(TEST) {
            return;
        }
        let program = load_for_ingress(&[set(R::R0, -1), exit()]).unwrap();
        let _link = attach_to_ingress(&program, 1).unwrap();
        let mut numbers = [0_u32; ROW];
        let mut guarded = AttributeRoom {
            attribute: ProgramQuery {
                target: 1,
                attach: TCX_INGRESS_ATTACH,
                query_flags: 0,
                attach_flags: 0,
                programs: numbers.as_mut_ptr() as u64,
                count: ROW as u32,
                _pad: 0,
            },
            beyond: [0x5a; BEYOND],
        };
        // SAFETY: the kernel writes no more numbers than is said.
        unsafe { ask(PROG_QUERY, &mut guarded.attribute) }.unwrap();
        assert_eq!(guarded.attribute.count, 1);
        assert_eq!(numbers[0], number(&program).unwrap());
        assert_eq!(guarded.beyond, [0x5a; BEYOND]);
    }
}
