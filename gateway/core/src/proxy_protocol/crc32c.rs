//! CRC32C (RFC 3720, appendix B.4; the same as RFC 4960, appendix B), of the hundred bytes of a header.

/// The reversed polynomial of Castagnoli.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The checksum of the parts, one after the other.
pub(super) fn crc32c<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut crc = u32::MAX;
    for byte in parts.into_iter().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn the_examples_of_the_standard() {
        let ascending: Vec<u8> = (0..32).collect();
        let table: [(&[u8], u32); 5] = [
            (b"", 0),
            (b"123456789", 0xE306_9283),
            (&[0; 32], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&ascending, 0x46DD_794E),
        ];
        for (bytes, crc) in table {
            assert_eq!(crc32c([bytes]), crc, "{bytes:?}");
            let (head, tail) = bytes.split_at(bytes.len() / 3);
            assert_eq!(crc32c([head, tail]), crc, "{bytes:?}");
        }
    }
}
