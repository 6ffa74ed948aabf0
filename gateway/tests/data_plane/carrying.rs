//! TCP: what passes through a connection, whatever way and order the two ends choose.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fairway_config::net::Protocol;
use fairway_gateway::GatewaySettings;
use rustix::net::RecvFlags;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;
use crate::local::{in_namespace, ip};

const PORT: u16 = 4010;

/// A gateway with one Service, and what its endpoint listens with.
async fn running(of: &str) -> (Running, Spec, SocketAddr, TcpListener) {
    running_with(of, settings()).await
}

async fn running_with(
    of: &str,
    settings: GatewaySettings,
) -> (Running, Spec, SocketAddr, TcpListener) {
    let vip = vip();
    let spec = service(of, vip, PORT, Protocol::Tcp);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let running = Running::start(settings, spec.with(&[backend])).await;
    let vip = SocketAddr::new(vip, PORT);
    running.listening(vip).await;
    (running, spec, vip, listener)
}

async fn connected(vip: SocketAddr, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = within(TcpStream::connect(vip)).await.unwrap();
    let (server, _) = within(listener.accept()).await.unwrap();
    (client, server)
}

/// The connections of the one port that ended well, and that did not.
fn ended(running: &Running) -> (u64, u64) {
    let port = running.gateway.ports().remove(0).1;
    (port.counters.completed.get(), port.counters.failed.get())
}

/// xorshift (Marsaglia, 2003): a test is to be repeatable.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// Writes `bytes` in pieces of random length, and says the end.
async fn write(
    mut to: tokio::net::tcp::OwnedWriteHalf,
    bytes: Vec<u8>,
    mut random: Xorshift,
    most: usize,
) {
    let mut rest = &*bytes;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + random.below(most)).min(rest.len()));
        to.write_all(piece).await.unwrap();
        rest = after;
        if random.below(4) == 0 {
            tokio::task::yield_now().await;
        }
    }
    to.shutdown().await.unwrap();
}

/// Reads to the end in pieces of random length.
async fn read(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut random: Xorshift,
    most: usize,
) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = vec![0; most];
    loop {
        let length = 1 + random.below(most);
        let read = from.read(&mut piece[..length]).await.unwrap();
        if read == 0 {
            return all;
        }
        all.extend_from_slice(&piece[..read]);
        if random.below(8) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn every_byte_of_many_connections_arrives_in_order_whatever_the_pieces() {
    for io_uring in [true, false] {
        let seed = std::process::id();
        carry_pieces(io_uring, seed).await;
    }
}

async fn carry_pieces(io_uring: bool, seed: u32) {
    let mut settings = settings();
    settings.io_uring = io_uring;
    let (running, _, vip, listener) = running_with("pieces", settings).await;
    println!("seed {seed}");
    let mut random = Xorshift((u64::from(seed) << 8) | 1);
    let mut all = Vec::new();
    for number in 0..48 {
        let (client, server) = connected(vip, &listener).await;
        // Some are spliced, some fit into one segment.
        let length = |random: &mut Xorshift| match number % 4 {
            0 => random.below(64),
            1 => random.below(100_000),
            2 => 0,
            _ => random.below(3_000_000),
        };
        let most = 1 + random.below(if number % 3 == 0 { 100 } else { 200_000 });
        let mut content = |length: usize| -> Vec<u8> {
            let first = random.below(251);
            (0..length).map(|n| (first + n * 7 % 251) as u8).collect()
        };
        let lengths = (
            length(&mut Xorshift(number + 1)),
            length(&mut Xorshift(number + 77)),
        );
        let (up, down) = (content(lengths.0), content(lengths.1));
        let next = move |n: u64| Xorshift((u64::from(seed) ^ ((number * 8 + n + 1) << 20)) | 1);
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        let small = most.min(lengths.0.max(lengths.1) / 50 + 100);
        all.push(tokio::spawn(async move {
            let (_, _, heard, said) = tokio::join!(
                write(client_write, up.clone(), next(1), small.max(most)),
                write(server_write, down.clone(), next(2), small.max(most)),
                read(server_read, next(3), small.max(most)),
                read(client_read, next(4), small.max(most)),
            );
            assert!(heard == up, "connection {number}, up: {}", heard.len());
            assert!(said == down, "connection {number}, down: {}", said.len());
        }));
    }
    for one in all {
        within(one).await.unwrap();
    }
    until("all are over", || async { ended(&running) == (48, 0) }).await;
    running.stop().await;
}

/// Many that say little at the same time, of which most wait for an answer: what goes through the kernel
/// together comes out where it belongs.
#[tokio::test]
async fn messages_that_go_together_arrive_where_they_belong() {
    io_uring::IoUring::new(1)
        .expect("io_uring is there (kernel.io_uring_disabled is 0, no seccomp profile forbids it)");
    let running = exchange_messages().await;
    assert!(running.gateway.batched_messages() > 0);
    running.stop().await;
}

#[tokio::test]
async fn messages_pass_one_by_one_where_the_kernel_makes_no_calls_together() {
    forbid_io_uring();
    let error = io_uring::IoUring::new(1).err();
    assert_eq!(error.unwrap().raw_os_error(), Some(libc::ENOSYS));
    exchange_messages().await.stop().await;
}

/// From now on io_uring_setup(2) fails in this thread and in those that it starts, as where a seccomp
/// profile forbids it.
#[expect(unsafe_code, reason = "no safe wrapper has this prctl(2)")]
fn forbid_io_uring() {
    /// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        // The number of the call: the first field of struct seccomp_data.
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program is there as long as the calls take.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                std::ptr::from_ref(&program),
            ) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
}

