//! Messages of a fleet as bytes. All numbers are big endian; a name is its length in one byte, and its bytes.
//!
//! ```text
//! "FWF1"  from  run:8  sequence:8  sent_at:8  stage:1  addresses:8  version:8
//! members:1, each:  name  run:8  sequence:8  age:4 (ms; all ones: none)  known:8
//! terms:1 (0 or 1)  after:8  upto:8
//! addresses:1, each:  version:8  family:1 (4 or 6)  address:4|16  number:8  state:1
//! ```
//! A state is 0 (owned), 1 (over), or 2 and more: offered to the member at that place, less two, in the list.
//!
//! While gateways are upgraded there are two versions of them, and two that do not hear each other would both own
//! everything. So a later version says more only where this one reads on without it: a stage that it does not know is
//! that of a member which is there and takes nothing (0), and bytes behind the end are left alone.
//!
//! With seven members, names of 63 bytes and 16 IPv6 addresses a message has 1,198 bytes. With what authenticates
//! it and the headers of IPv6 and UDP that is below 1,280 bytes, which every link carries whole (RFC 8200).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use super::message::{
    FleetMessage, LastHeard, MemberName, MemberStage, Term, TermChange, TermChanges, TermState,
};

const MAGIC: &[u8; 4] = b"FWF1";

/// Longest name, in bytes.
pub const LONGEST_NAME: usize = 253;

/// So many members may be named in one message.
pub const MOST_MEMBERS: usize = 64;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FleetWireError {
    /// It does not begin as messages do.
    #[error("it is no message of this version of Fairway's gateways")]
    Foreign,
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// A field has a value that means nothing.
    #[error("a field has a value that means nothing")]
    Value,
}

/// A message as bytes. Of more members than [`MOST_MEMBERS`] the first ones are named; an address that is offered to one
/// that is not named stands there as owned.
pub fn encode(message: &FleetMessage) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1280);
    bytes.extend(MAGIC);
    put_name(&mut bytes, &message.from);
    bytes.extend(message.run.to_be_bytes());
    bytes.extend(message.sequence.to_be_bytes());
    bytes.extend(message.sent_at.to_be_bytes());
    bytes.push(match message.stage {
        MemberStage::Listening => 0,
        MemberStage::Ready => 1,
        MemberStage::Leaving => 2,
        MemberStage::Draining => 3,
    });
    bytes.extend(message.addresses.to_be_bytes());
    bytes.extend(message.version.to_be_bytes());
    let named: Vec<_> = message.hears.iter().take(MOST_MEMBERS).collect();
    bytes.push(named.len() as u8);
    for (name, heard) in &named {
        put_name(&mut bytes, name);
        bytes.extend(heard.run.to_be_bytes());
        bytes.extend(heard.sequence.to_be_bytes());
        let age = heard
            .age
            .map(|it| it.as_millis().min(u128::from(u32::MAX - 1)) as u32);
        bytes.extend(age.unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(heard.known.to_be_bytes());
    }
    let Some(terms) = &message.terms else {
        bytes.push(0);
        return bytes;
    };
    bytes.push(1);
    bytes.extend(terms.after.to_be_bytes());
    bytes.extend(terms.upto.to_be_bytes());
    let state = |term: &Term| match &term.state {
        TermState::Owned => 0,
        TermState::Over => 1,
        // Whoever is not named goes without an offer: the owner stays.
        TermState::Offered(to) => {
            let place = named.iter().position(|(name, _)| *name == to);
            place.map_or(0, |place| place as u8 + 2)
        }
    };
    bytes.push(terms.changed.len().min(255) as u8);
    for it in terms.changed.iter().take(255) {
        bytes.extend(it.version.to_be_bytes());
        match it.address {
            IpAddr::V4(address) => {
                bytes.push(4);
                bytes.extend(address.octets());
            }
            IpAddr::V6(address) => {
                bytes.push(6);
                bytes.extend(address.octets());
            }
        }
        bytes.extend(it.term.number.to_be_bytes());
        bytes.push(state(&it.term));
    }
    bytes
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    let name = &name.as_bytes()[..name.len().min(LONGEST_NAME)];
    bytes.push(name.len() as u8);
    bytes.extend(name);
}

