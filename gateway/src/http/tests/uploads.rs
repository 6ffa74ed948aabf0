//! What a client has sent of an upload reaches the endpoint before the client sends more, and before the client's
//! end does. The clients are raw, so that it is known what they have sent.

use super::bodies::{ScriptedServer, soon, told};
use super::*;

/// The letter that bodies are made of. No head and no chunk size has it.
const LETTER: char = 'Z';

/// How a client's upload is framed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    /// HTTP/1.1 with Content-Length.
    Length,
    /// HTTP/1.1 with chunks.
    Chunked,
    /// h2 without Content-Length.
    H2,
    /// h2 with Content-Length.
    H2Length,
}

const FRAMINGS: [Framing; 4] = [
    Framing::Length,
    Framing::Chunked,
    Framing::H2,
    Framing::H2Length,
];

/// A frame of h2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

impl Framing {
    /// The head of a request whose body has so many bytes.
    fn head(self, length: usize, more: &str) -> Vec<u8> {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{more}");
        match self {
            Self::Length => format!("{request}content-length: {length}\r\n\r\n").into_bytes(),
            Self::Chunked => format!("{request}transfer-encoding: chunked\r\n\r\n").into_bytes(),
            Self::H2 | Self::H2Length => {
                // `:method: POST`, `:scheme: http`, `:path: /`, `:authority: a` (RFC 7541, appendix A).
                let mut fields = vec![0x83, 0x86, 0x84, 0x01, 1, b'a'];
                if self == Self::H2Length {
                    let length = length.to_string();
                    fields.extend([0x0f, 0x0d, u8::try_from(length.len()).unwrap()]);
                    fields.extend_from_slice(length.as_bytes());
                }
                let mut head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
                head.extend(frame(4, 0, 0, &[]));
                head.extend(frame(1, 4, 1, &fields));
                head
            }
        }
    }

    /// A piece of the body of so many bytes.
    fn piece(self, bytes: usize) -> Vec<u8> {
        let body = LETTER.to_string().repeat(bytes);
        match self {
            Self::Length => body.into_bytes(),
            Self::Chunked => format!("{bytes:x}\r\n{body}\r\n").into_bytes(),
            Self::H2 | Self::H2Length => body
                .as_bytes()
                .chunks(16_384)
                .flat_map(|part| frame(0, 0, 1, part))
                .collect(),
        }
    }

    /// What ends a body after its last piece.
    fn end(self) -> Vec<u8> {
        match self {
            Self::Length => Vec::new(),
            Self::Chunked => b"0\r\n\r\n".to_vec(),
            Self::H2 | Self::H2Length => frame(0, 1, 1, &[]),
        }
    }
}

/// An endpoint that says what comes.
struct RecordingEndpoint {
    app: AppProtocol,
    server: ScriptedServer,
    /// How many bytes of bodies have come.
    count: usize,
    /// All that came, the letters of bodies aside.
    rest: String,
}

impl RecordingEndpoint {
    async fn http1() -> Self {
        Self::of(AppProtocol::Http, told().await)
    }

    /// One that speaks h2: an empty string has come when a head has.
    async fn http2() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, _) = mpsc::unbounded_channel();
        let (came_in, came) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let came_in = came_in.clone();
                async move {
                    let _ = came_in.send(String::new());
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        let data = frame.into_data().unwrap();
                        let _ = came_in.send(String::from_utf8(data.to_vec()).unwrap());
                    }
                    let _ = came_in.send("the end".to_owned());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
        Self::of(AppProtocol::H2c, ScriptedServer { addr, tell, came })
    }

    fn of(app: AppProtocol, server: ScriptedServer) -> Self {
        Self {
            app,
            server,
            count: 0,
            rest: String::new(),
        }
    }

    /// Takes what has come; says whether anything did.
    async fn take(&mut self, what: &str) -> bool {
        let came = soon(what, self.server.came.recv()).await;
        for letter in came.iter().flat_map(|came| came.chars()) {
            if letter == LETTER {
                self.count += 1;
            } else {
                self.rest.push(letter);
            }
        }
        came.is_some() && !self.rest.ends_with("the end")
    }

    /// Waits until so many bytes of the body have come.
    async fn has(&mut self, bytes: usize, what: &str) {
        let count = self.at_most(bytes, what).await;
        assert_eq!(count, bytes, "bytes have come, {what}");
    }

    /// Waits for so many bytes of the body, or the end of all; says how many have come.
    async fn at_most(&mut self, bytes: usize, what: &str) -> usize {
        while self.count < bytes && self.take(what).await {}
        self.count
    }
}

