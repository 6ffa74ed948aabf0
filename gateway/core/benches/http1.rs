//! What the head of one request and of one answer cost, read and written: `cargo bench -p fairway-gateway-core --bench http1`.
//!
//! `short` is what a load generator sends, `browser` what a browser sends, `byte-by-byte` the same in a thousand pieces;
//! `answer` is that of a server of files; `chunks` a body of 64 KiB in chunks of 4 KiB.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fairway_gateway_core::http1::{
    AnswerHead, BodyFraming, BodyScan, ClientScheme, EndpointHop, FieldTable, HeadLimits,
    HeadProgress, HeadScan, RequestFacts, RequestHead, RequestOrigin,
};

const SHORT: &str = "GET /index.html HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: bench/1.0\r\n\
                     Accept: */*\r\n\r\n";

const BROWSER: &str = "GET /shop/articles?category=lamps&page=3 HTTP/1.1\r\nHost: shop.example\r\n\
    Connection: keep-alive\r\nCache-Control: max-age=0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nReferer: https://shop.example/shop/\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; consent=1; basket=7f3a\r\n\r\n";

const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 30 Nov 2026 21:30:00 GMT\r\n\
    Content-Type: text/html\r\nContent-Length: 615\r\nLast-Modified: Mon, 30 Nov 2026 20:00:00 GMT\r\n\
    Connection: keep-alive\r\nETag: \"65f1c2a0-267\"\r\nAccept-Ranges: bytes\r\n\r\n";

const HOP: EndpointHop = EndpointHop {
    origin: RequestOrigin {
        peer: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        is_trusted: false,
        scheme: ClientScheme::Http,
    },
    closes: false,
};

fn carry(
    text: &[u8],
    limits: &HeadLimits,
    table: &mut FieldTable,
    out: &mut Vec<u8>,
) -> RequestFacts {
    out.clear();
    let Ok(HeadProgress::Complete(length)) = HeadScan::default().request(text, limits) else {
        panic!("it is whole");
    };
    let head = RequestHead::parse(&text[..length], limits, table).unwrap();
    head.write(&HOP, out);
    *head.facts()
}

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http1");
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let limits = HeadLimits::default();
    let (mut table, mut out) = (FieldTable::default(), Vec::with_capacity(2048));
    for (name, text) in [("short", SHORT), ("browser", BROWSER)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| carry(black_box(text.as_bytes()), &limits, &mut table, &mut out));
        });
    }
    group.bench_function("byte-by-byte", |bencher| {
        bencher.iter(|| {
            let mut scan = HeadScan::default();
            for end in 1..BROWSER.len() {
                let come = black_box(&BROWSER.as_bytes()[..end]);
                assert_eq!(scan.request(come, &limits), Ok(HeadProgress::Incomplete));
            }
        });
    });
    let asked = carry(BROWSER.as_bytes(), &limits, &mut table, &mut out);
    group.throughput(Throughput::Bytes(ANSWER.len() as u64));
    group.bench_function("answer", |bencher| {
        bencher.iter(|| {
            out.clear();
            let text = black_box(ANSWER.as_bytes());
            let found = HeadScan::default().answer(text, &limits);
            let Ok(HeadProgress::Complete(length)) = found else {
                panic!("it is whole");
            };
            let head = AnswerHead::parse(&text[..length], &limits, &asked, &mut table).unwrap();
            let plan = head.facts().plan(&asked, true);
            head.write(&plan, &mut out);
            plan
        });
    });
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    let body = [chunk.repeat(16), b"0\r\n\r\n".to_vec()].concat();
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("chunks", |bencher| {
        bencher.iter(|| {
            let mut scan = BodyScan::new(BodyFraming::Chunked);
            scan.pass(black_box(&body)).unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
