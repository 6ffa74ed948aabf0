//! The ranking of endpoints for a client: weighted rendezvous hashing.
//!
//! Every endpoint gets a score for the client, and the best one is chosen. Gateways that know the same endpoints
//! make the same choice without talking to each other, and so does a gateway after a restart. An endpoint that
//! leaves moves only its own clients; one that joins takes `1/(n+1)` of the clients from all others alike
//! (Thaler and Ravishankar, *Using name-based mappings to increase hit rates*, 1998; weights as in
//! Mosko, *Weighted HRW*, draft-ietf-bess-weighted-hrw).
//!
//! The choice is a contract between gateways of different versions and machines, so all of it is
//! integer arithmetic and fixed here; tests hold it to golden values:
//! - `h` = SipHash-2-4 with the key below over the client's address (16 bytes, IPv4 as
//!   IPv4-mapped), for a UDP flow without affinity the client's port (2 bytes, big endian), the
//!   endpoint's address (16 bytes likewise) and its port (2 bytes, big endian);
//! - `u` = `(h | 1) / 2^64`, uniform in (0, 1);
//! - the least `-log2(u) / weight` wins, an exponential race in which an endpoint wins with
//!   probability weight / sum of weights. An endpoint of no greater weight and smaller `h` never
//!   wins, which spares the logarithm for most. Equal ones: the lower address wins.
//!
//! A choice among `n` endpoints costs `n` hashes of 34 bytes: about 54 µs for 1,000 endpoints and
//! 0.5 µs for 5 on a busy machine, twice to three times that with unequal weights
//! (`benches/pick.rs`). It is made for a client's first connection; the next ones are
//! found in [`crate::affinity`].

use std::cmp::Ordering;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use fairway_config::net::EndpointAddr;
use siphasher::sip::SipHasher24;

use crate::octets::octets;
use crate::route::Endpoint;

/// Never to be changed: another key would give every client another endpoint, and gateways of different versions
/// would choose differently.
const KEY: (u64, u64) = (0x6661_6972_7761_7921, 0x656e_6470_6f69_6e74);

/// The best of `endpoints` for `client`; none where there are none.
pub fn best<'a, E: AsRef<Endpoint>>(
    client: IpAddr,
    endpoints: impl IntoIterator<Item = &'a E>,
) -> Option<&'a E> {
    best_by(&client_hasher(client), endpoints)
}

/// The best of `endpoints` for a UDP flow of `client`; none where there are none. A flow that goes on after a
/// restart gets the same one.
pub fn best_for_flow<'a, E: AsRef<Endpoint>>(
    client: SocketAddr,
    endpoints: impl IntoIterator<Item = &'a E>,
) -> Option<&'a E> {
    best_by(&flow_hasher(client), endpoints)
}

/// All of `endpoints`, the best for `client` first: the order in which they are tried.
pub fn ranking<'a>(
    client: IpAddr,
    endpoints: impl IntoIterator<Item = &'a Endpoint>,
) -> Vec<&'a Endpoint> {
    let hasher = client_hasher(client);
    let mut all: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| Contender::new(&hasher, endpoint))
        .collect();
    all.sort_by(Contender::order);
    all.into_iter()
        .map(|contender| contender.endpoint)
        .collect()
}

/// The hash `h` of a client and an endpoint.
pub fn hash(client: IpAddr, endpoint: EndpointAddr) -> u64 {
    endpoint_hash(&client_hasher(client), endpoint)
}

fn best_by<'a, E: AsRef<Endpoint>>(
    client: &SipHasher24,
    endpoints: impl IntoIterator<Item = &'a E>,
) -> Option<&'a E> {
    endpoints
        .into_iter()
        .map(|it| (Contender::new(client, it.as_ref()), it))
        .reduce(|best, other| if other.0.beats(&best.0) { other } else { best })
        .map(|(_, it)| it)
}

fn flow_hasher(client: SocketAddr) -> SipHasher24 {
    let mut hasher = client_hasher(client.ip());
    hasher.write(&client.port().to_be_bytes());
    hasher
}