/// Many connections say many small messages at once, on one worker; all are over well.
async fn exchange_messages() -> Running {
    const CONNECTIONS: u8 = 32;
    const MESSAGES: usize = 2000;
    let mut settings = settings();
    settings.workers = 1;
    let (running, _, vip, listener) = running_with("together", settings).await;
    let mut all = Vec::new();
    for number in 0..CONNECTIONS {
        let (mut client, mut server) = connected(vip, &listener).await;
        all.push(tokio::spawn(async move {
            let says = async {
                for message in 0..MESSAGES {
                    let length = 1 + (message * 31 + usize::from(number)) % 1500;
                    client.write_all(&vec![number; length]).await.unwrap();
                    if number % 4 != 0 {
                        assert_eq!(client.read_u8().await.unwrap(), number);
                    }
                }
                client.shutdown().await.unwrap();
                client
            };
            let hears = async {
                let mut room = vec![0; 2000];
                for message in 0..MESSAGES {
                    let length = 1 + (message * 31 + usize::from(number)) % 1500;
                    server.read_exact(&mut room[..length]).await.unwrap();
                    assert!(room[..length].iter().all(|byte| *byte == number));
                    if number % 4 != 0 {
                        server.write_u8(number).await.unwrap();
                    }
                }
                assert_eq!(server.read(&mut room).await.unwrap(), 0);
            };
            tokio::join!(says, hears)
        }));
    }
    for one in all {
        within(one).await.unwrap();
    }
    until("all are over", || async {
        ended(&running) == (CONNECTIONS.into(), 0)
    })
    .await;
    running
}

#[tokio::test]
async fn single_bytes_pass_at_once_both_ways() {
    let (running, _, vip, listener) = running("bytes").await;
    let (mut client, mut server) = connected(vip, &listener).await;
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    // Each waits for the one before: bytes that wait for company would never come.
    for byte in 0..=255 {
        client.write_u8(byte).await.unwrap();
        assert_eq!(within(server.read_u8()).await.unwrap(), byte);
        server.write_u8(!byte).await.unwrap();
        assert_eq!(within(client.read_u8()).await.unwrap(), !byte);
    }
    running.stop().await;
}

#[tokio::test]
async fn both_ends_may_end_at_once() {
    let (running, _, vip, listener) = running("both").await;
    for _ in 0..50 {
        let (mut client, mut server) = connected(vip, &listener).await;
        client.write_all(b"up").await.unwrap();
        server.write_all(b"down").await.unwrap();
        let (up, down) = tokio::join!(client.shutdown(), server.shutdown());
        up.and(down).unwrap();
        let (mut heard, mut said) = (String::new(), String::new());
        within(server.read_to_string(&mut heard)).await.unwrap();
        within(client.read_to_string(&mut said)).await.unwrap();
        assert_eq!((&*heard, &*said), ("up", "down"));
    }
    until("all are over", || async { ended(&running) == (50, 0) }).await;
    running.stop().await;
}

/// Urgent bytes stay where they are in the stream, and urgent; before, behind and after a splice.
/// While it stands still the gateway does not listen to who writes to it: it has to do so again.
#[tokio::test]
async fn a_reader_that_stood_still_has_what_is_said_once_it_has_caught_up() {
    // More than all buffers on the way hold: each of the kernel's may grow to 32 MiB (net.ipv4.tcp_rmem).
    const ALL: usize = 128 << 20;
    let (running, _, vip, listener) = running("stands-still").await;
    let (mut client, mut server) = connected(vip, &listener).await;
    let said = AtomicUsize::new(0);
    let writes = async {
        let piece = [b'.'; 16 << 10];
        while said.load(Relaxed) < ALL {
            client.write_all(&piece).await.unwrap();
            said.fetch_add(piece.len(), Relaxed);
        }
    };
    let reads = async {
        let (mut last, mut same) = (0, 0);
        while same < 20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let now = said.load(Relaxed);
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        assert!(last < ALL, "it never stood still");
        let mut all = vec![0; ALL];
        server.read_exact(&mut all).await.unwrap();
    };
    within(async { tokio::join!(writes, reads) }).await;
    for round in 0..10 {
        client.write_u8(round).await.unwrap();
        assert_eq!(within(server.read_u8()).await.unwrap(), round);
    }
    running.stop().await;
}