/// An endpoint of each protocol, and an edge for it.
async fn endpoints() -> [(RecordingEndpoint, Edge); 2] {
    let (h1, h2) = (
        RecordingEndpoint::http1().await,
        RecordingEndpoint::http2().await,
    );
    let to_h1 = Edge::start(h1.app, &[h1.server.addr]).await;
    let to_h2 = Edge::start(h2.app, &[h2.server.addr]).await;
    [(h1, to_h1), (h2, to_h2)]
}

const SIZES: [usize; 4] = [1, 100, 1459, 1461];

#[tokio::test]
async fn each_piece_of_an_upload_comes_before_the_next_is_sent() {
    for framing in FRAMINGS {
        for size in SIZES {
            for (mut endpoint, edge) in endpoints().await {
                let what = format!("{framing:?}, {size}, to {:?}", endpoint.app);
                let mut client = TcpStream::connect(edge.addr).await.unwrap();
                client.write_all(&framing.head(3 * size, "")).await.unwrap();
                for pieces in 1..=3 {
                    client.write_all(&framing.piece(size)).await.unwrap();
                    endpoint.has(pieces * size, &what).await;
                }
                client.write_all(&framing.end()).await.unwrap();
                if endpoint.app == AppProtocol::H2c {
                    while endpoint.take(&what).await {}
                } else if framing != Framing::Length && framing != Framing::H2Length {
                    while !endpoint.rest.ends_with("0\r\n\r\n") {
                        assert!(endpoint.take(&what).await, "{what}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_and_its_pieces_come_one_by_one() {
    for framing in [Framing::Length, Framing::Chunked] {
        for size in SIZES {
            let what = format!("{framing:?}, {size}");
            let mut endpoint = RecordingEndpoint::http1().await;
            let edge = Edge::start(endpoint.app, &[endpoint.server.addr]).await;
            let mut client = TcpStream::connect(edge.addr).await.unwrap();
            let head = framing.head(2 * size, "expect: 100-continue\r\n");
            client.write_all(&head).await.unwrap();
            assert!(endpoint.take(&what).await, "{what}");
            let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
            endpoint.server.tell.send(go_on).unwrap();
            let mut answer = vec![0; go_on.len()];
            soon(&what, client.read_exact(&mut answer)).await.unwrap();
            assert_eq!(answer, go_on.as_bytes(), "{what}");
            for pieces in 1..=2 {
                client.write_all(&framing.piece(size)).await.unwrap();
                endpoint.has(pieces * size, &what).await;
            }
        }
    }
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// A client whose connection is upgraded, and its endpoint.
async fn upgraded() -> (TcpStream, RecordingEndpoint, Edge) {
    let mut endpoint = RecordingEndpoint::http1().await;
    let edge = Edge::start(endpoint.app, &[endpoint.server.addr]).await;
    let mut client = TcpStream::connect(edge.addr).await.unwrap();
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    assert!(endpoint.take("the upgrade").await);
    endpoint.server.tell.send(SWITCHING).unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        let byte = soon("the answer", client.read_u8()).await.unwrap();
        answer.push(char::from(byte));
    }
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    (client, endpoint, edge)
}

#[tokio::test]
async fn each_piece_of_an_upgraded_connection_comes_before_the_next_is_sent_both_ways() {
    for size in SIZES {
        let what = format!("{size}");
        let (mut client, mut endpoint, _edge) = upgraded().await;
        let piece: &'static str = LETTER.to_string().repeat(size).leak();
        for pieces in 1..=3 {
            client.write_all(piece.as_bytes()).await.unwrap();
            endpoint.has(pieces * size, &what).await;
            endpoint.server.tell.send(piece).unwrap();
            let mut back = vec![0; size];
            soon(&what, client.read_exact(&mut back)).await.unwrap();
            assert_eq!(back, piece.as_bytes(), "{what}");
        }
    }
}

/// How a client ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ClientEnd {
    /// It closes its connection.
    Close,
    /// It resets its connection.
    Reset,
}

impl ClientEnd {
    /// A size of many pieces, unless the client's own kernel drops some of them.
    fn large(self, h2: bool) -> Option<usize> {
        match self {
            Self::Reset => None,
            // A client of h2 may send 65,535 bytes unasked.
            _ if h2 => Some(60_000),
            _ => Some(1_000_000),
        }
    }

    fn of(self, client: TcpStream) {
        if self == Self::Reset {
            crate::socket::reset_on_close(&client);
        }
        drop(client);
    }
}

#[tokio::test]
async fn what_was_sent_of_an_upload_comes_before_the_clients_end() {
    let mut lost = Vec::new();
    for framing in FRAMINGS {
        let h2 = matches!(framing, Framing::H2 | Framing::H2Length);
        for end in [ClientEnd::Close, ClientEnd::Reset] {
            for size in SIZES.into_iter().chain(end.large(h2)) {
                for whole in [false, true] {
                    for (mut endpoint, edge) in endpoints().await {
                        let what = format!(
                            "{framing:?}, {end:?}, {size}, whole: {whole}, to {:?}",
                            endpoint.app
                        );
                        let mut client = TcpStream::connect(edge.addr).await.unwrap();
                        let length = if whole { size } else { size + 10 };
                        client.write_all(&framing.head(length, "")).await.unwrap();
                        // The head has come.
                        assert!(endpoint.take(&what).await, "{what}");
                        let mut rest = framing.piece(size);
                        if whole {
                            rest.extend(framing.end());
                        }
                        client.write_all(&rest).await.unwrap();
                        end.of(client);
                        let count = endpoint.at_most(size, &what).await;
                        if count != size {
                            lost.push(format!("{count} of {what}"));
                        }
                    }
                }
            }
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
}

#[tokio::test]
async fn what_was_sent_on_an_upgraded_connection_comes_before_the_clients_end() {
    let mut lost = Vec::new();
    for end in [ClientEnd::Close, ClientEnd::Reset] {
        for size in SIZES.into_iter().chain(end.large(false)) {
            let what = format!("{end:?}, {size}");
            let (mut client, mut endpoint, _edge) = upgraded().await;
            client
                .write_all(&Framing::Length.piece(size))
                .await
                .unwrap();
            end.of(client);
            let count = endpoint.at_most(size, &what).await;
            if count != size {
                lost.push(format!("{count} of {what}"));
            }
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
}

#[tokio::test]
async fn an_endpoint_that_takes_an_upload_slowly_gets_what_was_sent_before_the_clients_end() {
    // More than the buffers of all the sockets hold.
    const SIZE: usize = 12_000_000;
    for framing in [Framing::Length, Framing::Chunked] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = Edge::start(AppProtocol::Http, &[listener.local_addr().unwrap()]).await;
        let mut client = TcpStream::connect(edge.addr).await.unwrap();
        let mut request = framing.head(SIZE, "");
        for _ in 0..100 {
            request.extend(framing.piece(SIZE / 100));
        }
        request.extend(framing.end());
        tokio::spawn(async move { client.write_all(&request).await });
        let (mut stream, _) = soon("the endpoint's connection", listener.accept())
            .await
            .unwrap();
        let (mut letters, mut came) = (0, vec![0; 16_384]);
        let mut last = Vec::new();
        loop {
            let read = soon("more", stream.read(&mut came)).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            letters += came[..read]
                .iter()
                .filter(|byte| char::from(**byte) == LETTER)
                .count();
            last.extend_from_slice(&came[..read]);
            last.drain(..last.len().saturating_sub(5));
            // The edge is faster.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(letters, SIZE, "{framing:?}");
        assert!(last.ends_with(&framing.end()), "{framing:?}");
    }
}
