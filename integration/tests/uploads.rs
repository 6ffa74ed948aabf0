//! Uploads that are longer than any buffer: to a machine that vanishes, and to a server that takes its time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, edge_pool, slice};
use fairway_integration::site::{Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    may run beside others;
    an_upload_to_a_machine_that_vanishes_ends_soon,
    an_upload_to_a_server_that_reads_nothing_for_long_is_not_cut,
];

const PORT: u16 = 80;

/// Longer than what both buffers of a connection hold.
const LENGTH: usize = 24 << 20;

/// How long the slow server reads nothing: longer than a machine may acknowledge nothing.
const PAUSE: Duration = Duration::from_secs(25);

fn gateway(site: &Site) -> Result<Fairway> {
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, annotations: {{fairway.dev/addresses: \"{}\"}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: shop}}, ports: [{{port: {PORT}, appProtocol: http}}]}}\n",
        vip(1)
    );
    let manifests = all(&[&edge_pool(), &service, &slice("shop", PORT, &[server(0)])]);
    Fairway::start(&site.edge, &[("shop.yaml", &manifests)])
}

/// Takes one upload: its beginning at once, the rest after `pause`. Says how long it was.
fn take_one(host: &Host, at: SocketAddr, pause: Duration) -> Result<JoinHandle<Result<usize>>> {
    let listener = host.run(|| TcpListener::bind(at))?;
    Ok(std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut room = vec![0; 64 << 10];
        let first = stream.read(&mut room)?;
        let head = room[..first].windows(4).position(|it| it == b"\r\n\r\n");
        let mut taken = first - head.context("no whole head")? - 4;
        std::thread::sleep(pause);
        while taken < LENGTH {
            let read = stream.read(&mut room)?;
            ensure!(read > 0, "the upload ended after {taken} bytes");
            taken += read;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        Ok(taken)
    }))
}

/// Begins an upload.
fn head() -> Result<TcpStream> {
    let mut stream = clients::connect_tcp(at(vip(1), PORT))?;
    stream.set_read_timeout(Some(wait::SOON))?;
    stream.set_write_timeout(Some(wait::SOON))?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: {LENGTH}\r\n\r\n"
    )?;
    Ok(stream)
}

/// Writes the rest, and says what the status is.
fn rest(mut stream: TcpStream) -> Result<u16> {
    let part = vec![b'#'; 64 << 10];
    for _ in 0..LENGTH / part.len() {
        // The gateway answers before it has read everything, where it gives up.
        if stream.write_all(&part).is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[9..]).parse()?)
}

fn an_upload_to_a_machine_that_vanishes_ends_soon() -> Result<()> {
    let site = Site::new()?;
    let _taking = take_one(&site.farm, at(server(0), PORT), wait::SOON)?;
    let gateway = gateway(&site)?;
    let mut stream = site.client.run(head)?;
    stream.write_all(&vec![b'#'; 256 << 10])?;
    wait::until_some("the endpoint has a part", || {
        let sent = gateway.metric("fairway_receive_bytes_total", &["service=\"shop\""])?;
        ensure!(sent > 200_000.0, "{sent}");
        Ok(())
    })?;
    // The edge's frames for it go nowhere.
    site.edge.ip(&format!(
        "neighbour replace {} lladdr 02:00:00:00:00:98 dev back nud permanent",
        server(0)
    ))?;
    let began = Instant::now();
    let status = rest(stream)?;
    let took = began.elapsed();
    println!("status {status} after {took:?}");
    ensure!(status == 504, "{status}");
    ensure!(
        took > Duration::from_secs(9) && took < Duration::from_secs(16),
        "{took:?}"
    );
    Ok(())
}

fn an_upload_to_a_server_that_reads_nothing_for_long_is_not_cut() -> Result<()> {
    let site = Site::new()?;
    let taking = take_one(&site.farm, at(server(0), PORT), PAUSE)?;
    let _gateway = gateway(&site)?;
    let began = Instant::now();
    let status = site.client.run(|| rest(head()?))?;
    println!("status {status} after {:?}", began.elapsed());
    ensure!(status == 200, "{status}");
    ensure!(began.elapsed() > PAUSE);
    let taken = taking.join().map_err(|_| anyhow::anyhow!("a panic"))??;
    ensure!(taken == LENGTH, "{taken}");
    Ok(())
}