#[tokio::test]
async fn urgent_bytes_pass_as_such() {
    let (running, _, vip, listener) = running("urgent").await;
    let (client, server) = connected(vip, &listener).await;
    let (client, server) = (client.into_std().unwrap(), server.into_std().unwrap());
    let talk = tokio::task::spawn_blocking(move || {
        for socket in [&client, &server] {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        // Then a read says where they are: it stops before, and the byte is read as any other.
        SockRef::from(&server).set_out_of_band_inline(true).unwrap();
        // Alone: nothing else makes anybody look.
        SockRef::from(&client).send_out_of_band(b"?").unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut &server, &mut byte).unwrap();
        assert_eq!(byte, *b"?");
        for length in [10, 1, 1_000_000, 3] {
            let bytes = vec![b'.'; length];
            std::io::Write::write_all(&mut &client, &bytes).unwrap();
            SockRef::from(&client).send_out_of_band(b"!").unwrap();
            std::io::Write::write_all(&mut &client, b"after").unwrap();
            let mut all = vec![0; length + 6];
            std::io::Read::read_exact(&mut &server, &mut all).unwrap();
            assert_eq!(all.iter().position(|byte| *byte == b'!'), Some(length));
            assert!(all.ends_with(b"!after"), "{length}");
        }
    });
    within(talk).await.unwrap();

    // Who does not ask for it in line has it beside the others.
    let (mut client, mut server) = connected(vip, &listener).await;
    let mut byte = [0];
    client.write_all(b"1").await.unwrap();
    within(server.read_exact(&mut byte)).await.unwrap();
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"2").await.unwrap();
    until("the urgent byte is here", || async {
        let mut byte = [0];
        let received = rustix::net::recv(&server, &mut byte, RecvFlags::OOB);
        received.is_ok_and(|(_, read)| (read, byte) == (1, *b"!"))
    })
    .await;
    within(server.read_exact(&mut byte)).await.unwrap();
    assert_eq!(byte, *b"2");
    running.stop().await;
}

/// A large answer with an urgent byte in it, of an endpoint that ends while nobody reads.
#[tokio::test]
async fn an_urgent_byte_ends_no_stream() {
    const BEFORE: usize = 3 << 20;
    let (running, _, vip, listener) = running("urgent-amid").await;
    for _ in 0..5 {
        let (mut client, mut server) = connected(vip, &listener).await;
        SockRef::from(&client).set_out_of_band_inline(true).unwrap();
        let answer = async {
            server.write_all(&vec![b'.'; BEFORE]).await.unwrap();
            SockRef::from(&server).send_out_of_band(b"!").unwrap();
            server.write_all(b"after").await.unwrap();
            server.shutdown().await.unwrap();
        };
        within(answer).await;
        let mut all = Vec::new();
        within(client.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all.len(), BEFORE + 6);
        assert!(all.ends_with(b"!after"));
    }
    running.stop().await;
}

/// A peer that closes with something unread resets: what it said before is read all the same.
#[tokio::test]
async fn what_was_said_before_a_reset_arrives() {
    let (running, _, vip, listener) = running("last-words").await;
    for _ in 0..50 {
        let (mut client, mut server) = connected(vip, &listener).await;
        client
            .write_all(b"a request that is too large")
            .await
            .unwrap();
        within(server.readable()).await.unwrap();
        server.write_all(b"413").await.unwrap();
        drop(server);
        let mut said = [0; 3];
        within(client.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"413");

        let (mut client, mut server) = connected(vip, &listener).await;
        server.write_all(b"a banner").await.unwrap();
        within(client.readable()).await.unwrap();
        client.write_all(b"a line of a log").await.unwrap();
        drop(client);
        let mut heard = [0; 15];
        within(server.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"a line of a log");
    }
    running.stop().await;
}

