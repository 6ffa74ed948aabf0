//! Datagrams in batches: recvmmsg(2), and sendmsg(2) with segmentation by the kernel.
//!
//! A batch of datagrams to one socket costs one system call. Datagrams of one length and one flow go
//! through the network stack as the segments of one message (GSO: `UDP_SEGMENT`, and GRO the other way:
//! `UDP_GRO`; udp(7)): most of what a datagram costs is its way through the stack.
//!
//! Neither the standard library nor rustix has these calls. quinn-udp has them; ARCHITECTURE.md says why it is
//! not used.

#![expect(
    unsafe_code,
    reason = "no safe wrapper has recvmmsg(2) and UDP_SEGMENT"
)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use socket2::SockAddr;

/// Messages taken by one system call at most.
pub(super) const BATCH: usize = 64;

/// Bytes for one message: for the longest datagram there is, and the most segments that come as one.
const ROOM: usize = 1 << 16;

/// Segments sent as one message at most: `UDP_MAX_SEGMENTS` of older kernels (linux/udp.h).
const SEGMENTS: usize = 64;

/// Bytes of all segments of a message at most: what fits into one datagram, IPv6's header not counted
/// among them.
const SEGMENT_BYTES: usize = 65_000;

/// Room for one control message with a 32-bit number, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer([u8; 32]);

/// Takes datagrams, a batch at a time.
pub(super) struct Inbox {
    /// [`BATCH`] times [`ROOM`] bytes. Pages that were never written to take no memory.
    room: Vec<u8>,
    taken: Vec<ReceivedMessage>,
}

#[derive(Clone, Copy)]
struct ReceivedMessage {
    from: Option<SocketAddr>,
    length: usize,
    segment: usize,
}

/// The datagrams of one message from one socket: one, or several segments of one length, the last of
/// which may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segments<'a> {
    /// Who sent them; none where the socket is connected.
    pub(super) from: Option<SocketAddr>,
    /// All of them.
    pub(super) bytes: &'a [u8],
    /// The length of each, in bytes.
    pub(super) length: usize,
}

impl<'a> Segments<'a> {
    /// Each of them; an empty datagram counts.
    pub(super) fn datagrams(self) -> impl Iterator<Item = &'a [u8]> {
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty
            .into_iter()
            .chain(self.bytes.chunks(self.length.max(1)))
    }

    /// How many they are.
    pub(super) fn count(self) -> usize {
        self.bytes.len().div_ceil(self.length.max(1)).max(1)
    }
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            room: Vec::new(),
            taken: Vec::with_capacity(BATCH),
        }
    }

    /// Takes the messages that wait at a socket, `most` and [`BATCH`] at most. How many there were.
    ///
    /// # Errors
    /// As recvmmsg(2); WouldBlock where there is nothing.
    pub(super) fn receive(&mut self, socket: &OwnedFd, most: usize) -> io::Result<usize> {
        let most = most.min(BATCH);
        if self.room.is_empty() {
            self.room = vec![0; BATCH * ROOM];
        }
        // SAFETY: all-zero bytes are values of these C structs.
        let mut names: [libc::sockaddr_storage; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        let mut controls = [ControlBuffer([0; 32]); BATCH];
        let mut vectors = [libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        }; BATCH];
        let parts = headers
            .iter_mut()
            .zip(&mut vectors)
            .zip(&mut names)
            .zip(&mut controls)
            .zip(self.room.chunks_exact_mut(ROOM))
            .take(most);
        for ((((header, vector), name), control), room) in parts {
            vector.iov_base = room.as_mut_ptr().cast();
            vector.iov_len = room.len();
            let header = &mut header.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len() as _;
        }
        // SAFETY: the first `most` headers point to names, vectors, controls and room of their own,
        // of the lengths that they say, all of which outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                most as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        self.taken.clear();
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let taken = headers.iter().zip(&names).take(count);
        self.taken.extend(taken.map(|(header, name)| {
            let length = header.msg_len as usize;
            ReceivedMessage {
                from: address(name, header.msg_hdr.msg_namelen),
                length,
                segment: segment(&header.msg_hdr).unwrap_or(length),
            }
        }));
        Ok(count)
    }

    /// The message of that index in the last batch.
    pub(super) fn get(&self, at: usize) -> Option<Segments<'_>> {
        let taken = self.taken.get(at)?;
        let room = self.room.get(at * ROOM..(at + 1) * ROOM)?;
        Some(Segments {
            from: taken.from,
            bytes: room.get(..taken.length)?,
            length: taken.segment,
        })
    }
}

/// The address that the kernel wrote.
fn address(name: &libc::sockaddr_storage, length: libc::socklen_t) -> Option<SocketAddr> {
    let length = length as usize;
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says which struct it is, and a storage has room and alignment for
            // every one.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            let (flow, scope) = (u32::from_be(name.sin6_flowinfo), name.sin6_scope_id);
            Some(SocketAddrV6::new(ip, port, flow, scope).into())
        }
        _ => None,
    }
}

