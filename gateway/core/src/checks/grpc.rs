//! The messages of `grpc.health.v1.Health/Check`, as far as they are needed: a request with one text, an answer with one
//! number (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>). Each is framed by five bytes: whether it is
//! compressed, and its length.

/// The path of the call.
pub const PATH: &str = "/grpc.health.v1.Health/Check";

/// The longest answer that is looked at.
pub const LONGEST_ANSWER: usize = 1024;

/// A framed `HealthCheckRequest` for this service.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, of a length.
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    framed
}

/// Whether a framed `HealthCheckResponse` says SERVING.
///
/// # Errors
/// What it says else, as the end of a sentence.
pub fn check_answer(framed: &[u8]) -> Result<(), &'static str> {
    const GARBAGE: &str = "an answer that is not of grpc.health.v1";
    let [compressed, rest @ ..] = framed else {
        return Err("an empty answer");
    };
    let Some((length, message)) = rest.split_first_chunk::<4>() else {
        return Err(GARBAGE);
    };
    let length = u32::from_be_bytes(*length);
    if *compressed != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(GARBAGE);
    }
    match status(message).ok_or(GARBAGE)? {
        1 => Ok(()),
        0 => Err("UNKNOWN"),
        2 => Err("NOT_SERVING"),
        3 => Err("SERVICE_UNKNOWN"),
        _ => Err("a status that is not known"),
    }
}

/// Field 1 of a message, a number; 0 where it is not there. None where that is no message.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_request_is_what_protobuf_says() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 0x12f);
    }

    #[test]
    fn the_answer_is_understood() {
        let table: [(&[u8], Result<(), &str>); 12] = [
            (&[0, 0, 0, 0, 2, 8, 1], Ok(())),
            (&[0, 0, 0, 0, 2, 8, 2], Err("NOT_SERVING")),
            (&[0, 0, 0, 0, 2, 8, 3], Err("SERVICE_UNKNOWN")),
            (&[0, 0, 0, 0, 2, 8, 9], Err("a status that is not known")),
            // 0 is the default, which is not written.
            (&[0, 0, 0, 0, 0], Err("UNKNOWN")),
            // Fields that are not known are passed over; the last one of two counts.
            (
                &[0, 0, 0, 0, 9, 0x12, 1, b'x', 0x1d, 1, 2, 3, 4, 0],
                Err("an answer that is not of grpc.health.v1"),
            ),
            (
                &[0, 0, 0, 0, 12, 0x12, 1, b'x', 0x1d, 1, 2, 3, 4, 8, 2, 8, 1],
                Ok(()),
            ),
            (&[], Err("an empty answer")),
            (&[0, 0, 0], Err("an answer that is not of grpc.health.v1")),
            (
                &[1, 0, 0, 0, 2, 8, 1],
                Err("an answer that is not of grpc.health.v1"),
            ),
            (
                &[0, 0, 0, 0, 3, 8, 1],
                Err("an answer that is not of grpc.health.v1"),
            ),
            (
                &[0, 0, 0, 0, 1, 8],
                Err("an answer that is not of grpc.health.v1"),
            ),
        ];
        for (bytes, wanted) in table {
            assert_eq!(check_answer(bytes), wanted, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = check_answer(&bytes);
            let mut framed = vec![0, 0, 0, 0, bytes.len() as u8];
            framed.extend(&bytes);
            let _ = check_answer(&framed);
        }
    }
}
