//! The PROXY protocol, versions 1 and 2: a header before a connection's first byte says whose connection it is.
//!
//! Source: `doc/proxy-protocol.txt` of HAProxy. Pure: [`read`] looks at the bytes that have come so far, [`write()`] makes
//! those that are sent.
//!
//! It is our own, with its checksum: the documentation of `ppp` and `proxy-header` shows no check of one, and a header that
//! was damaged on its way would name another client. Other crates bring a listener with rules of its own for whom it
//! believes.
//!
//! Reading order: `announced`, what a header says; [`read`]; [`write()`]; `v1` and `v2`, the two forms; `crc32c`.

mod announced;
mod crc32c;
mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use fairway_config::port_options::ProxyVersion;

pub use self::announced::{AnnouncedClient, ProxyHeaderError, ProxyHeaderSays, SentHeader};

/// The longest header that is read, in bytes. One with addresses and all registered TLVs is shorter, a TLS client's
/// certificate included.
pub const MOST: usize = 4096;

/// How far a header has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderProgress {
    /// More bytes have to come.
    Incomplete,
    /// It is whole.
    Complete {
        /// How many bytes it has. What follows is the client's.
        length: usize,
        /// What it says.
        says: ProxyHeaderSays,
    },
}

/// Reads the header that a connection begins with. `bytes` are the first ones of the connection, as many as there are,
/// or [`MOST`] of them.
///
/// # Errors
/// The connection does not begin with a header, or with one that must not be believed. No further byte changes that.
pub fn read(bytes: &[u8]) -> Result<HeaderProgress, ProxyHeaderError> {
    // The two differ in their first byte.
    let found = match bytes.first() {
        None => None,
        Some(first) if v2::SIGNATURE.starts_with(&[*first]) => v2::read(bytes, MOST)?,
        Some(_) => v1::read(bytes)?,
    };
    Ok(match found {
        Some((length, says)) => HeaderProgress::Complete { length, says },
        None => HeaderProgress::Incomplete,
    })
}

/// The header of a connection that is made for a client.
pub fn write(version: ProxyVersion, header: &SentHeader<'_>) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => v1::write(header),
        ProxyVersion::V2 => v2::write(header),
    }
}

/// The beginning of a header of version 2: its addresses, which are of one family. So many bytes of fields have to follow.
pub fn write_addresses(source: SocketAddr, destination: SocketAddr, fields: usize) -> Vec<u8> {
    v2::write_addresses(source, destination, fields)
}

/// The header of a connection that is made for nobody else, such as a health check's.
pub fn write_own(version: ProxyVersion) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => v1::OWN.to_vec(),
        ProxyVersion::V2 => v2::own(),
    }
}