/// Either end may hold its second piece back until its first one is acknowledged (Nagle's algorithm),
/// which a kernel that waits for data to send along does 40 ms later.
#[tokio::test]
async fn who_sends_in_two_pieces_does_not_wait_for_an_acknowledgement() {
    let (running, _spec, vip, listener) = running("pieces").await;
    let mut times = Vec::new();
    for round in 0..20 {
        let began = std::time::Instant::now();
        let mut client = within(TcpStream::connect(vip)).await.unwrap();
        if round % 2 == 0 {
            client.write_all(b"one").await.unwrap();
            client.write_all(b"two").await.unwrap();
        }
        let (mut server, _) = within(listener.accept()).await.unwrap();
        if round % 2 == 1 {
            client.write_all(b"one").await.unwrap();
            client.write_all(b"two").await.unwrap();
        }
        let mut six = [0; 6];
        within(server.read_exact(&mut six)).await.unwrap();
        server.write_all(b"and").await.unwrap();
        server.write_all(b"too").await.unwrap();
        within(client.read_exact(&mut six)).await.unwrap();
        times.push((began.elapsed(), round % 2));
    }
    for when in [0, 1] {
        let times = times.iter().filter(|(_, at)| *at == when);
        let fastest = times.min().unwrap().0;
        // It would be all of them, and each of them at least this long.
        assert!(fastest < Duration::from_millis(38), "{fastest:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_connection_outlives_changes_of_everything_around_it() {
    let (running, mut spec, vip, listener) = running("changes").await;
    let backend = listener.local_addr().unwrap();
    let (mut client, mut server) = connected(vip, &listener).await;
    let other = echo().await;
    for round in 0..4_u8 {
        match round {
            0 => running.send(spec.endpoints(&[backend, other])).await,
            1 => {
                spec.service.source_ranges = vec!["127.0.0.0/8".parse().unwrap()];
                running.send(vec![spec.change()]).await;
            }
            2 => running.send(spec.endpoints(&[other])).await,
            _ => running.send(vec![spec.gone()]).await,
        }
        client.write_u8(round).await.unwrap();
        assert_eq!(within(server.read_u8()).await.unwrap(), round);
        server.write_u8(round).await.unwrap();
        assert_eq!(within(client.read_u8()).await.unwrap(), round);
    }
    running.stop().await;
}

#[tokio::test]
async fn ports_that_are_used_up_are_said_and_those_of_another_endpoint_or_address_are_used() {
    let test = "carrying::ports_that_are_used_up_are_said_and_those_of_another_endpoint_or_address_are_used";
    if !in_namespace(test) {
        return;
    }
    let vip = SocketAddr::new(vip(), PORT);
    let spec = service("ports", vip.ip(), PORT, Protocol::Tcp);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    // Each worker finds by itself which addresses have ports.
    let settings = fairway_gateway::GatewaySettings {
        workers: 1,
        ..settings()
    };
    let running = Running::start(settings, spec.with(&[backend])).await;
    running.listening(vip).await;
    let second = TcpListener::bind("127.99.99.99:0").await.unwrap();
    // Each connection takes one towards the VIP and one towards the endpoint.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50003").unwrap();
    // And gives it back when it ends: none is to be held for what may still be on its way.
    std::fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0").unwrap();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(connected(vip, &listener).await);
    }
    let from = client_from(49_000, vip);
    from.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let error = std::io::Read::read(&mut &from, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let port = running.gateway.ports().remove(0).1;
    assert_eq!(port.counters.connect_errors()["exhausted"], 1);
    // What is open goes on.
    let (client, server) = &mut open[0];
    client.write_u8(7).await.unwrap();
    assert_eq!(within(server.read_u8()).await.unwrap(), 7);
    running
        .send(spec.endpoints(&[backend, second.local_addr().unwrap()]))
        .await;
    let both = || async { running.gateway.endpoints().len() == 2 };
    until("there are two endpoints", both).await;
    let _from = client_from(49_001, vip);
    within(second.accept()).await.unwrap();
    // Another address of the host has as many ports again, as soon as it is known.
    running.send(spec.endpoints(&[backend])).await;
    ip("addr add 127.0.0.2/8 dev lo");
    let port = std::cell::Cell::new(49_002);
    let from = || async {
        let from = client_from(port.replace(port.get() + 1), vip);
        let accepted = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        drop(from);
        accepted.is_ok_and(|accepted| accepted.unwrap().1.ip().to_string() == "127.0.0.2")
    };
    until("the other address stands in", from).await;
    // And goes on doing so at once.
    let exhausted = running
        .gateway
        .ports()
        .remove(0)
        .1
        .counters
        .connect_errors()["exhausted"];
    for _ in 0..3 {
        let _from = client_from(port.replace(port.get() + 1), vip);
        let (_, from) = within(listener.accept()).await.unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.2");
    }
    let port = running.gateway.ports().remove(0).1;
    assert_eq!(port.counters.connect_errors()["exhausted"], exhausted);
    running.stop().await;
}
