//! Version 2: binary, with fields of type, length and value (TLV) behind the addresses (section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::announced::{AnnouncedClient, ProxyHeaderError, ProxyHeaderSays, SentHeader};
use super::crc32c::crc32c;

/// The first bytes.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes before the addresses: signature, version and command, family, length.
const FIXED: usize = 16;

/// Version 2 and the command LOCAL.
const LOCAL: u8 = 0x20;
/// Version 2 and the command PROXY.
const PROXY: u8 = 0x21;
/// TCP over IPv4.
const TCP4: u8 = 0x11;
/// TCP over IPv6.
const TCP6: u8 = 0x21;

/// `PP2_TYPE_AUTHORITY`
const AUTHORITY: u8 = 0x02;
/// `PP2_TYPE_CRC32C`
const CRC32C: u8 = 0x03;
/// `PP2_TYPE_UNIQUE_ID`
const UNIQUE_ID: u8 = 0x05;

/// The longest host name (RFC 1035).
const LONGEST_AUTHORITY: usize = 255;
/// The longest unique id (section 2.2.5).
const LONGEST_UNIQUE_ID: usize = 128;

/// Reads a header of at most `most` bytes: its length, and what it says; none where it is not whole yet.
///
/// # Errors
/// As [`super::read`].
pub(super) fn read(
    bytes: &[u8],
    most: usize,
) -> Result<Option<(usize, ProxyHeaderSays)>, ProxyHeaderError> {
    let compared = SIGNATURE.len().min(bytes.len());
    if bytes.get(..compared) != SIGNATURE.get(..compared) {
        return Err(ProxyHeaderError::Missing);
    }
    if let Some(command) = bytes.get(12)
        && ![LOCAL, PROXY].contains(command)
    {
        return Err(ProxyHeaderError::Malformed);
    }
    let Some(&[_, family, high, low]) = bytes.get(12..FIXED) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > most {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    if bytes.get(12) == Some(&LOCAL) {
        // Its family and all that follows is to be ignored.
        return Ok(Some((length, ProxyHeaderSays::Itself)));
    }
    if family >> 4 > 3 || family & 0xF > 2 {
        return Err(ProxyHeaderError::Malformed);
    }
    let mut rest = Fields(header.get(FIXED..).unwrap_or_default());
    let addresses = match family {
        TCP4 => rest.addresses::<4>(|octets| Ipv4Addr::from(octets).into()),
        TCP6 => rest.addresses::<16>(|octets| Ipv6Addr::from(octets).into()),
        _ => return Ok(Some((length, ProxyHeaderSays::Itself))),
    };
    let (source, destination) = addresses.ok_or(ProxyHeaderError::Malformed)?;
    let mut client = AnnouncedClient::new(source, destination)?;
    let mut is_checked = false;
    while !rest.0.is_empty() {
        let (kind, value) = rest.field().ok_or(ProxyHeaderError::Malformed)?;
        match kind {
            AUTHORITY if value.len() <= LONGEST_AUTHORITY => client.authority = Some(value.into()),
            UNIQUE_ID if value.len() <= LONGEST_UNIQUE_ID => client.unique_id = Some(value.into()),
            CRC32C => {
                let behind = rest.0.len();
                if is_checked || !checksum_holds(header, value, behind) {
                    return Err(ProxyHeaderError::Checksum);
                }
                is_checked = true;
            }
            _ => {}
        }
    }
    Ok(Some((length, ProxyHeaderSays::Client(client))))
}

/// Whether the checksum in a header is right. The field ends `behind` bytes before the header's end.
fn checksum_holds(header: &[u8], field: &[u8], behind: usize) -> bool {
    let Ok(said) = <[u8; 4]>::try_from(field) else {
        return false;
    };
    let end = header.len() - behind;
    let before = header.get(..end - 4).unwrap_or_default();
    let after = header.get(end..).unwrap_or_default();
    // It is counted as zeros itself.
    crc32c([before, &[0; 4], after]) == u32::from_be_bytes(said)
}

/// What is left of a header.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Source and destination: two addresses, two ports.
    fn addresses<const N: usize>(
        &mut self,
        address: impl Fn([u8; N]) -> IpAddr,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let (source, destination) = (self.array()?, self.array()?);
        let (from, to) = (self.number()?, self.number()?);
        Some((
            SocketAddr::new(address(source), from),
            SocketAddr::new(address(destination), to),
        ))
    }

    /// A TLV.
    fn field(&mut self) -> Option<(u8, &'a [u8])> {
        let [kind] = self.array::<1>()?;
        let length = self.number()?;
        Some((kind, self.take(length.into())?))
    }
}

/// The header of a connection that is the sender's own.
pub(super) fn own() -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([LOCAL, 0, 0, 0]);
    bytes
}

/// The beginning of a header: its addresses. So many bytes of fields have to follow.
pub(super) fn write_addresses(
    source: SocketAddr,
    destination: SocketAddr,
    fields: usize,
) -> Vec<u8> {
    let (family, addresses) = if source.is_ipv4() {
        (TCP4, 12)
    } else {
        (TCP6, 36)
    };
    let behind = u16::try_from(addresses + fields).unwrap_or(u16::MAX);
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([PROXY, family]);
    bytes.extend(behind.to_be_bytes());
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    for port in [source.port(), destination.port()] {
        bytes.extend(port.to_be_bytes());
    }
    bytes
}

/// The header of a connection that is made for a client.
pub(super) fn write(header: &SentHeader<'_>) -> Vec<u8> {
    let (source, destination) = header.addresses();
    let mut bytes = write_addresses(source, destination, 0);
    if let Some(authority) = header.authority {
        push(&mut bytes, AUTHORITY, authority, LONGEST_AUTHORITY);
    }
    push(&mut bytes, UNIQUE_ID, header.unique_id, LONGEST_UNIQUE_ID);
    push(&mut bytes, CRC32C, &[0; 4], 4);
    let behind = u16::try_from(bytes.len() - FIXED).unwrap_or(u16::MAX);
    if let Some(length) = bytes.get_mut(14..FIXED) {
        length.copy_from_slice(&behind.to_be_bytes());
    }
    let checksum = crc32c([bytes.as_slice()]);
    bytes.truncate(bytes.len() - 4);
    bytes.extend(checksum.to_be_bytes());
    bytes
}

/// A TLV, where its value is not too long.
fn push(bytes: &mut Vec<u8>, kind: u8, value: &[u8], most: usize) {
    if let (true, Ok(length)) = (value.len() <= most, u16::try_from(value.len())) {
        bytes.push(kind);
        bytes.extend(length.to_be_bytes());
        bytes.extend(value);
    }
}
