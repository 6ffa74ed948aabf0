//! Every way a request's body can end, towards every way it is framed for the endpoint, and what
//! comes piece by piece. Another client's requests on the same pool of connections are the judge.

use futures::StreamExt as _;

use super::*;

/// How a body of h2 ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BodyEnd {
    /// With the last piece, as hyper does where it knows the length.
    Known,
    /// With an empty DATA frame.
    EmptyData,
    /// With trailers.
    Trailers,
    /// It does not: the stream is reset.
    Reset,
}

/// Who asks in the meantime, and has to be answered each time.
async fn judge(edge: &Edge, backend: &Backend, what: &str) {
    let mut client = edge.http1().await;
    for round in 0..5 {
        let response = client.send_request(get("/")).await;
        let response = response.unwrap_or_else(|error| panic!("{what}, {round}: {error}"));
        let (status, _, body) = parts(response, "backend").await;
        assert_eq!((status, &*body), (200, "hello"), "{what}, {round}");
    }
    // What came too much may have met a connection that nobody had taken just then.
    let garbled = backend.garbled.load(Ordering::SeqCst);
    assert_eq!(garbled, 0, "{what}: the endpoint got what is no request");
}

/// Edges to an HTTP/1.1 endpoint and to one of h2.
async fn edges() -> [(Edge, Backend); 2] {
    let (h1, h2) = (Backend::http1("a").await, Backend::http2("a").await);
    let to_h1 = Edge::start(AppProtocol::Http, &[h1.addr]).await;
    let to_h2 = Edge::start(AppProtocol::H2c, &[h2.addr]).await;
    [(to_h1, h1), (to_h2, h2)]
}

async fn upload(
    edge: &Edge,
    pieces: &[&'static str],
    end: BodyEnd,
    length: bool,
) -> Option<String> {
    let stream = TcpStream::connect(edge.addr).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = Request::post("http://shop.example/count");
    if length {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        request = request.header("content-length", length);
    }
    let mut frames: Vec<Result<Frame<Bytes>, &'static str>> = pieces
        .iter()
        .map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))
        .collect();
    match end {
        BodyEnd::Known | BodyEnd::EmptyData => {}
        BodyEnd::Trailers => frames.push(Ok(Frame::trailers(HeaderMap::new()))),
        BodyEnd::Reset => frames.push(Err("broken off")),
    }
    let body: BoxBody<Bytes, &'static str> = if end == BodyEnd::Known {
        let whole = Full::new(Bytes::from(pieces.concat()));
        whole.map_err(|never| match never {}).boxed()
    } else {
        BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
    };
    let response = client
        .send_request(request.body(body).unwrap())
        .await
        .ok()?;
    let (status, _, body) = parts(response, "backend").await;
    assert_eq!(status, 200, "{pieces:?} {end:?} {length}");
    Some(body)
}