/// Whether bytes begin as those of a message do, which costs nothing to see.
pub fn is_begun(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Where the number of the sender's run stands in a message, after the bytes of its name, whose length is the byte
/// [`NAME_LENGTH_AT`].
pub const RUN_AFTER_NAME: u32 = 5;

/// See [`RUN_AFTER_NAME`].
pub const NAME_LENGTH_AT: u32 = 4;

/// The message that these bytes are.
///
/// # Errors
///
/// They are none.
pub fn decode(bytes: &[u8]) -> Result<FleetMessage, FleetWireError> {
    let mut rest = Rest(bytes);
    if rest.take::<4>()? != *MAGIC {
        return Err(FleetWireError::Foreign);
    }
    let from = rest.name()?;
    let (run, sequence, sent_at) = (rest.number()?, rest.number()?, rest.number()?);
    let stage = match rest.byte()? {
        1 => MemberStage::Ready,
        2 => MemberStage::Leaving,
        3 => MemberStage::Draining,
        // Nothing is offered to it, and what it owns is its own.
        0 | 4.. => MemberStage::Listening,
    };
    let (addresses, version) = (rest.number()?, rest.number()?);
    let (mut hears, mut names) = (BTreeMap::new(), Vec::new());
    for _ in 0..rest.byte()? {
        let name = rest.name()?;
        let (run, sequence) = (rest.number()?, rest.number()?);
        let age = u32::from_be_bytes(rest.take()?);
        let heard = LastHeard {
            run,
            sequence,
            age: (age != u32::MAX).then(|| Duration::from_millis(age.into())),
            known: rest.number()?,
        };
        names.push(name.clone());
        hears.insert(name, heard);
    }
    let terms = match rest.byte()? {
        0 => None,
        1 => Some(rest.terms(&names)?),
        _ => return Err(FleetWireError::Value),
    };
    Ok(FleetMessage {
        from,
        run,
        sequence,
        sent_at,
        stage,
        hears,
        addresses,
        version,
        terms,
    })
}

/// The bytes that are left to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FleetWireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(FleetWireError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, FleetWireError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, FleetWireError> {
        self.take().map(u64::from_be_bytes)
    }

    fn name(&mut self) -> Result<MemberName, FleetWireError> {
        let length = usize::from(self.byte()?);
        let (name, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(FleetWireError::Short)?;
        self.0 = rest;
        let name = std::str::from_utf8(name).map_err(|_| FleetWireError::Value)?;
        match name.is_empty() || name.len() > LONGEST_NAME {
            true => Err(FleetWireError::Value),
            false => Ok(name.into()),
        }
    }

    fn terms(&mut self, names: &[MemberName]) -> Result<TermChanges, FleetWireError> {
        let (after, upto) = (self.number()?, self.number()?);
        let mut changed = Vec::new();
        for _ in 0..self.byte()? {
            let version = self.number()?;
            let address: IpAddr = match self.byte()? {
                4 => self.take::<4>()?.into(),
                6 => self.take::<16>()?.into(),
                _ => return Err(FleetWireError::Value),
            };
            let number = self.number()?;
            let state = match self.byte()? {
                0 => TermState::Owned,
                1 => TermState::Over,
                place => {
                    let to = names.get(usize::from(place) - 2);
                    TermState::Offered(to.ok_or(FleetWireError::Value)?.clone())
                }
            };
            changed.push(TermChange {
                version,
                address,
                term: Term { number, state },
            });
        }
        Ok(TermChanges {
            after,
            upto,
            changed,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn a_name() -> impl Strategy<Value = MemberName> {
        "[a-z][a-z0-9.-]{0,62}".prop_map(MemberName::from)
    }

    fn heard() -> impl Strategy<Value = LastHeard> {
        let age = option::of((0..u32::MAX).prop_map(|it| Duration::from_millis(it.into())));
        let parts = (any::<u64>(), any::<u64>(), age, any::<u64>());
        parts.prop_map(|(run, sequence, age, known)| LastHeard {
            run,
            sequence,
            age,
            known,
        })
    }

    prop_compose! {
        fn message()(
            from in a_name(),
            numbers in any::<[u64; 7]>(),
            stage in prop_oneof![
                Just(MemberStage::Listening), Just(MemberStage::Ready),
                Just(MemberStage::Leaving), Just(MemberStage::Draining),
            ],
            hears in btree_map(a_name(), heard(), 1..7),
            changed in option::of(vec((any::<(u64, IpAddr, u64)>(), 0..4u8), 0..17)),
        ) -> FleetMessage {
            let [run, sequence, sent_at, addresses, version, after, upto] = numbers;
            let first = hears.keys().next().unwrap().clone();
            let changed = changed.map(|changed| {
                let change = |((version, address, number), state)| TermChange {
                    version,
                    address,
                    term: Term {
                        number,
                        state: match state {
                            0 => TermState::Owned,
                            1 => TermState::Over,
                            _ => TermState::Offered(first.clone()),
                        },
                    },
                };
                changed.into_iter().map(change).collect()
            });
            let terms = changed.map(|changed| TermChanges { after, upto, changed });
            FleetMessage { from, run, sequence, sent_at, stage, hears, addresses, version, terms }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again_and_fits_into_a_datagram(message in message()) {
            let bytes = encode(&message);
            prop_assert!(bytes.len() <= 1198, "{} bytes", bytes.len());
            prop_assert_eq!(decode(&bytes), Ok(message));
        }

        #[test]
        fn what_is_cut_is_refused(message in message(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&message);
            let kept = cut.index(bytes.len());
            prop_assert!(decode(&bytes[..kept]).is_err());
        }

        #[test]
        fn what_a_later_version_adds_is_read_as_if_it_were_not_there(
            message in message(), stage in 4_u8.., more in vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = encode(&message);
            let at = MAGIC.len() + 1 + message.from.len() + 3 * 8;
            bytes[at] = stage;
            bytes.extend(more);
            let known = FleetMessage { stage: MemberStage::Listening, ..message };
            prop_assert_eq!(decode(&bytes), Ok(known));
        }

        #[test]
        fn no_bytes_do_harm(mut bytes in vec(any::<u8>(), 0..1500), is_begun in any::<bool>()) {
            if is_begun && bytes.len() > 4 {
                bytes[..4].copy_from_slice(MAGIC);
            }
            let _ = decode(&bytes);
        }
    }
}
