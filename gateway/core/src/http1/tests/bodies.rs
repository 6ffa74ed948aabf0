//! Where bodies end.

use super::*;

/// Passes these bytes of a chunked body: what goes on, and what follows.
fn pass(bytes: &[u8]) -> Result<PassedBody, ChunkDefect> {
    BodyScan::new(BodyFraming::Chunked).pass(bytes)
}

#[test]
fn a_body_ends_with_its_last_byte_and_what_follows_is_not_of_it() {
    for (body, next) in [
        ("0\r\n\r\n", BodyNext::End),
        ("5\r\nhello\r\n0\r\n\r\n", BodyNext::End),
        ("5\r\nhello\r\n00000\r\n\r\n", BodyNext::End),
        (
            "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
            BodyNext::End,
        ),
        ("0000000000000001\r\nx\r\n0\r\n\r\n", BodyNext::End),
        // Extensions: RFC 9112, section 7.1.1.
        ("1;a\r\nx\r\n0;b=c\r\n\r\n", BodyNext::End),
        ("1;a=b;c=\"d;\\\" e\"\r\nx\r\n0\r\n\r\n", BodyNext::End),
        ("1 ; a = b ;\tc\r\nx\r\n0\r\n\r\n", BodyNext::End),
        ("1;a=\"\u{e4}\t\"\r\nx\r\n0\r\n\r\n", BodyNext::End),
        // Data that looks like framing.
        ("7\r\n0\r\n\r\nGE\r\n0\r\n\r\n", BodyNext::End),
        ("1\r\n\n\r\n2\r\n\r\n\r\n0\r\n\r\n", BodyNext::End),
        // Trailers.
        ("0\r\n", BodyNext::Trailers),
        ("1\r\nx\r\n0\r\n", BodyNext::Trailers),
    ] {
        let behind = match next {
            BodyNext::Trailers => "A: b\r\n\r\nGET / HTTP/1.1\r\n",
            _ => "GET / HTTP/1.1\r\n",
        };
        let bytes = format!("{body}{behind}");
        let passed = pass(bytes.as_bytes()).unwrap();
        assert_eq!(
            (passed.length, passed.next),
            (body.len(), next),
            "{bytes:?}"
        );
    }
}

#[test]
fn malformed_chunks_are_refused() {
    use ChunkDefect::*;
    for (body, defect) in [
        // Sizes.
        ("\r\n", Size),
        (";a\r\n", Size),
        (" 5\r\n", Size),
        ("g\r\n", Size),
        ("0x5\r\n", Size),
        ("+5\r\n", Size),
        ("-1\r\n", Size),
        ("5_0\r\n", Size),
        ("5g\r\n", Size),
        ("8000000000000000\r\n", Size),
        ("ffffffffffffffff\r\n", Size),
        ("10000000000000000\r\n", Size),
        ("00000000000000005\r\n", Size),
        ("\0\r\n", Size),
        ("5\r\nhello\r\n\r\n", Size),
        // Ends of lines.
        ("5\nhello\r\n", LineEnd),
        ("5\rhello\r\n", LineEnd),
        ("5\r\r\nhello\r\n", LineEnd),
        ("5;a\nhello\r\n", LineEnd),
        ("5;a=b\nhello\r\n", LineEnd),
        ("5;a=\"\n\"\r\nhello\r\n", LineEnd),
        ("5;a=\"\r\"\r\nhello\r\n", LineEnd),
        ("5;\r\nhello\r\n", LineEnd),
        ("5;a=\r\nhello\r\n", LineEnd),
        ("5 \r\nhello\r\n", LineEnd),
        ("5;a \r\nhello\r\n", LineEnd),
        ("5\r\nhello\rx", LineEnd),
        ("0\r\n\n", LineEnd),
        ("0\r\n\rx", LineEnd),
        ("0\n\r\n", LineEnd),
        // Extensions.
        ("5 a\r\nhello\r\n", Extension),
        ("5;a b\r\nhello\r\n", Extension),
        ("5;=b\r\nhello\r\n", Extension),
        ("5;;a\r\nhello\r\n", Extension),
        ("5;a=b=c\r\nhello\r\n", Extension),
        ("5;a=\"b\"c\r\nhello\r\n", Extension),
        ("5;a=\"\0\"\r\nhello\r\n", Extension),
        ("5;a=\"\\\u{7f}\"\r\nhello\r\n", Extension),
        ("5;\0\r\nhello\r\n", Extension),
        ("5;a=(\r\nhello\r\n", Extension),
        // Data that does not end where it should.
        ("5\r\nhelloo\r\n", NoChunkEnd),
        ("5\r\nhello\n", NoChunkEnd),
        ("5\r\nhello0\r\n\r\n", NoChunkEnd),
    ] {
        assert_eq!(pass(body.as_bytes()), Err(defect), "{body:?}");
        // Byte by byte, too.
        let mut scan = BodyScan::new(BodyFraming::Chunked);
        let mut each = body.bytes().map(|byte| scan.pass(&[byte]));
        assert_eq!(each.find_map(Result::err), Some(defect), "{body:?}");
    }
}