/// The length of each segment of a message, as the kernel says it (`UDP_GRO`).
fn segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has written control messages within the room that the header names, and as
    // many bytes as it says.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(at) = control.as_ref() {
            if (at.cmsg_level, at.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                let data = libc::CMSG_DATA(control).cast::<libc::c_int>();
                let segment = usize::try_from(data.read_unaligned()).ok()?;
                return (segment > 0).then_some(segment);
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// Lets the kernel give datagrams as segments of one message (GRO). Where the kernel can't, they come one by
/// one.
pub(super) fn enable_gro(socket: &impl AsFd) {
    let on: libc::c_int = 1;
    // SAFETY: udp(7): UDP_GRO takes an int.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Whether these datagrams may be sent as segments of one message (GSO): all of one length but the last,
/// which may be shorter, and not too many.
pub(super) fn are_segments(pieces: &[&[u8]]) -> bool {
    let Some((last, others)) = pieces.split_last() else {
        return false;
    };
    let Some(first) = others.first() else {
        return false;
    };
    let length = first.len();
    length > 0
        && !last.is_empty()
        && last.len() <= length
        && others.iter().all(|piece| piece.len() == length)
        && pieces.len() <= SEGMENTS
        && pieces.len() * length <= SEGMENT_BYTES
}

/// Sends these pieces as one datagram; where a `segment` length is given (in bytes), as datagrams of that
/// length. `to` is not given where the socket is connected.
///
/// # Errors
/// As sendmsg(2).
pub(super) fn send(
    socket: &OwnedFd,
    to: Option<&SockAddr>,
    pieces: &[&[u8]],
    segment: Option<u16>,
) -> io::Result<()> {
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; SEGMENTS];
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        vector.iov_base = piece.as_ptr().cast_mut().cast();
        vector.iov_len = piece.len();
    }
    let mut control = ControlBuffer([0; 32]);
    // SAFETY: all-zero bytes are a value of this C struct.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = vectors.as_mut_ptr();
    header.msg_iovlen = pieces.len().min(SEGMENTS) as _;
    if let Some(to) = to {
        header.msg_name = to.as_ptr().cast_mut().cast();
        header.msg_namelen = to.len();
    }
    if let Some(segment) = segment {
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: there is room for one control message with a u16, which is written within it.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
            if let Some(at) = libc::CMSG_FIRSTHDR(&header).as_mut() {
                at.cmsg_level = libc::SOL_UDP;
                at.cmsg_type = libc::UDP_SEGMENT;
                at.cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
                libc::CMSG_DATA(at).cast::<u16>().write_unaligned(segment);
            }
        }
    }
    // SAFETY: the header points to a name, vectors and a control message that outlive the call, each as
    // long as it says; the kernel writes to none of them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &header,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::UdpSocket;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn pair(address: &str) -> (UdpSocket, OwnedFd, SockAddr) {
        let to = UdpSocket::bind(address).unwrap();
        to.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let from = UdpSocket::bind(address).unwrap();
        let at = to.local_addr().unwrap().into();
        (to, from.into(), at)
    }

    #[test]
    fn segments_arrive_as_the_datagrams_that_they_are() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (to, from, at) = pair(address);
            let pieces: Vec<Vec<u8>> = (0..5)
                .map(|n| vec![n; if n == 4 { 3 } else { 100 }])
                .collect();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            assert!(are_segments(&pieces));
            send(&from, Some(&at), &pieces, Some(100)).unwrap();
            for piece in &pieces {
                let mut datagram = [0; 200];
                let length = to.recv(&mut datagram).unwrap();
                assert_eq!(&datagram[..length], *piece);
            }
            // ReceivedMessage as one by who asks for that, and each still told from the others.
            enable_gro(&to);
            send(&from, Some(&at), &pieces, Some(100)).unwrap();
            let to = OwnedFd::from(to);
            let mut got: Vec<Vec<u8>> = Vec::new();
            let mut inbox = Inbox::new();
            while got.len() < pieces.len() {
                poll(&mut [PollFd::new(&to, PollFlags::IN)], None).unwrap();
                let count = inbox.receive(&to, BATCH).unwrap();
                for row in (0..count).filter_map(|at| inbox.get(at)) {
                    assert_eq!(
                        row.from.unwrap().port(),
                        socket2::SockRef::from(&from)
                            .local_addr()
                            .unwrap()
                            .as_socket()
                            .unwrap()
                            .port()
                    );
                    assert_eq!(row.count(), row.datagrams().count());
                    got.extend(row.datagrams().map(<[u8]>::to_vec));
                }
            }
            assert_eq!(got, pieces);
        }
    }

    #[test]
    fn a_batch_keeps_who_sent_what_and_empty_datagrams() {
        let (to, one, at) = pair("127.0.0.1:0");
        let other = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = OwnedFd::from(to);
        let mut inbox = Inbox::new();
        let error = inbox.receive(&to, BATCH).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        send(&one, Some(&at), &[b"one"], None).unwrap();
        send(&other, Some(&at), &[b""], None).unwrap();
        send(&one, Some(&at), &[&[7; 65_507]], None).unwrap();
        let mut got = Vec::new();
        while got.len() < 3 {
            poll(&mut [PollFd::new(&to, PollFlags::IN)], None).unwrap();
            for at in 0..inbox.receive(&to, 2).unwrap() {
                let row = inbox.get(at).unwrap();
                assert_eq!(row.count(), 1);
                got.push((row.from.unwrap(), row.datagrams().next().unwrap().to_vec()));
            }
        }
        assert_eq!(
            (got[0].1.len(), got[1].1.len(), got[2].1.len()),
            (3, 0, 65_507)
        );
        assert_eq!(got[0].0, got[2].0);
        assert_ne!(got[0].0, got[1].0);
    }

    #[test]
    fn segments_have_one_length_but_for_the_last() {
        for (lengths, is) in [
            (&[10, 10][..], true),
            (&[10, 10, 3], true),
            (&[10, 3, 10], false),
            (&[3, 10], false),
            (&[10], false),
            (&[], false),
            (&[10, 0], false),
            (&[0, 0], false),
            (&[40_000, 40_000], false),
        ] {
            let pieces: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0; *length]).collect();
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            assert_eq!(are_segments(&pieces), is, "{lengths:?}");
        }
        let many = vec![&[0_u8; 10][..]; SEGMENTS + 1];
        assert!(!are_segments(&many));
        assert!(are_segments(&many[1..]));
    }
}