fn client_hasher(client: IpAddr) -> SipHasher24 {
    let mut hasher = SipHasher24::new_with_keys(KEY.0, KEY.1);
    hasher.write(&octets(client));
    hasher
}

fn endpoint_hash(client: &SipHasher24, endpoint: EndpointAddr) -> u64 {
    let mut hasher = *client;
    hasher.write(&octets(endpoint.0.ip()));
    hasher.write(&endpoint.0.port().to_be_bytes());
    hasher.finish()
}

struct Contender<'a> {
    endpoint: &'a Endpoint,
    hash: u64,
}

impl<'a> Contender<'a> {
    fn new(client: &SipHasher24, endpoint: &'a Endpoint) -> Self {
        Self {
            endpoint,
            hash: endpoint_hash(client, endpoint.addr),
        }
    }

    fn beats(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Less
    }

    /// The better one is the lesser.
    fn order(&self, other: &Self) -> Ordering {
        let weights = self.endpoint.weight.cmp(&other.endpoint.weight);
        let hashes = self.hash.cmp(&other.hash);
        let race = match (weights, hashes) {
            (Ordering::Equal, hashes) => hashes.reverse(),
            (Ordering::Greater, Ordering::Greater) => Ordering::Less,
            (Ordering::Less, Ordering::Less) => Ordering::Greater,
            // a / w < b / v, without the division: a * v < b * w.
            _ => {
                let mine = u128::from(minus_log2(self.hash)) * u128::from(other.endpoint.weight);
                let theirs = u128::from(minus_log2(other.hash)) * u128::from(self.endpoint.weight);
                mine.cmp(&theirs)
            }
        };
        race.then_with(|| self.endpoint.addr.cmp(&other.endpoint.addr))
    }
}

/// Binary digits after the point in what [`minus_log2`] gives.
const FRACTION: u32 = 56;

/// `log2(e)` with 63 digits after the point.
const LOG2_E: u64 = 0xb8aa_3b29_5c17_f0bc;

/// `log2(1 + i/256)` with 64 digits after the point, for each `i`.
static LOG2: [u64; 256] = log2_table();

/// `-log2((hash | 1) / 2^64)` with [`FRACTION`] digits after the point, at least 1 digit.
///
/// In integers, because `ln` of the C library or of a compiler may differ in its last digit from
/// machine to machine: with `x = 2^k (1 + i/256) (1 + r)`, the first two are looked up and `r`,
/// less than 1/256, is left to the first six terms of its series.
fn minus_log2(hash: u64) -> u64 {
    let x = hash | 1;
    let zeros = x.leading_zeros();
    let mantissa = x << zeros;
    let step = (mantissa >> 55) & 0xff;
    // The mantissa is (256 + step) * 2^55 + rest, so that r = rest / ((256 + step) * 2^55).
    let rest = mantissa & ((1 << 55) - 1);
    let r = (rest << 9) / (256 + step);
    let times = |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64;
    let series = {
        let mut power = r;
        let mut sum = r;
        for term in 2..=6 {
            power = times(power, r);
            if term % 2 == 0 {
                sum -= power / term;
            } else {
                sum += power / term;
            }
        }
        sum
    };
    // LOG2_E has one digit before the point, so the product is doubled.
    let fraction = (times(series, LOG2_E) << 1).saturating_add(LOG2[step as usize]);
    let log2 = (u64::from(63 - zeros) << FRACTION) + (fraction >> (64 - FRACTION));
    ((64_u64 << FRACTION) - log2).max(1)
}

/// Digit after digit: the square of a number between 1 and 2 is at least 2 where the next binary
/// digit of its logarithm is 1.
const fn log2_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut x = (256 + i as u64) << 55;
        let mut digits = 0_u64;
        let mut digit = 0;
        while digit < 64 {
            let square = (x as u128 * x as u128) >> 63;
            digits <<= 1;
            if square >> 64 != 0 {
                digits |= 1;
                x = (square >> 1) as u64;
            } else {
                x = square as u64;
            }
            digit += 1;
        }
        table[i] = digits;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests;