#[test]
fn extensions_are_bounded_by_the_data_that_they_come_with() {
    let long = format!("1;a={}\r\nx\r\n0\r\n\r\n", "b".repeat(16 * 1024 - 3));
    assert!(pass(long.as_bytes()).is_ok());
    let long = format!("1;a={}\r\nx\r\n0\r\n\r\n", "b".repeat(16 * 1024 - 2));
    assert_eq!(pass(long.as_bytes()), Err(ChunkDefect::ExtensionsTooLong));
    // A body may be as long as it likes where data comes along.
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    let chunk = format!("64;a={}\r\n{}\r\n", "b".repeat(150), "x".repeat(100));
    for _ in 0..10_000 {
        assert_eq!(scan.pass(chunk.as_bytes()).unwrap().next, BodyNext::More);
    }
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    let mut each = (0..10_000).map(|_| scan.pass(b"1;a=bbbbbbbbbbbbbbbbbbbbbbbbbb\r\nx\r\n"));
    assert_eq!(
        each.find_map(Result::err),
        Some(ChunkDefect::ExtensionsTooLong)
    );
    // One byte at a time is how progress is told.
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    for _ in 0..100_000 {
        assert!(scan.pass(b"1\r\nx\r\n").is_ok());
    }
}

/// Reads the trailers of `bytes`, and says how many bytes they had and what of them passed.
fn trailers(bytes: &str) -> Result<(Option<usize>, String), ChunkDefect> {
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    let passed = scan.pass(b"0\r\nA")?;
    assert_eq!((passed.length, passed.next), (3, BodyNext::Trailers));
    let mut out = Vec::new();
    let length = scan.trailers(bytes.as_bytes(), true, &mut FieldTable::default(), &mut out)?;
    assert_eq!(scan.is_ended(), length.is_some());
    Ok((length, String::from_utf8(out).unwrap()))
}

#[test]
fn trailers_that_may_stand_there_pass() {
    for (given, passed) in [
        ("A: b\r\n", "A: b\r\n"),
        (
            "Grpc-Status: 0\r\nServer-Timing: a\r\nETag: \"x\"\r\n",
            "Grpc-Status: 0\r\nServer-Timing: a\r\nETag: \"x\"\r\n",
        ),
        (
            "Content-Length: 5\r\nA: b\r\nTransfer-Encoding: chunked\r\n",
            "A: b\r\n",
        ),
        (
            "Host: a\r\nAuthorization: a\r\nCookie: a\r\nSet-Cookie: a\r\n",
            "",
        ),
        (
            "X-Forwarded-For: a\r\nX_Forwarded_For: a\r\nForwarded: a\r\nX-Real-IP: a\r\n",
            "",
        ),
        (
            "Connection: close\r\nKeep-Alive: a\r\nUpgrade: a\r\nTE: a\r\nTrailer: a\r\n",
            "",
        ),
        (
            "Content-Type: a\r\nContent-Encoding: a\r\nCache-Control: a\r\nRange: a\r\nExpect: a\r\n",
            "",
        ),
        ("Connection: x\r\nX: 1\r\nY: 2\r\n", "Y: 2\r\n"),
    ] {
        let (length, out) = trailers(&format!("{given}\r\nGET")).unwrap();
        assert_eq!(
            (length, out),
            (Some(given.len() + 2), format!("{passed}\r\n")),
            "{given:?}"
        );
    }
    let cut = "A: b\r\nC: d\r\n\r\n";
    for end in 0..cut.len() {
        assert_eq!(trailers(&cut[..end]), Ok((None, String::new())));
    }
}

