//! What holds for all inputs.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Parts of requests, right and wrong, and octets of any kind.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&'static [u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"GET http://a/ HTTP/1.0\r\n",
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close, x\r\n",
        b"X: y\r\n",
        b"X-Forwarded-For: z\r\n",
        b"X_Forwarded_For: z\r\n",
        b"TE: trailers\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: upgrade\r\n",
        b"Trailer: a\r\n",
        b"Expect: 100-continue\r\n",
        b"Forwarded: for=b\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b":",
        b"\0",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 ",
        b"5\r\nhello\r\n",
        b"0\r\n",
        b"1;a=b\r\nx\r\n",
        b"A: b\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"SM\r\n\r\n",
    ];
    let piece = prop_oneof![
        8 => select(known).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Requests that keep all rules, of every kind.
fn requests() -> impl Strategy<Value = String> {
    let line = select(vec![
        "GET / HTTP/1.1",
        "HEAD /a?b=c HTTP/1.1",
        "POST //x HTTP/1.2",
        "OPTIONS * HTTP/1.1",
        "PUT http://a.example:80/p HTTP/1.1",
        "GET http://a.example HTTP/1.0",
        "get /<|> HTTP/1.0",
    ]);
    let body = select(vec!["", "Content-Length: 7\r\n", "content-length:0\r\n"]);
    let fields = select(vec![
        "Accept: */*\r\n",
        "Cookie: a=b; c=d\r\n",
        "X-Odd_Name: \t v \r\n",
        "Empty:\r\n",
        "Connection: close\r\n",
        "Connection: x-odd_name, keep-alive\r\n",
        "Keep-Alive: 5\r\n",
        "TE: trailers\r\n",
        "Upgrade: h2c\r\n",
        "X-Forwarded-For: 1.2.3.4\r\n",
        "Forwarded: for=x\r\n",
        "X-Real-IP: 1.2.3.4\r\n",
        "Trailer: t\r\n",
        "X-Forwarded-Proto: https\r\n",
        "X-Forwarded-Host: h\r\n",
        "X_Real_IP: 1\r\n",
        "Expect: 100-continue\r\n",
    ]);
    (line, body, vec(fields, 0..8), any::<bool>()).prop_map(|(line, body, fields, host_first)| {
        let (fields, host) = (fields.concat(), "Host: a.example\r\n");
        match host_first {
            true => format!("{line}\r\n{host}{body}{fields}\r\n"),
            false => format!("{line}\r\n{fields}{body}{host}\r\n"),
        }
    })
}

/// Reads the bytes up to their last one, cut in these places.
fn read_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<HeadProgress, HeadDefect> {
    let mut scan = HeadScan::default();
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut last = Ok(HeadProgress::Incomplete);
    for end in ends {
        last = scan.request(&bytes[..end], &HeadLimits::default());
        if last != Ok(HeadProgress::Incomplete) {
            break;
        }
    }
    last
}

/// What a body's scan says of these bytes, given in pieces: what passes, the data in it, what is wrong, and whether it is
/// whole.
type BodyReading = (Vec<u8>, Vec<u8>, Option<ChunkDefect>, bool);

fn body_in_pieces(bytes: &[u8], cuts: &[usize]) -> BodyReading {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let (mut passed, mut data) = (Vec::new(), Vec::new());
    let mut scan = BodyScan::new(BodyFraming::Chunked);
    let mut decoding = scan;
    let mut begin = 0;
    for end in ends {
        let mut piece = bytes[begin..end].to_vec();
        let it = match scan.pass(&piece) {
            Ok(it) => it,
            Err(defect) => {
                assert_eq!(decoding.decode(&mut piece), Err(defect));
                return (passed, data, Some(defect), false);
            }
        };
        passed.extend_from_slice(&piece[..it.length]);
        let decoded = decoding.decode(&mut piece).unwrap();
        assert_eq!((decoded.consumed, decoded.next), (it.length, it.next));
        assert_eq!(scan, decoding);
        data.extend_from_slice(&piece[..decoded.kept]);
        begin += it.length;
        if it.next != BodyNext::More {
            break;
        }
        assert_eq!(begin, end, "all is taken while the body goes on");
    }
    (passed, data, None, scan.is_ended())
}

proptest! {
    #[test]
    fn nothing_panics_and_what_is_taken_goes_on_as_one_request(bytes in pieces()) {
        let limits = HeadLimits::default();
        let mut table = FieldTable::default();
        let progress = HeadScan::default().request(&bytes, &limits);
        // Whatever stands there is read without the scan, too.
        let _ = RequestHead::parse(&bytes, &limits, &mut table);
        if let Ok(HeadProgress::Complete(length)) = progress
            && let Ok(head) = RequestHead::parse(&bytes[..length], &limits, &mut table)
        {
            let facts = *head.facts();
            let mut out = Vec::new();
            head.write(&CLIENT, &mut out);
            let read = with_request(&out, |head| *head.facts());
            let (read, written) = read.expect("what is written is well-formed");
            prop_assert_eq!(written, out.len());
            prop_assert_eq!((read.body, read.method), (facts.body, facts.method));
            prop_assert_eq!(read.is_upgrade, facts.is_upgrade);
        }
    }

    #[test]
    fn answers_do_not_panic_and_go_on_as_one_answer(
        bytes in pieces(),
        old in any::<bool>(),
        line in prop_oneof![
            "HTTP/1\\.[01] (101|103|200|204|304|999)( OK)?\r\n",
            "HTTP/1\\.1 \\PC{0,5}\r\n",
        ],
    ) {
        let asked = match old {
            true => "GET / HTTP/1.0\r\n\r\n",
            false => "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        };
        let asked = request(asked).unwrap();
        let (limits, mut table) = (HeadLimits::default(), FieldTable::default());
        let _ = AnswerHead::parse(&bytes, &limits, &asked, &mut table);
        let bytes = [line.as_bytes(), &bytes].concat();
        let _ = AnswerHead::parse(&bytes, &limits, &asked, &mut table);
        if let Ok(HeadProgress::Complete(length)) = HeadScan::default().answer(&bytes, &limits)
            && let Ok(head) = AnswerHead::parse(&bytes[..length], &limits, &asked, &mut table)
        {
            let facts = *head.facts();
            let plan = facts.plan(&asked, true);
            let mut out = Vec::new();
            head.write(&plan, &mut out);
            let mut table = FieldTable::default();
            let read = AnswerHead::parse(&out, &limits, &asked, &mut table);
            let read = *read.expect("what is written is well-formed").facts();
            let body = match plan.decodes {
                true => BodyFraming::UntilClose,
                false => facts.body,
            };
            prop_assert_eq!((read.status, read.body), (facts.status, body));
        }
    }

    #[test]
    fn a_head_is_read_in_any_pieces(bytes in pieces(), cuts in vec(any::<usize>(), 0..6)) {
        let whole = read_in_pieces(&bytes, &[]);
        prop_assert_eq!(read_in_pieces(&bytes, &cuts), whole);
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(read_in_pieces(&bytes, &each), whole);
    }

    #[test]
    fn a_body_is_read_in_any_pieces(
        bytes in prop_oneof![
            pieces(),
            vec((vec(any::<u8>(), 1..40), select(vec!["", ";a", ";a=\"b\""])), 0..6).prop_map(|chunks| {
                let mut body = Vec::new();
                for (data, extension) in chunks {
                    body.extend_from_slice(format!("{:x}{extension}\r\n", data.len()).as_bytes());
                    body.extend_from_slice(&data);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(b"0\r\n\r\nmore");
                body
            }),
        ],
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let whole = body_in_pieces(&bytes, &[]);
        let cut = body_in_pieces(&bytes, &cuts);
        prop_assert_eq!((&cut.2, cut.3), (&whole.2, whole.3));
        if whole.2.is_none() {
            prop_assert_eq!(&cut, &whole);
        }
    }

    #[test]
    fn what_is_written_is_written_the_same_again(text in requests()) {
        let once = passed_on(&text, &CLIENT);
        let again = passed_on(&once, &CLIENT);
        // The fields that are set come last, and so does what is of one connection.
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
            lines.sort();
            lines
        };
        prop_assert_eq!(sorted(&once), sorted(&again));
        let (first, second) = (request(&text).unwrap(), request(&once).unwrap());
        prop_assert_eq!((first.body, first.method, first.has_host), (second.body, second.method, second.has_host));
        prop_assert_eq!(first.takes_trailers, second.takes_trailers);
        prop_assert_eq!(first.expects_continue, second.expects_continue);
    }

    #[test]
    fn the_search_for_control_characters_finds_the_first(bytes in vec(prop_oneof![
        20 => any::<u8>(), 20 => b' '..=b'~', 1 => Just(b'\t'), 1 => Just(0x7f_u8), 1 => Just(b'\r'),
    ], 0..64)) {
        let is_control = |it: &u8| (*it < 0x20 && *it != b'\t') || *it == 0x7f;
        let wanted = bytes.iter().position(is_control).unwrap_or(bytes.len());
        prop_assert_eq!(super::super::grammar::control_at(&bytes), wanted);
        let is_bad = |it: &u8| *it <= 0x20 || *it == 0x7f || *it == b'#';
        prop_assert_eq!(super::super::grammar::is_target(&bytes), !bytes.iter().any(is_bad));
    }
}
