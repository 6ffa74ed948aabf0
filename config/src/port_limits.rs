//! How much of one port a client may have, and for how long anything may be silent there.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// What is said of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitSetting<T> {
    /// Nothing: the gateway's default counts.
    #[default]
    Default,
    /// There is no limit, whatever the default is.
    Off,
    /// This.
    Is(T),
}

impl<T> LimitSetting<T> {
    /// What counts where the gateway has this default; none: no limit.
    pub fn or(self, default: Option<T>) -> Option<T> {
        match self {
            Self::Default => default,
            Self::Off => None,
            Self::Is(limit) => Some(limit),
        }
    }
}

/// How many new connections one client may make: a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRate {
    /// So many in a second, as a mean.
    pub per_second: NonZeroU32,
    /// So many at once, by a client that was quiet.
    pub burst: NonZeroU32,
}

/// What a rate must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 1 to {MOST}, and may have ;burst=NUMBER behind it")]
pub struct NotARate;

impl FromStr for ConnectionRate {
    type Err = NotARate;

    /// As it is written in the annotation: `10`, `10;burst=50`.
    fn from_str(text: &str) -> Result<Self, NotARate> {
        let (per_second, burst) = match text.split_once(';') {
            Some((per_second, burst)) => (per_second, Some(burst)),
            None => (text, None),
        };
        let per_second = number(per_second.trim()).ok_or(NotARate)?;
        let burst = match burst {
            None => per_second,
            Some(option) => {
                let (name, value) = option.split_once('=').ok_or(NotARate)?;
                let burst = number(value.trim()).filter(|_| name.trim() == "burst");
                burst.ok_or(NotARate)?
            }
        };
        Ok(Self { per_second, burst })
    }
}

/// The most of each number: more than a process can have sockets.
pub const MOST: u32 = 1 << 24;

/// A number from 1 to [`MOST`].
pub fn number(text: &str) -> Option<NonZeroU32> {
    // A sign would be read, too.
    let are_digits = text.bytes().all(|it| it.is_ascii_digit());
    let number = are_digits.then(|| text.parse().ok())??;
    NonZeroU32::new(number).filter(|number| number.get() <= MOST)
}

impl fmt::Display for ConnectionRate {
    /// As it is written in the annotation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.per_second)?;
        if self.burst != self.per_second {
            write!(f, ";burst={}", self.burst)?;
        }
        Ok(())
    }
}

/// What the annotations of a Service say of one of its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortLimits {
    /// Connections of one client at a time; of a UDP port: flows.
    pub per_client: LimitSetting<NonZeroU32>,
    /// New connections of one client.
    pub rate: LimitSetting<ConnectionRate>,
    /// UDP flows of all clients.
    pub flows: LimitSetting<NonZeroU32>,
    /// How long a connection or flow may be without a byte either way.
    pub idle: LimitSetting<Duration>,
    /// One of the limits, or whom to keep out, can't be read. Nobody is let in: a client might have more than it may.
    pub closed: bool,
}

/// The limits that hold for a port, the gateway's defaults included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitsInForce {
    /// Connections of one client at a time; of a UDP port: flows.
    pub per_client: Option<NonZeroU32>,
    /// New connections of one client.
    pub rate: Option<ConnectionRate>,
    /// UDP flows of all clients, on this gateway.
    pub flows: Option<NonZeroU32>,
    /// How long a connection or flow may be without a byte either way; none: a connection for ever, a flow for as long
    /// as the kernel's own connection tracking keeps one.
    pub idle: Option<Duration>,
}

impl LimitsInForce {
    /// Whether clients have to be counted.
    pub fn counts_clients(&self) -> bool {
        self.per_client.is_some() || self.rate.is_some()
    }
}
