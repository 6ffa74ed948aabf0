use super::*;

#[tokio::test]
async fn h2_with_prior_knowledge_reaches_an_h2_endpoint_with_trailers() {
    let (a, b) = (Backend::http2("a").await, Backend::http2("b").await);
    let edge = Edge::start(AppProtocol::H2c, &[a.addr, b.addr]).await;
    let mut client = edge.http2().await;
    let mut names = Vec::new();
    for _ in 0..4 {
        client.ready().await.unwrap();
        let response = client.send_request(post("/trailers", "ask")).await.unwrap();
        names.push(response.headers()["backend"].to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), "message");
    }
    assert_ne!(names[0], names[1], "{names:?}");
    assert_eq!(edge.port.counters.connect.get().0.iter().sum::<u64>(), 2);
}

#[tokio::test]
async fn streams_of_one_client_share_connections_and_run_side_by_side() {
    let backend = Backend::http2("a").await;
    let edge = Edge::start(AppProtocol::H2c, &[backend.addr]).await;
    let client = edge.http2().await;
    // One by one first, so that there is a connection to share.
    client.clone().send_request(get("/")).await.unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let response = client.send_request(get("/wait")).await.unwrap();
                parts(response, "backend").await.2
            })
        })
        .collect();
    let endpoint = edge.port.endpoint(EndpointAddr(backend.addr));
    eventually("20 streams are at the endpoint", || {
        endpoint.active.get() == 20
    })
    .await;
    // One that is counted may not have reached the endpoint yet, and waits there later.
    let go_on = backend.go_on.clone();
    let letting = tokio::spawn(async move {
        loop {
            go_on.notify_waiters();
            tokio::task::yield_now().await;
        }
    });
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), "done");
    }
    letting.abort();
    eventually("they are gone", || endpoint.active.get() == 0).await;
    assert_eq!(edge.port.counters.connect.get().0.iter().sum::<u64>(), 1);
}

#[tokio::test]
async fn versions_are_told_apart_on_both_sides() {
    let (one, two) = (Backend::http1("one").await, Backend::http2("two").await);
    let to_one = Edge::start(AppProtocol::Http, &[one.addr]).await;
    let to_two = Edge::start(AppProtocol::H2c, &[two.addr]).await;
    let response = to_one
        .http2()
        .await
        .send_request(post("/echo", "up"))
        .await
        .unwrap();
    assert_eq!(
        parts(response, "backend").await,
        (200, "one".into(), "up".into())
    );
    let mut client = to_one.http2().await;
    let response = client.send_request(get("/headers")).await.unwrap();
    let (_, _, headers) = parts(response, "").await;
    for header in ["host: shop.example", "x-forwarded-host: shop.example"] {
        let count = headers.lines().filter(|line| *line == header).count();
        assert_eq!(count, 1, "{headers}");
    }
    let response = to_two
        .http1()
        .await
        .send_request(post("/echo", "up"))
        .await
        .unwrap();
    assert_eq!(
        parts(response, "backend").await,
        (200, "two".into(), "up".into())
    );
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let backend = Backend::http2("a").await;
    let edge = Edge::start(AppProtocol::H2c, &[backend.addr]).await;
    let mut client = edge.http2().await;
    let response = client
        .send_request(post("/count", vec![b'y'; LARGE]))
        .await
        .unwrap();
    assert_eq!(parts(response, "").await.2, LARGE.to_string());
    let response = client.send_request(get("/large")).await.unwrap();
    assert_eq!(parts(response, "").await.2.len(), LARGE);
}

#[tokio::test]
async fn the_reason_of_a_failure_is_in_a_header() {
    let dead = refusing();
    let edge = Edge::start(AppProtocol::H2c, &[dead.addr]).await;
    let response = edge.http2().await.send_request(get("/")).await.unwrap();
    let (status, code, _) = parts(response, "x-fairway-error").await;
    assert_eq!((status, code.as_str()), (502, "connect_refused"));
    // An HTTP/1.1 server where h2 was asked for.
    let backend = Backend::http1("old").await;
    let edge = Edge::start(AppProtocol::H2c, &[backend.addr]).await;
    let response = edge.http2().await.send_request(get("/")).await.unwrap();
    let (status, code, _) = parts(response, "x-fairway-error").await;
    // What it takes for a broken request it may answer or hang up on.
    assert_eq!(status, 502);
    assert!(
        ["upstream_protocol", "upstream_reset"].contains(&code.as_str()),
        "{code}"
    );
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte_in_either_version() {
    let backend = Backend::http1("a").await;
    let edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    let addr = edge.addr;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let edge = TcpStream::connect(addr).await.unwrap();
            edge.set_nodelay(true).unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_edge, mut to_edge) = edge.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_edge, &mut to_client).await });
            tokio::spawn(async move {
                while let Ok(byte) = from_client.read_u8().await {
                    if to_edge.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    for h2 in [false, true] {
        let stream = TokioIo::new(TcpStream::connect(slow).await.unwrap());
        let response = if h2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            sender.send_request(post("/echo", "up")).await.unwrap()
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(post("/echo", "up")).await.unwrap()
        };
        let wanted = (200, "a".into(), "up".into());
        assert_eq!(parts(response, "backend").await, wanted, "h2: {h2}");
    }
}
