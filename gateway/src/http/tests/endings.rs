use super::*;

#[tokio::test]
async fn a_request_under_way_is_finished_and_the_connection_then_closed() {
    let backend = Backend::http1("a").await;
    let mut edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    let mut busy = edge.http1().await;
    let idle = edge.http1().await;
    let waiting = tokio::spawn(async move {
        let response = busy.send_request(get("/wait")).await.unwrap();
        parts(response, "connection").await
    });
    let endpoint = edge.port.endpoint(EndpointAddr(backend.addr));
    eventually("the request is there", || endpoint.active.get() == 1).await;
    edge.stop();
    edge.ended().await;
    eventually("the idle one is closed", || idle.is_closed()).await;
    assert_eq!(edge.port.counters.active.get(), 1);
    backend.go_on.notify_one();
    assert_eq!(waiting.await.unwrap(), (200, "close".into(), "done".into()));
    edge.ended().await;
    assert_eq!(edge.port.counters.active.get(), 0);
    assert_eq!(edge.port.counters.completed.get(), 2);
}

#[tokio::test]
async fn an_h2_client_is_told_to_go_away_after_its_stream() {
    let backend = Backend::http2("a").await;
    let mut edge = Edge::start(AppProtocol::H2c, &[backend.addr]).await;
    let mut client = edge.http2().await;
    let waiting = client.send_request(get("/wait"));
    let waiting = tokio::spawn(async move { parts(waiting.await.unwrap(), "backend").await });
    let endpoint = edge.port.endpoint(EndpointAddr(backend.addr));
    eventually("the request is there", || endpoint.active.get() == 1).await;
    edge.stop();
    backend.go_on.notify_one();
    assert_eq!(waiting.await.unwrap(), (200, "a".into(), "done".into()));
    edge.ended().await;
    assert!(client.ready().await.is_err());
}

#[tokio::test]
async fn a_port_that_is_cut_ends_its_connections() {
    let backend = Backend::http1("a").await;
    let mut edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
    let mut client = edge.http1().await;
    let response = client.send_request(get("/begin")).await.unwrap();
    edge.port.cut.cancel();
    edge.cut();
    edge.ended().await;
    assert!(response.into_body().collect().await.is_err());
    eventually("it counts as failed", || {
        edge.port.counters.failed.get() == 1
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_cut_ends_its_request_and_no_other() {
    let (gone, stays) = (Backend::http1("gone").await, Backend::http1("stays").await);
    let mut edge = Edge::start(AppProtocol::Http, &[gone.addr]).await;
    let mut first = edge.http1().await;
    let cut = first.send_request(get("/begin")).await.unwrap();
    edge.port
        .set_route(Arc::new(route(AppProtocol::Http, &[stays.addr], None)));
    let mut second = edge.http1().await;
    let uncut = second.send_request(get("/begin")).await.unwrap();
    edge.port.drain(std::time::Instant::now(), Duration::ZERO);
    edge.cut();
    edge.ended().await;
    assert!(cut.into_body().collect().await.is_err());
    stays.go_on.notify_one();
    assert_eq!(parts(uncut, "backend").await.2, "firstrest");
}

#[tokio::test]
async fn a_stream_of_an_endpoint_that_is_cut_ends_with_its_next_piece() {
    let (gone, stays) = (Backend::http2("gone").await, Backend::http2("stays").await);
    let edge = Edge::start(AppProtocol::H2c, &[gone.addr]).await;
    let mut client = edge.http2().await;
    let cut = client.send_request(get("/begin")).await.unwrap();
    edge.port
        .set_route(Arc::new(route(AppProtocol::H2c, &[stays.addr], None)));
    edge.port.drain(std::time::Instant::now(), Duration::ZERO);
    edge.cut();
    gone.go_on.notify_one();
    assert!(cut.into_body().collect().await.is_err());
    client.ready().await.unwrap();
    let response = client.send_request(get("/")).await.unwrap();
    assert_eq!(parts(response, "backend").await.1, "stays");
}

#[tokio::test]
async fn a_pooled_connection_to_an_endpoint_that_is_listed_no_more_is_not_used() {
    let (a, b) = (Backend::http1("a").await, Backend::http1("b").await);
    let edge = Edge::start(AppProtocol::Http, &[a.addr]).await;
    let mut client = edge.http1().await;
    let response = client.send_request(get("/")).await.unwrap();
    assert_eq!(parts(response, "backend").await.1, "a");
    edge.port
        .set_route(Arc::new(route(AppProtocol::Http, &[b.addr], None)));
    for _ in 0..3 {
        let response = client.send_request(get("/")).await.unwrap();
        assert_eq!(parts(response, "backend").await.1, "b");
    }
}