#[test]
fn malformed_trailers_and_too_many_are_refused() {
    use HeadDefect::*;
    let many = "A: b\r\n".repeat(65);
    let large = format!("A: {}", "b".repeat(8 * 1024));
    for (given, defect) in [
        ("A: b\n\r\n", LineEnd),
        ("A : b\r\n\r\n", FieldName),
        ("A\r\n\r\n", FieldName),
        (" A: b\r\n\r\n", Folded),
        ("A: b\r\n c\r\n\r\n", Folded),
        ("A: \0\r\n\r\n", FieldValue),
        ("Content-Length: x\r\n\r\n", ContentLength),
        (many.as_str(), TooManyFields),
        (large.as_str(), TooLarge),
    ] {
        assert_eq!(
            trailers(given),
            Err(ChunkDefect::Trailers(defect)),
            "{given:?}"
        );
    }
}

#[test]
fn a_body_of_a_length_ends_with_its_last_byte() {
    let mut scan = BodyScan::new(BodyFraming::Length(10));
    assert_eq!(scan.pending_data(), 10);
    let passed = scan.pass(b"hello").unwrap();
    assert_eq!((passed.length, passed.next), (5, BodyNext::More));
    assert!(!scan.ends_with_connection());
    scan.skip(3);
    assert_eq!(scan.pending_data(), 2);
    let passed = scan.pass(b"world").unwrap();
    assert_eq!((passed.length, passed.next), (2, BodyNext::End));
    assert!(scan.is_ended() && scan.ends_with_connection());
    assert_eq!(scan.pass(b"more").unwrap().length, 0);
    assert!(BodyScan::new(BodyFraming::None).is_ended());
    assert!(BodyScan::new(BodyFraming::Length(0)).is_ended());
}

#[test]
fn a_body_until_close_never_ends_by_itself() {
    let mut scan = BodyScan::new(BodyFraming::UntilClose);
    let passed = scan.pass(b"0\r\n\r\n").unwrap();
    assert_eq!((passed.length, passed.next), (5, BodyNext::More));
    scan.skip(1 << 40);
    assert_eq!(scan.pending_data(), u64::MAX);
    assert!(!scan.is_ended() && scan.ends_with_connection());
}

#[test]
fn data_of_a_chunk_may_go_by_unseen() {
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    assert_eq!(scan.pending_data(), 0);
    assert_eq!(scan.pass(b"10000\r\n").unwrap().length, 7);
    assert_eq!(scan.pending_data(), 0x10000);
    scan.skip(0xffff);
    assert_eq!(scan.pending_data(), 1);
    scan.skip(1);
    assert_eq!(scan.pending_data(), 0);
    assert!(!scan.ends_with_connection());
    let passed = scan.pass(b"\r\n0\r\n\r\nmore").unwrap();
    assert_eq!((passed.length, passed.next), (7, BodyNext::End));
}

#[test]
fn a_client_without_chunks_gets_the_data_alone() {
    let mut bytes = *b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\n\r\nmore";
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    let decoded = scan.decode(&mut bytes).unwrap();
    assert_eq!(
        (decoded.consumed, decoded.next),
        (bytes.len() - 4, BodyNext::End)
    );
    assert_eq!(&bytes[..decoded.kept], b"hello world");
    let mut bytes = *b"1\r\nx\r\n0\r\nA: b\r\n\r\n";
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    let decoded = scan.decode(&mut bytes).unwrap();
    assert_eq!(
        (decoded.consumed, decoded.kept, decoded.next),
        (9, 1, BodyNext::Trailers)
    );
    let (mut table, mut out) = (FieldTable::default(), Vec::new());
    assert_eq!(
        scan.trailers(&bytes[9..], false, &mut table, &mut out),
        Ok(Some(8))
    );
    // The body ends in any case.
    assert_eq!(out, b"\r\n");
    assert!(scan.is_ended());
}

#[test]
fn spaces_behind_a_size_are_forgiven_to_endpoints() {
    let body = b"5  \r\nhello\r\n0 \t\r\n\r\n";
    let mut scan = BodyScan::of_answer(BodyFraming::Chunked);
    let passed = scan.pass(body).unwrap();
    assert_eq!((passed.length, passed.next), (body.len(), BodyNext::End));
    for wrong in ["5\n", "5 5\r\n", " 5\r\n", "5 ;\r\n", "5\r\nhello \r\n"] {
        let mut scan = BodyScan::of_answer(BodyFraming::Chunked);
        assert!(scan.pass(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
}
