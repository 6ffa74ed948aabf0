//! From bytes to messages.
//!
//! What is wrong is answered with the NOTIFICATION that RFC 4271 (section 6) asks for. Of an UPDATE only that is
//! checked for which a session has to end (RFC 7606): where its parts begin and end, and the prefixes. Other faults
//! of attributes concern the routes, and these are dropped anyway.

use std::net::Ipv4Addr;

use fairway_config::net::IpFamily;

use super::message::{
    AS_TRANS, BgpCapabilities, BgpMessage, BgpNotification, BgpOpen, HEADER, LONGEST,
};

/// The length of the message that begins with these bytes; none: more bytes are needed to tell.
///
/// # Errors
/// No message begins so.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, BgpNotification> {
    let Some(header) = bytes.get(..HEADER) else {
        // A stream that is none of BGP is seen before it says more.
        return match bytes.iter().take(16).all(|byte| *byte == 0xff) {
            true => Ok(None),
            false => Err(BgpNotification::new(1, 1)),
        };
    };
    let mut header = BgpBytes(header);
    let marker: [u8; 16] = header.take().ok_or(MALFORMED)?;
    if marker != [0xff; 16] {
        return Err(BgpNotification::new(1, 1));
    }
    let length = header.u16().ok_or(MALFORMED)?;
    let kind = header.u8().ok_or(MALFORMED)?;
    let shortest = match kind {
        1 => 29,
        2 | 5 => 23,
        3 => 21,
        4 => HEADER,
        _ => return Err(BgpNotification::new(1, 3).with(&[kind])),
    };
    let size = usize::from(length);
    // A KEEPALIVE is its header, a ROUTE-REFRESH has four bytes.
    let longest = match kind {
        4 | 5 => shortest,
        _ => LONGEST,
    };
    match (shortest..=longest).contains(&size) {
        true => Ok(Some(size)),
        false => Err(BgpNotification::new(1, 2).with(&length.to_be_bytes())),
    }
}

/// The message of these bytes, which are as many as [`length`] says.
///
/// # Errors
/// The session has to end, with this notification.
pub fn decode(bytes: &[u8]) -> Result<BgpMessage, BgpNotification> {
    let mut rest = BgpBytes(bytes.get(HEADER..).unwrap_or_default());
    match bytes.get(HEADER - 1) {
        Some(1) => open(rest).map(BgpMessage::Open),
        Some(2) => update(rest).map(|()| BgpMessage::Update),
        Some(3) => Ok(BgpMessage::Notification(BgpNotification {
            code: rest.u8().unwrap_or_default(),
            subcode: rest.u8().unwrap_or_default(),
            data: rest.0.to_vec(),
        })),
        Some(4) => Ok(BgpMessage::Keepalive),
        Some(5) => {
            let (family, _, kind) = (rest.u16(), rest.u8(), rest.u8());
            Ok(BgpMessage::RouteRefresh(unicast(family, kind)))
        }
        kind => Err(BgpNotification::new(1, 3).with(kind.map_or(&[], std::slice::from_ref))),
    }
}

const MALFORMED: BgpNotification = BgpNotification::new(3, 1);

/// Unspecific: the parts do not add up.
const BAD_OPEN: BgpNotification = BgpNotification::new(2, 0);

fn unicast(family: Option<u16>, kind: Option<u8>) -> Option<IpFamily> {
    match (family, kind) {
        (Some(1), Some(1)) => Some(IpFamily::IPv4),
        (Some(2), Some(1)) => Some(IpFamily::IPv6),
        _ => None,
    }
}

fn open(mut rest: BgpBytes<'_>) -> Result<BgpOpen, BgpNotification> {
    let version = rest.u8().ok_or(BAD_OPEN)?;
    if version != 4 {
        return Err(BgpNotification::new(2, 1).with(&4u16.to_be_bytes()));
    }
    let short_asn = rest.u16().ok_or(BAD_OPEN)?;
    let hold_time = rest.u16().ok_or(BAD_OPEN)?;
    let router_id = Ipv4Addr::from(rest.take::<4>().ok_or(BAD_OPEN)?);
    let mut length = usize::from(rest.u8().ok_or(BAD_OPEN)?);
    // Optional parameters that are longer than 255 bytes (RFC 9072).
    let is_extended = length == 255 && rest.0.first() == Some(&255);
    if is_extended {
        rest.u8();
        length = usize::from(rest.u16().ok_or(BAD_OPEN)?);
    }
    if length != rest.0.len() {
        return Err(BAD_OPEN);
    }
    let mut said = SaidCapabilities::default();
    while !rest.0.is_empty() {
        let kind = rest.u8().ok_or(BAD_OPEN)?;
        let length = match is_extended {
            true => rest.u16().map(usize::from),
            false => rest.u8().map(usize::from),
        };
        let value = length
            .and_then(|length| rest.part(length))
            .ok_or(BAD_OPEN)?;
        match kind {
            2 => said.capabilities(value).ok_or(BAD_OPEN)?,
            _ => return Err(BgpNotification::new(2, 4)),
        }
    }
    let asn = said.asn.unwrap_or(short_asn.into());
    let is_right = match said.asn {
        // The short one is the same number, or stands for it.
        Some(asn) => u16::try_from(asn).unwrap_or(AS_TRANS) == short_asn && asn != 0,
        None => short_asn != 0 && short_asn != AS_TRANS,
    };
    if !is_right {
        return Err(BgpNotification::new(2, 2));
    }
    if hold_time == 1 || hold_time == 2 {
        return Err(BgpNotification::new(2, 6));
    }
    if router_id.is_unspecified() {
        return Err(BgpNotification::new(2, 3));
    }
    if !said.has_families {
        said.known.families.insert(IpFamily::IPv4);
    }
    Ok(BgpOpen {
        asn,
        hold_time,
        router_id,
        capabilities: BgpCapabilities {
            four_octet_asn: said.asn.is_some(),
            ..said.known
        },
    })
}

