//! A seeded history of faults on a LAN, and how owners followed each other meanwhile, judged by a capture at a client that
//! asks for the addresses, and connects to them, all the time.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::announcers::Announcers;
use super::departure::EdgeDeparture;
use super::judge::{self, Overlap};
use super::network::{Lan, LanEdge};
use super::outage::{self, OutageFigures};
use super::prober::Prober;

/// So many edges have a fault at once, at the most: two others are well.
const AT_ONCE: usize = 2;

/// The shortest and the longest time between two events, in milliseconds.
const BETWEEN: (u64, u64) = (50, 1500);

/// How long each address must have had one owner, before and after.
const SETTLED: Duration = Duration::from_secs(1);

/// How often the client connects to each address.
pub const CONNECTS_EVERY: Duration = Duration::from_millis(50);

/// A fault of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LanFault {
    /// It departs in this way.
    Departs(EdgeDeparture),
    /// It hears nothing of the edge with that number, which hears it.
    Deaf(u8),
}

impl fmt::Display for LanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Departs(departure) => departure.fmt(f),
            Self::Deaf(to) => write!(f, "deaf to edge-{to}"),
        }
    }
}

/// Something that was done to the LAN.
#[derive(Clone, Debug)]
pub struct FaultEvent {
    /// When.
    pub at: Instant,
    /// What, and to whom.
    pub what: String,
}

/// What came of a history.
#[derive(Clone, Debug)]
pub struct FaultRecord {
    /// What was done, in order.
    pub events: Vec<FaultEvent>,
    /// The longest time that two hosts answered for one address at once, or took connections there.
    pub both: Option<Overlap>,
    /// The longest time that nobody answered for an address, and which.
    pub nobody: Option<(IpAddr, Duration)>,
    /// The longest outage of the client at one address.
    pub unserved: Duration,
    /// How many frames of the capture said who has an address, or who takes connections there.
    pub frames: usize,
    /// How many connections the client has tried.
    pub attempts: usize,
}

impl FaultRecord {
    /// The longest time that two answered at once.
    pub fn longest_overlap(&self) -> Duration {
        self.both.map_or(Duration::ZERO, |it| it.span())
    }

    /// The longest time that nobody answered.
    pub fn longest_silence(&self) -> Duration {
        self.nobody.map_or(Duration::ZERO, |(_, time)| time)
    }

    /// What was done, with the time since the first event.
    pub fn story(&self) -> String {
        let start = self.events.first().map(|it| it.at);
        let line = |it: &FaultEvent| {
            let since = start.map_or(Duration::ZERO, |start| it.at.duration_since(start));
            format!("{:.2} s: {}\n", since.as_secs_f64(), it.what)
        };
        self.events.iter().map(line).collect()
    }
}

/// A generator of numbers (SplitMix64).
struct FaultNumbers(u64);

impl FaultNumbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % (end.max(1) as u64)) as usize
    }
}

/// So many faults, one after another and two at a time, until all edges are well again and each address has one owner.
/// A Service is at that port of each address. There have to be four edges at least.
pub fn run(
    lan: &Lan,
    on: &mut dyn Announcers,
    (addresses, port): (&[IpAddr], u16),
    seed: u64,
    count: usize,
) -> Result<FaultRecord> {
    let capture = lan.capture(addresses)?;
    capture.settled(addresses, SETTLED)?;
    let connects = |address: &IpAddr| {
        let to = SocketAddr::new(*address, port);
        Ok((
            *address,
            Prober::start_every(&lan.client, to, CONNECTS_EVERY)?,
        ))
    };
    let probers: Vec<(IpAddr, Prober)> = addresses.iter().map(connects).collect::<Result<_>>()?;
    let from = Instant::now();
    let mut numbers = FaultNumbers(seed);
    let mut open: Vec<(&LanEdge, LanFault)> = Vec::new();
    let mut events = Vec::new();
    let mut note = |what: String| {
        eprintln!("  {what}");
        let at = Instant::now();
        events.push(FaultEvent { at, what });
    };
    let mut begun = 0;
    while begun < count || !open.is_empty() {
        let begins = begun < count && open.len() < AT_ONCE && numbers.below(2) == 0;
        if begins || (open.is_empty() && begun < count) {
            let well: Vec<&LanEdge> = lan
                .edges
                .iter()
                .filter(|edge| open.iter().all(|(it, _)| it.number != edge.number))
                .collect();
            let Some(edge) = well.get(numbers.below(well.len())).copied() else {
                continue;
            };
            let fault = draw(&mut numbers, lan, edge);
            note(format!("{}: {fault}", edge.name));
            begin(fault, lan, on, edge)?;
            open.push((edge, fault));
            begun += 1;
        } else if !open.is_empty() {
            let (edge, fault) = open.remove(0);
            note(format!("{}: no longer {fault}", edge.name));
            end(fault, lan, on, edge)?;
        }
        let (least, most) = BETWEEN;
        let more = numbers.below((most - least) as usize) as u64;
        thread::sleep(Duration::from_millis(least + more));
    }
    capture.settled(addresses, SETTLED)?;
    let until = Instant::now();
    let clients: Vec<(IpAddr, OutageFigures)> = probers
        .into_iter()
        .map(|(address, prober)| Ok((address, outage::figures(&prober.finish()?))))
        .collect::<Result<_>>()?;
    let heard = capture.finish()?;
    let silences = addresses
        .iter()
        .map(|it| (*it, judge::longest_silence(&heard, *it, (from, until))));
    Ok(FaultRecord {
        both: judge::overlaps(&heard)
            .into_iter()
            .max_by_key(Overlap::span),
        nobody: silences.max_by_key(|(_, time)| *time),
        unserved: clients
            .iter()
            .map(|(_, it)| it.outage)
            .max()
            .unwrap_or_default(),
        frames: heard.len(),
        attempts: clients.iter().map(|(_, it)| it.attempts).sum(),
        events,
    })
}

fn draw(numbers: &mut FaultNumbers, lan: &Lan, edge: &LanEdge) -> LanFault {
    let kinds = [
        EdgeDeparture::Killed,
        EdgeDeparture::Frozen,
        EdgeDeparture::Frozen,
        EdgeDeparture::Unplugged,
        EdgeDeparture::CutOff,
        EdgeDeparture::Asked,
    ];
    if let Some(kind) = kinds.get(numbers.below(kinds.len() + 1)) {
        return LanFault::Departs(*kind);
    }
    let others: Vec<u8> = lan.edges.iter().map(|it| it.number).collect();
    let others: Vec<u8> = others.into_iter().filter(|it| *it != edge.number).collect();
    let other = others.get(numbers.below(others.len()));
    other.map_or(LanFault::Departs(EdgeDeparture::Killed), |it| {
        LanFault::Deaf(*it)
    })
}

fn begin(fault: LanFault, lan: &Lan, on: &mut dyn Announcers, edge: &LanEdge) -> Result<()> {
    match fault {
        LanFault::Departs(departure) => departure.begin(lan, on, edge),
        LanFault::Deaf(to) => lan.deafen(edge, &[lan.edge(to)?]),
    }
}

fn end(fault: LanFault, lan: &Lan, on: &mut dyn Announcers, edge: &LanEdge) -> Result<()> {
    match fault {
        LanFault::Departs(departure) => departure.end(lan, on, edge),
        LanFault::Deaf(_) => lan.undeafen(edge),
    }
}
