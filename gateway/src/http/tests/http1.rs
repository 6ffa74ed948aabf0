use super::*;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn requests_of_one_connection_go_to_the_endpoints_in_turn() {
    let (a, b) = (Backend::http1("a").await, Backend::http1("b").await);
    let edge = Edge::start(AppProtocol::Http, &[a.addr, b.addr]).await;
    let mut client = edge.http1().await;
    let mut names = Vec::new();
    for _ in 0..6 {
        let (status, name, body) =
            parts(client.send_request(get("/")).await.unwrap(), "backend").await;
        assert_eq!((status, body.as_str()), (200, "hello"));
        names.push(name);
    }
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1], "{names:?}");
    }
    // An answer counts when it has gone out.
    eventually("six are counted", || {
        edge.port.counters.responses()["2xx"] == 6
    })
    .await;
    assert_eq!(
        edge.port.counters.connect.get().0.iter().sum::<u64>(),
        2,
        "connections are reused"
    );
    assert_eq!(edge.port.counters.active.get(), 1);
}

#[tokio::test]
async fn a_client_with_affinity_stays_on_its_endpoint_over_connections() {
    let (a, b) = (Backend::http1("a").await, Backend::http1("b").await);
    let hour = Some(Duration::from_secs(3600));
    let edge = Edge::with_affinity(AppProtocol::Http, &[a.addr, b.addr], hour).await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let mut client = edge.http1().await;
        for _ in 0..3 {
            let response = client.send_request(get("/")).await.unwrap();
            names.insert(parts(response, "backend").await.1);
        }
    }
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over() {
    let (dead, alive) = (refusing(), Backend::http1("alive").await);
    let edge = Edge::start(AppProtocol::Http, &[dead.addr, alive.addr]).await;
    let mut client = edge.http1().await;
    for _ in 0..4 {
        // A body that was sent once can be sent again as long as no endpoint has had it.
        let response = client.send_request(post("/echo", "order")).await.unwrap();
        let (status, name, body) = parts(response, "backend").await;
        assert_eq!(
            (status, name.as_str(), body.as_str()),
            (200, "alive", "order")
        );
    }
    assert!(edge.port.counters.connect_errors()["refused"] > 0);
    assert_eq!(edge.port.counters.failed.get(), 0);
}

#[tokio::test]
async fn the_reason_of_a_failure_is_in_a_header() {
    let (one, other) = (refusing(), refusing());
    let edge = Edge::start(AppProtocol::Http, &[one.addr, other.addr]).await;
    let answer = edge.http1().await.send_request(get("/")).await.unwrap();
    let (status, code, body) = parts(answer, "x-fairway-error").await;
    assert_eq!((status, code.as_str()), (502, "connect_refused"));
    assert!(body.starts_with("connect_refused: "), "{body}");
    assert_eq!(edge.port.counters.connect_errors()["refused"], 2);

    // The same two are unreachable when it has happened often enough, and that takes time, too.
    for _ in 0..2 {
        edge.http1().await.send_request(get("/")).await.unwrap();
    }
    let now = fairway_gateway_core::route::Tick(0);
    assert_eq!(edge.port.review(now).len(), 2);
    let (buckets, _) = edge.port.counters.connect.get();
    assert_eq!(buckets.iter().sum::<u64>(), 6);

    let edge = Edge::start(AppProtocol::Http, &[]).await;
    let answer = edge.http1().await.send_request(get("/")).await.unwrap();
    let (status, code, _) = parts(answer, "x-fairway-error").await;
    assert_eq!((status, code.as_str()), (503, "no_endpoint"));
    assert_eq!(edge.port.counters.rejected()["no_endpoint"], 1);
    let answer = edge.raw(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\n"), "a HEAD has no body: {answer}");
}

#[tokio::test]
async fn an_endpoint_that_closes_without_an_answer_is_upstream_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rude = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut some = [0; 16];
            let _ = stream.read(&mut some).await;
        }
    });
    let edge = Edge::start(AppProtocol::Http, &[rude]).await;
    let response = edge
        .http1()
        .await
        .send_request(post("/", "once"))
        .await
        .unwrap();
    let (status, code, _) = parts(response, "x-fairway-error").await;
    assert_eq!((status, code.as_str()), (502, "upstream_reset"));
}