/// What the capabilities of an OPEN say.
#[derive(Default)]
struct SaidCapabilities {
    known: BgpCapabilities,
    asn: Option<u32>,
    has_families: bool,
}

impl SaidCapabilities {
    /// Takes the capabilities of one parameter in; nothing: they do not add up. Unknown ones are ignored.
    fn capabilities(&mut self, mut rest: BgpBytes<'_>) -> Option<()> {
        while !rest.0.is_empty() {
            let code = rest.u8()?;
            let length = rest.u8()?;
            let mut value = rest.part(length.into())?;
            match code {
                1 if length == 4 => {
                    let (family, _, kind) = (value.u16(), value.u8(), value.u8());
                    self.has_families = true;
                    self.known.families.extend(unicast(family, kind));
                }
                2 => self.known.route_refresh = true,
                5 => {
                    while let Some([_, family, _, kind, _, hop]) = value.take::<6>() {
                        self.known.extended_next_hop |= (family, kind, hop) == (1, 1, 2);
                    }
                }
                64 => {
                    if let Some(flags) = value.u16() {
                        self.known.graceful_restart = Some((flags & 0xfff, flags & 0x8000 != 0));
                    }
                }
                65 if length == 4 => self.asn = value.take().map(u32::from_be_bytes),
                _ => {}
            }
        }
        Some(())
    }
}

fn update(mut rest: BgpBytes<'_>) -> Result<(), BgpNotification> {
    let length = rest.u16().ok_or(MALFORMED)?;
    let withdrawn = rest.part(length.into()).ok_or(MALFORMED)?;
    prefixes(withdrawn, 32)?;
    let length = rest.u16().ok_or(MALFORMED)?;
    let attributes = rest.part(length.into()).ok_or(MALFORMED)?;
    prefixes(rest, 32)?;
    update_attributes(attributes)
}

fn update_attributes(mut rest: BgpBytes<'_>) -> Result<(), BgpNotification> {
    let (mut has_reach, mut has_unreach) = (false, false);
    while !rest.0.is_empty() {
        // One that is longer than all of them: what its routes are is known from outside, and they would be
        // withdrawn (RFC 7606, section 4).
        let Some((kind, mut value)) = rest.attribute() else {
            return Ok(());
        };
        match kind {
            14 => {
                if std::mem::replace(&mut has_reach, true) {
                    return Err(MALFORMED);
                }
                let unreadable = || BgpNotification::new(3, 9);
                let (family, kind) = (value.u16(), value.u8());
                let hop = value.u8().ok_or_else(unreadable)?;
                value.part(hop.into()).ok_or_else(unreadable)?;
                value.u8().ok_or_else(unreadable)?;
                multiprotocol(unicast(family, kind), value)?;
            }
            15 => {
                if std::mem::replace(&mut has_unreach, true) {
                    return Err(MALFORMED);
                }
                let (family, kind) = (value.u16(), value.u8());
                kind.ok_or_else(|| BgpNotification::new(3, 9))?;
                multiprotocol(unicast(family, kind), value)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Prefixes of a family that is not spoken are not looked at: they have a form of their own.
fn multiprotocol(family: Option<IpFamily>, rest: BgpBytes<'_>) -> Result<(), BgpNotification> {
    match family {
        Some(IpFamily::IPv4) => prefixes(rest, 32),
        Some(IpFamily::IPv6) => prefixes(rest, 128),
        None => Ok(()),
    }
}

fn prefixes(mut rest: BgpBytes<'_>, longest: u8) -> Result<(), BgpNotification> {
    while let Some(length) = rest.u8() {
        let bytes = usize::from(length.div_ceil(8));
        if length > longest || rest.part(bytes).is_none() {
            return Err(BgpNotification::new(3, 10));
        }
    }
    Ok(())
}

/// The bytes that are left to be read.
#[derive(Clone, Copy)]
struct BgpBytes<'a>(&'a [u8]);

impl<'a> BgpBytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn part(&mut self, length: usize) -> Option<Self> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Self(part))
    }

    /// The next path attribute: its type and its value.
    fn attribute(&mut self) -> Option<(u8, Self)> {
        let (flags, kind) = (self.u8()?, self.u8()?);
        let length = match flags & 0x10 {
            0 => self.u8()?.into(),
            _ => self.u16()?.into(),
        };
        Some((kind, self.part(length)?))
    }
}
