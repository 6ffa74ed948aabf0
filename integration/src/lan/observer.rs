//! A host that watches who says where addresses are.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frames::{self, Naming};
use super::judge::{self, HeardNaming};
use crate::lab::{Host, PacketSocket};
use crate::wait;

/// How often an address is asked for: so precisely it is known when an answer began and ended.
pub const ASKED_EVERY: Duration = Duration::from_millis(20);

/// What a frame says of where an address is.
type FrameReader = fn(&[u8]) -> Option<Naming>;

/// The addresses of the host that asks.
#[derive(Clone, Copy, Debug)]
pub struct AskerAddresses {
    /// Its hardware address.
    pub hardware: [u8; 6],
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// Takes down who says where addresses are, and asks for some of them again and again, past the host's own cache. Not on
/// the host of a client whose outage is measured: the answers would refresh its cache, which a true client's would not be.
#[derive(Debug)]
pub struct LanObserver {
    heard: Arc<Mutex<Vec<HeardNaming>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl LanObserver {
    /// Only listens.
    pub fn listen(host: &Host, interface: &'static str) -> Result<Self> {
        Self::start(host, interface, (Vec::new(), ASKED_EVERY), frames::naming)
    }

    /// Listens, and asks for the addresses once `every` so often: [`ASKED_EVERY`], or less often for very many.
    pub fn ask(
        host: &Host,
        interface: &'static str,
        from: AskerAddresses,
        addresses: &[IpAddr],
        every: Duration,
    ) -> Result<Self> {
        let questions = (questions(from, addresses), every);
        Self::start(host, interface, questions, frames::naming)
    }

    /// The same on the host of a client, whose cache follows the answers: who takes its connections is taken down, too.
    pub fn capture(
        host: &Host,
        interface: &'static str,
        from: AskerAddresses,
        addresses: &[IpAddr],
    ) -> Result<Self> {
        let questions = (questions(from, addresses), ASKED_EVERY);
        Self::start(host, interface, questions, |frame| {
            frames::naming(frame).or_else(|| frames::accepting(frame))
        })
    }

    fn start(
        host: &Host,
        interface: &'static str,
        (questions, every): (Vec<Vec<u8>>, Duration),
        read: FrameReader,
    ) -> Result<Self> {
        let socket = host
            .run(|| PacketSocket::open(interface))
            .with_context(|| format!("a packet socket on {interface} of {}", host.name()))?;
        let heard = Arc::<Mutex<Vec<HeardNaming>>>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (notes, stopped) = (heard.clone(), stop.clone());
        // A socket stays in the host where it was made.
        let thread = thread::Builder::new()
            .name(format!("observer on {}", host.name()))
            .spawn(move || observe((&socket, read), (&questions, every), &notes, &stopped))?;
        Ok(Self {
            heard,
            stop,
            thread: Some(thread),
        })
    }

    /// What it has heard until now.
    pub fn heard(&self) -> Vec<HeardNaming> {
        locked(&self.heard).clone()
    }

    /// What it has heard since then.
    pub fn heard_since(&self, from: Instant) -> Vec<HeardNaming> {
        let heard = locked(&self.heard);
        heard.iter().filter(|it| it.at >= from).copied().collect()
    }

    /// Forgets what it has heard.
    pub fn forget(&self) {
        locked(&self.heard).clear();
    }

    /// Ends it; what it has heard.
    pub fn finish(mut self) -> Result<Vec<HeardNaming>> {
        self.end()?;
        Ok(self.heard())
    }

    /// Waits until each of these addresses has had one owner, and no other one, for `span`; who they are.
    pub fn settled(
        &self,
        addresses: &[IpAddr],
        span: Duration,
    ) -> Result<BTreeMap<IpAddr, [u8; 6]>> {
        wait::until_some("each address has one owner", || {
            let now = Instant::now();
            let since = now
                .checked_sub(span)
                .context("the machine has just started")?;
            let heard = self.heard_since(since);
            let mut of_each: BTreeMap<IpAddr, Vec<HeardNaming>> = BTreeMap::new();
            for it in heard {
                of_each.entry(it.naming.address).or_default().push(it);
            }
            let mut owners = BTreeMap::new();
            for address in addresses {
                let heard = of_each.get(address).map_or(&[][..], Vec::as_slice);
                let silence = judge::longest_silence(heard, *address, (since, now));
                let spans = judge::spans(heard, *address);
                let owner = match &spans[..] {
                    [one] => Ok(one.hardware),
                    [] => Err(anyhow!("nobody has {address}")),
                    more => Err(anyhow!("{address} has several: {more:?}")),
                }?;
                anyhow::ensure!(silence < span / 2, "{address}: nobody for {silence:?}");
                owners.insert(*address, owner);
            }
            Ok(owners)
        })
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => Ok(outcome?),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for LanObserver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked(heard: &Mutex<Vec<HeardNaming>>) -> MutexGuard<'_, Vec<HeardNaming>> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn questions(from: AskerAddresses, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let question = |address: &IpAddr| match address {
        IpAddr::V4(v4) => frames::arp_request((from.hardware, from.v4), *v4),
        IpAddr::V6(v6) => frames::solicitation((from.hardware, from.v6), *v6),
    };
    addresses.iter().map(question).collect()
}

fn observe(
    (socket, read): (&PacketSocket, FrameReader),
    (questions, every): (&[Vec<u8>], Duration),
    heard: &Mutex<Vec<HeardNaming>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; 2048];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            for question in questions {
                match socket.send(question) {
                    // A wire that is pulled, or full, is a part of what is looked at.
                    Err(error) if !is_the_wires(&error) => return Err(error),
                    _ => {}
                }
            }
            next = (next + every).max(now);
        }
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            match socket.receive(&mut buffer) {
                Ok(Some((frame, at))) => {
                    let naming = read(frame);
                    locked(heard).extend(naming.map(|naming| HeardNaming { at, naming }));
                }
                Ok(None) => break,
                Err(error) if is_the_wires(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn is_the_wires(error: &io::Error) -> bool {
    use io::ErrorKind;
    let kinds = [ErrorKind::NetworkDown, ErrorKind::WouldBlock];
    kinds.contains(&error.kind())
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