#[tokio::test]
async fn however_an_h2_upload_ends_other_clients_are_answered() {
    for (edge, backend) in edges().await {
        for pieces in [&[][..], &["hello"], &["hello", "world"]] {
            for end in [
                BodyEnd::Known,
                BodyEnd::EmptyData,
                BodyEnd::Trailers,
                BodyEnd::Reset,
            ] {
                for length in [false, true] {
                    let what = format!("{pieces:?}, {end:?}, length known: {length}");
                    let count = upload(&edge, pieces, end, length).await;
                    if end != BodyEnd::Reset {
                        let sent: usize = pieces.iter().map(|piece| piece.len()).sum();
                        assert_eq!(count, Some(sent.to_string()), "{what}");
                    }
                    judge(&edge, &backend, &what).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn however_an_http1_upload_ends_other_clients_are_answered() {
    let head = "POST /count HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
    let early = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
    for (edge, backend) in edges().await {
        for (request, answered) in [
            (format!("{head}\r\n"), Some("0")),
            (format!("{head}content-length: 0\r\n\r\n"), Some("0")),
            (format!("{head}content-length: 5\r\n\r\nhello"), Some("5")),
            (
                format!("{head}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
                Some("0"),
            ),
            (
                format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                Some("5"),
            ),
            (
                format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\r\n\r\n"),
                Some("5"),
            ),
            (
                format!("{head}expect: 100-continue\r\ncontent-length: 5\r\n\r\nhello"),
                Some("5"),
            ),
            // Broken off in the midst.
            (format!("{head}content-length: 10\r\n\r\nhello"), None),
            (
                format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                None,
            ),
            (
                format!("{head}transfer-encoding: chunked\r\n\r\n5\r\nhel"),
                None,
            ),
            // Answered before the body is read, or broken off.
            (
                format!("{early}content-length: 5\r\n\r\nhello"),
                Some("hello"),
            ),
            (
                format!("{early}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                Some("hello"),
            ),
            (format!("{early}content-length: 10\r\n\r\nhello"), None),
            (
                format!("{early}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                None,
            ),
        ] {
            let mut stream = TcpStream::connect(edge.addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            if answered.is_none() {
                stream.shutdown().await.unwrap();
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8(answer).unwrap();
            if let Some(answered) = answered {
                assert!(answer.contains("HTTP/1.1 200"), "{request}\n{answer}");
                let body = answer.rsplit_once("\r\n\r\n").unwrap().1;
                assert!(
                    body == answered || answer.contains(&format!("\r\n{answered}\r\n0\r\n\r\n")),
                    "{request}\n{answer}"
                );
            }
            judge(&edge, &backend, &request).await;
        }
    }
}

/// A server that takes one connection, reads a request's head, and then does what it is told.
pub(super) struct ScriptedServer {
    pub(super) addr: SocketAddr,
    pub(super) tell: mpsc::UnboundedSender<&'static str>,
    /// What came in, the head included.
    pub(super) came: mpsc::UnboundedReceiver<String>,
}

pub(super) async fn told() -> ScriptedServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, mut orders) = mpsc::unbounded_channel::<&'static str>();
    let (came_in, came) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        loop {
            tokio::select! {
                read = stream.read(&mut bytes) => match read {
                    Ok(read) if read > 0 => {
                        let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                        let _ = came_in.send(text);
                    }
                    _ => break,
                },
                order = orders.recv() => match order {
                    Some(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                    // It is closed with all that was written, and no more.
                    None => break,
                },
            }
        }
    });
    ScriptedServer { addr, tell, came }
}

/// What is waited for, within a time that is long for a loaded machine.
pub(super) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let patience = tokio::time::timeout(Duration::from_secs(20), future);
    patience
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"))
}

#[tokio::test]
async fn each_piece_of_an_answer_comes_before_the_next_is_there_and_the_last_before_the_end() {
    let framings = [
        ("content-length: 100\r\n", ["one", "two"]),
        (
            "transfer-encoding: chunked\r\n",
            ["3\r\none\r\n", "3\r\ntwo\r\n"],
        ),
        ("content-type: text/event-stream\r\n", ["one", "two"]),
    ];
    for (framing, pieces) in framings {
        for h2 in [false, true] {
            let what = format!("{framing:?}, h2: {h2}");
            let mut backend = told().await;
            let edge = Edge::start(AppProtocol::Http, &[backend.addr]).await;
            let asking = async {
                if h2 {
                    edge.http2().await.send_request(get("/")).await
                } else {
                    edge.http1().await.send_request(get("/")).await
                }
            };
            let asking = async {
                tokio::join!(asking, async {
                    backend.came.recv().await.unwrap();
                    let head: &'static str = format!("HTTP/1.1 200 OK\r\n{framing}\r\n").leak();
                    backend.tell.send(head).unwrap();
                })
                .0
            };
            let response = soon(&format!("the head, {what}"), asking).await.unwrap();
            let mut body = response.into_body().into_data_stream();
            for (piece, shown) in pieces.into_iter().zip(["one", "two"]) {
                backend.tell.send(piece).unwrap();
                let part = soon(&format!("{shown}, {what}"), body.next()).await;
                assert_eq!(part.unwrap().unwrap(), shown, "{what}");
            }
            // The last piece and the end of the connection come together.
            backend
                .tell
                .send(if pieces[0] == "one" {
                    "end"
                } else {
                    "3\r\nend\r\n"
                })
                .unwrap();
            drop(backend);
            let part = soon(&format!("the last piece, {what}"), body.next()).await;
            assert_eq!(part.unwrap().unwrap(), "end", "{what}");
            let whole = framing.contains("event-stream");
            let end = soon(&format!("the end, {what}"), body.next()).await;
            assert_eq!(end.is_none_or(|end| end.is_ok()), whole, "{what}");
        }
    }
}
