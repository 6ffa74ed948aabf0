//! Heads that come piece by piece, and their limits.

use super::*;

const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

fn scan(bytes: &[u8]) -> Result<HeadProgress, HeadDefect> {
    HeadScan::default().request(bytes, &HeadLimits::default())
}

#[test]
fn a_head_that_comes_byte_by_byte_is_found_when_its_last_byte_is_there() {
    let bytes = [b"\r\n\r\n".as_slice(), HEAD, b"GET"].concat();
    let end = 4 + HEAD.len();
    let mut scan = HeadScan::default();
    for come in 0..end {
        let progress = scan.request(&bytes[..come], &HeadLimits::default());
        assert_eq!(progress, Ok(HeadProgress::Incomplete), "{come}");
        assert_eq!(scan.has_begun(), come > 4, "{come}");
    }
    let progress = scan.request(&bytes[..end], &HeadLimits::default());
    assert_eq!(progress, Ok(HeadProgress::Complete(end)));
    // What follows does not count.
    assert_eq!(
        HeadScan::default().request(&bytes, &HeadLimits::default()),
        progress
    );
}

#[test]
fn some_empty_lines_may_come_before_a_request() {
    for lines in 0..=8 {
        let bytes = [b"\r\n".repeat(lines), HEAD.to_vec()].concat();
        let (_, length) = with_request(&bytes, |_| ()).unwrap();
        assert_eq!(length, bytes.len());
    }
    for lines in [9, 10, 1000] {
        assert_eq!(scan(&b"\r\n".repeat(lines)), Err(HeadDefect::EmptyLines));
    }
}

#[test]
fn the_preface_of_http2_is_told_apart() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut scan = HeadScan::default();
    for come in 0..preface.len() {
        let progress = scan.request(&preface[..come], &HeadLimits::default());
        assert_eq!(progress, Ok(HeadProgress::Incomplete), "{come}");
        assert_eq!(scan.has_begun(), come > 0);
    }
    let more = [preface.as_slice(), b"\0\0\0\x04"].concat();
    assert_eq!(
        scan.request(&more, &HeadLimits::default()),
        Ok(HeadProgress::Http2)
    );
    // What only begins like it is a request, and wrong.
    assert_eq!(
        request("PRI * HTTP/1.1\r\nHost: a\r\n\r\n"),
        Err(HeadDefect::Target)
    );
    assert!(request("PRI / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
}

#[test]
fn a_head_has_limits() {
    let limits = HeadLimits {
        bytes: 100,
        fields: 3,
    };
    let scan = |bytes: &[u8]| HeadScan::default().request(bytes, &limits);
    let long = |length: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nA: ".to_vec();
        head.resize(length - 4, b'a');
        head.extend_from_slice(b"\r\n\r\n");
        head
    };
    assert_eq!(scan(&long(100)), Ok(HeadProgress::Complete(100)));
    assert_eq!(scan(&long(101)), Err(HeadDefect::TooLarge));
    assert_eq!(scan(&long(101)[..100]), Err(HeadDefect::TooLarge));
    assert_eq!(scan(&long(101)[..99]), Ok(HeadProgress::Incomplete));
    assert_eq!(
        scan(&[b"GET /".as_slice(), &[b'a'; 95]].concat()),
        Err(HeadDefect::LineTooLong)
    );
    // What comes behind a head is not of it.
    assert_eq!(
        scan(&[HEAD, &[b'a'; 1000]].concat()),
        Ok(HeadProgress::Complete(HEAD.len()))
    );
    let fields = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(matches!(
        scan(fields(3).as_bytes()),
        Ok(HeadProgress::Complete(_))
    ));
    assert_eq!(scan(fields(4).as_bytes()), Err(HeadDefect::TooManyFields));
    let (many, mut table) = (fields(4), FieldTable::default());
    let parsed = RequestHead::parse(many.as_bytes(), &limits, &mut table);
    assert_eq!(parsed.err(), Some(HeadDefect::TooManyFields));
}

#[test]
fn what_is_no_http_is_refused_before_a_line_has_ended() {
    assert_eq!(scan(b"\x16\x03\x01\x02"), Err(HeadDefect::Method));
    assert_eq!(scan(b"\0"), Err(HeadDefect::Method));
    let answer = |bytes: &[u8]| HeadScan::default().answer(bytes, &HeadLimits::default());
    assert_eq!(answer(b"SSH-2.0"), Err(HeadDefect::FirstLine));
    assert_eq!(answer(b"HTTP/2"), Err(HeadDefect::FirstLine));
    assert_eq!(
        answer(b"\r\nHTTP/1.1 200 OK\r\n\r\n"),
        Err(HeadDefect::FirstLine)
    );
    assert_eq!(answer(b""), Ok(HeadProgress::Incomplete));
    assert_eq!(answer(b"HTTP/"), Ok(HeadProgress::Incomplete));
}

#[test]
fn a_connection_field_names_some_fields_and_not_many() {
    let naming = |count: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close{}\r\n\r\n",
            ", x".repeat(count)
        )
    };
    assert!(request(naming(32)).is_ok());
    assert_eq!(request(naming(33)), Err(HeadDefect::Connection));
    assert_eq!(request(naming(10_000)), Err(HeadDefect::Connection));
}