#[tokio::test]
async fn endpoints_learn_the_clients_address_and_not_what_it_claims() {
    let backend = Backend::http1("a").await;
    let edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    let mut request = get("/headers");
    for name in [
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "x-forwarded-proto",
    ] {
        request
            .headers_mut()
            .insert(name, "203.0.113.99".parse().unwrap());
    }
    let response = edge.http1().await.send_request(request).await.unwrap();
    let (_, _, headers) = parts(response, "").await;
    let has = |line: &str| headers.lines().any(|header| header == line);
    assert!(has("x-forwarded-for: 127.0.0.1"), "{headers}");
    assert!(has("x-forwarded-proto: http"), "{headers}");
    assert!(has("x-forwarded-host: shop.example"), "{headers}");
    assert!(!headers.contains("203.0.113.99"), "{headers}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_are_counted() {
    let backend = Backend::http1("a").await;
    let edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    let mut client = edge.http1().await;
    let response = client
        .send_request(post("/count", vec![b'y'; LARGE]))
        .await
        .unwrap();
    assert_eq!(parts(response, "").await.2, LARGE.to_string());
    let response = client.send_request(get("/large")).await.unwrap();
    assert_eq!(parts(response, "").await.2.len(), LARGE);
    let counters = &edge.port.counters;
    for bytes in [counters.received.get(), counters.transmitted.get()] {
        assert!(
            (LARGE as u64..LARGE as u64 + 100_000).contains(&bytes),
            "{bytes}"
        );
    }
}

#[tokio::test]
async fn a_websocket_passes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let mut edge = Edge::start(AppProtocol::Http, &[backend]).await;
    let stream = TcpStream::connect(edge.addr).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://shop.example/chat", stream)
        .await
        .unwrap();
    for text in ["one", "two", &"long ".repeat(50_000)] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    edge.ended().await;
    assert_eq!(edge.port.counters.responses()["1xx"], 1);
}

#[tokio::test]
async fn what_could_be_read_as_two_requests_is_not_passed_on_as_such() {
    let backend = Backend::http1("a").await;
    let edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    // Both lengths: Transfer-Encoding counts, and the connection ends after the answer, so that
    // what a reader of Content-Length would take for a body is no second request.
    let answer = edge
        .raw(
            b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\
              Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
              GET /headers HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "\x16\x03\x01 is TLS\r\n\r\n",
    ] {
        let answer = edge.raw(request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{request:?}: {answer:?}"
        );
    }
    let answer = edge
        .raw(b"CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn the_shortest_request_and_pipelined_ones_are_answered() {
    let backend = Backend::http1("a").await;
    let edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    // 18 bytes: less than the h2 preface.
    let answer = edge.raw(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with("hello"), "{answer}");
    let answer = edge
        .raw(
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /headers HTTP/1.1\r\nHost: a\r\n\
              Connection: close\r\n\r\n",
        )
        .await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
}

#[tokio::test]
async fn a_pooled_connection_that_its_endpoint_closed_costs_no_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fickle = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut some = [0; 4096];
                let _ = stream.read(&mut some).await;
                // Says nothing of closing, and closes.
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                let _ = stream.write_all(answer).await;
            });
        }
    });
    let edge = Edge::start(AppProtocol::Http, &[fickle]).await;
    let mut client = edge.http1().await;
    for _ in 0..50 {
        let response = client.send_request(get("/")).await.unwrap();
        let (status, code, _) = parts(response, "x-fairway-error").await;
        assert_eq!((status, code.as_str()), (200, ""));
    }
}
