//! A router that misbehaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::lab::{Host, Served};

/// How it misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roughness {
    /// It closes each connection at once.
    Closes,
    /// It says something that is no BGP, after its OPEN.
    Garbage,
    /// It opens a session and reads nothing any more.
    Deaf,
    /// It sends so many UPDATEs, each with as many prefixes as there is room for.
    FullTable(usize),
    /// It asks for all prefixes again and again.
    Refreshes,
}

/// A router of AS 64666 that misbehaves, to whoever dials.
#[derive(Debug)]
pub struct RoughRouter {
    dialled: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    _served: Served,
}

impl RoughRouter {
    /// Listens at `at`.
    pub fn start(host: &Host, at: SocketAddr, roughness: Roughness) -> Result<Self> {
        let (dialled, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (dialled.clone(), sent.clone());
        let served = host.serve(move || {
            let listener = std::net::TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            Ok(async move {
                let (dialled, sent) = counts;
                while let Ok((stream, _)) = listener.accept().await {
                    dialled.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(misbehave(stream, roughness, sent.clone()));
                }
            })
        })?;
        Ok(Self {
            dialled,
            sent,
            _served: served,
        })
    }

    /// How often it was dialled.
    pub fn dialled(&self) -> usize {
        self.dialled.load(Ordering::Relaxed)
    }

    /// How many UPDATEs it has sent.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

async fn misbehave(
    mut stream: TcpStream,
    roughness: Roughness,
    sent: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    if roughness == Roughness::Closes {
        // With what was said to it unread, the kernel would reset the connection.
        let mut header = [0; 19];
        stream.read_exact(&mut header).await?;
        let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
        stream
            .read_exact(&mut vec![0; length.saturating_sub(19)])
            .await?;
        return Ok(());
    }
    // Version 4, AS 64666, 90 s, 192.0.2.66, no parameters.
    stream
        .write_all(&message(1, &[4, 0xfc, 0x9a, 0, 90, 192, 0, 2, 66, 0]))
        .await?;
    if roughness == Roughness::Garbage {
        stream.write_all(&[0x5a; 5000]).await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        return Ok(());
    }
    stream.write_all(&message(4, &[])).await?;
    let (mut reader, mut writer) = stream.split();
    match roughness {
        Roughness::Deaf => alive(&mut writer).await,
        Roughness::FullTable(_) | Roughness::Refreshes => {
            let read = async {
                let mut bytes = vec![0; 1 << 16];
                while reader.read(&mut bytes).await? > 0 {}
                Ok::<(), std::io::Error>(())
            };
            let tell = async {
                // The session has to be open on the other side.
                tokio::time::sleep(Duration::from_secs(1)).await;
                if roughness == Roughness::Refreshes {
                    // Of IPv4 unicast (RFC 2918).
                    let asked = message(5, &[0, 1, 0, 1]).repeat(1000);
                    loop {
                        writer.write_all(&asked).await?;
                    }
                }
                let count = match roughness {
                    Roughness::FullTable(count) => count,
                    _ => 0,
                };
                for number in 0..count {
                    writer.write_all(&full_update(number)).await?;
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                alive(&mut writer).await
            };
            tokio::select! {
                read = read => read,
                told = tell => told,
            }
        }
        Roughness::Closes | Roughness::Garbage => Ok(()),
    }
}

/// Says that it is alive, again and again.
async fn alive(writer: &mut (impl AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    loop {
        writer.write_all(&message(4, &[])).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// An UPDATE with a thousand prefixes.
fn full_update(number: usize) -> Vec<u8> {
    // ORIGIN, AS_PATH of two numbers of two bytes, NEXT_HOP.
    let attributes = [
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 2, 0xfc, 0x9a, 0, 1, 0x40, 3, 4, 192, 0, 2, 66,
    ];
    let mut body = vec![0, 0, 0, attributes.len() as u8];
    body.extend(attributes);
    for low in 0..1000usize {
        let network = (number.wrapping_mul(1000) + low) as u32;
        let [_, a, b, c] = network.to_be_bytes();
        body.extend([24, a, b, c]);
    }
    message(2, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    let length = 19 + body.len();
    bytes.extend((length as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}
