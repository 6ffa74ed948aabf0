//! The flags of dialling endpoints from clients' addresses.

use clap::Args;
use fairway_gateway::transparent::{DEFAULT_MARK, DEFAULT_RELAY_PORT};

/// The flags.
#[derive(Debug, Args)]
pub(crate) struct TransparentArgs {
    /// The TCP port at which gateways ask each other to dial endpoints of their nodes from clients' addresses
    /// (fairway.dev/client-address: transparent); the same for all of them
    #[arg(long, env = "FAIRWAY_RELAY_PORT", value_name = "PORT", default_value_t = DEFAULT_RELAY_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) relay_port: u16,
    /// The bits of a packet's mark by which packets to clients' addresses come back to this host [default: 0x2000]
    #[arg(long, env = "FAIRWAY_TRANSPARENT_MARK", value_name = "BITS", value_parser = packet_mark,
          default_value_t = DEFAULT_MARK, hide_default_value = true, hide_short_help = true)]
    pub(crate) transparent_mark: u32,
}

/// Bits of a packet's mark: `0x2000`.
fn packet_mark(text: &str) -> Result<u32, String> {
    let bits = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    match bits {
        Ok(bits) if bits != 0 => Ok(bits),
        _ => Err("must be bits like 0x2000, at least one of them".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_a_bit() {
        for (text, wanted) in [
            ("0x2000", Some(0x2000)),
            ("8192", Some(0x2000)),
            ("0xffffffff", Some(u32::MAX)),
            ("0", None),
            ("0x0", None),
            ("0x100000000", None),
            ("2000h", None),
            ("", None),
        ] {
            assert_eq!(packet_mark(text).ok(), wanted, "{text}");
        }
    }
}
