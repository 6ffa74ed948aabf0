//! A control packet of BFD (RFC 5880, section 4.1).

use std::time::Duration;

/// The bytes of a packet without authentication.
pub const LENGTH: usize = 24;

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdPacket {
    /// Why the sender's session was down the last time.
    pub diagnostic: BfdDiagnostic,
    /// The state of the sender's session.
    pub state: BfdState,
    /// The sender wants an answer.
    pub is_poll: bool,
    /// This is that answer.
    pub is_final: bool,
    /// So many packets may be lost.
    pub detect_multiplier: u8,
    /// The sender's number of the session.
    pub my_discriminator: u32,
    /// The receiver's; 0: not known yet.
    pub your_discriminator: u32,
    /// The sender sends so often.
    pub desired_min_tx: Duration,
    /// The sender takes packets so often; zero: none at all.
    pub required_min_rx: Duration,
}

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BfdState {
    /// It is not wanted.
    AdminDown,
    /// The other side is not heard.
    Down,
    /// It is heard, and does not hear.
    Init,
    /// Both hear each other.
    Up,
}

impl BfdState {
    /// The RFC's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        }
    }
}

/// Why a session is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BfdDiagnostic {
    /// It was not.
    None,
    /// Nothing was heard in time.
    TimeExpired,
    /// The other side says that it is down.
    NeighborDown,
    /// It is not wanted.
    AdminDown,
    /// Another reason, by its number.
    Other(u8),
}

impl BfdDiagnostic {
    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TimeExpired => 1,
            Self::NeighborDown => 3,
            Self::AdminDown => 7,
            Self::Other(number) => number & 0x1f,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::TimeExpired,
            3 => Self::NeighborDown,
            7 => Self::AdminDown,
            other => Self::Other(other),
        }
    }
}

/// Why bytes are no packet that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BfdRejection {
    /// It is shorter than it says, or than a packet is.
    #[error("a packet that is too short")]
    Short,
    /// It is of another version.
    #[error("a packet of another version")]
    Version,
    /// It is authenticated, which is not spoken here.
    #[error("a packet with authentication")]
    Authenticated,
    /// One of its numbers can't be.
    #[error("a packet with a number that can't be")]
    Value,
}

/// The bytes of a packet.
pub fn encode(packet: &BfdPacket) -> [u8; LENGTH] {
    let state = match packet.state {
        BfdState::AdminDown => 0,
        BfdState::Down => 1,
        BfdState::Init => 2,
        BfdState::Up => 3,
    };
    let flags = u8::from(packet.is_poll) << 5 | u8::from(packet.is_final) << 4;
    let mut bytes = [0; LENGTH];
    let words = [
        u32::from_be_bytes([
            1 << 5 | packet.diagnostic.number(),
            state << 6 | flags,
            packet.detect_multiplier,
            LENGTH as u8,
        ]),
        packet.my_discriminator,
        packet.your_discriminator,
        microseconds(packet.desired_min_tx),
        microseconds(packet.required_min_rx),
        // Echo packets are not answered.
        0,
    ];
    for (part, word) in bytes.chunks_exact_mut(4).zip(words) {
        part.copy_from_slice(&word.to_be_bytes());
    }
    bytes
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// The packet of these bytes.
///
/// # Errors
/// It is to be dropped (RFC 5880, section 6.8.6).
pub fn decode(bytes: &[u8]) -> Result<BfdPacket, BfdRejection> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(BfdRejection::Short)?;
    let [first, second, detect_multiplier, length] = *head;
    if first >> 5 != 1 {
        return Err(BfdRejection::Version);
    }
    let length = usize::from(length);
    if length < LENGTH || length > bytes.len() {
        return Err(BfdRejection::Short);
    }
    if second & 0x04 != 0 {
        return Err(BfdRejection::Authenticated);
    }
    let mut words = rest.chunks_exact(4).map(|word| {
        let word = <[u8; 4]>::try_from(word).unwrap_or_default();
        u32::from_be_bytes(word)
    });
    let mut word = || words.next().ok_or(BfdRejection::Short);
    let packet = BfdPacket {
        diagnostic: BfdDiagnostic::of(first & 0x1f),
        state: match second >> 6 {
            0 => BfdState::AdminDown,
            1 => BfdState::Down,
            2 => BfdState::Init,
            _ => BfdState::Up,
        },
        is_poll: second & 0x20 != 0,
        is_final: second & 0x10 != 0,
        detect_multiplier,
        my_discriminator: word()?,
        your_discriminator: word()?,
        desired_min_tx: Duration::from_micros(word()?.into()),
        required_min_rx: Duration::from_micros(word()?.into()),
    };
    let is_multipoint = second & 0x01 != 0;
    let is_poll_and_final = packet.is_poll && packet.is_final;
    match detect_multiplier == 0
        || packet.my_discriminator == 0
        || is_multipoint
        || is_poll_and_final
    {
        true => Err(BfdRejection::Value),
        false => Ok(packet),
    }
}
