//! Machines that stand still. A gateway whose threads get no processor for 300 ms has no right to answer any more, and
//! others take its addresses: so it is to be, and tests of planned moves are not about that.
//!
//! That a test fails while the machine is busy is no evidence of that. Those threads of a gateway have a real-time
//! priority, so the thread that watches the machine has it, too: where that one is late, the gateways' were as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::clients;

/// How often it is looked whether the machine goes on.
const EVERY: Duration = Duration::from_millis(10);

/// Who is late by so much would have lost addresses, or nearly.
const LATE: Duration = Duration::from_millis(150);

/// How often a test is made at the most.
const ATTEMPTS: usize = 3;

/// Makes a test; once more where it fails and the machine had stood still meanwhile. What the last attempt says counts.
pub fn unless_the_machine_stands_still(test: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 1..ATTEMPTS {
        let watch = StandstillWatch::start();
        let outcome = test();
        let longest = watch.end();
        println!("a thread of the priority of a gateway's was late by {longest:?} at the most");
        match outcome {
            Err(error) if longest >= LATE => {
                eprintln!("the machine stood still for {longest:?}, so once more: {error:#}");
            }
            outcome => return outcome,
        }
    }
    test()
}

/// A thread that notes how late it is at the most.
struct StandstillWatch {
    is_over: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl StandstillWatch {
    fn start() -> Self {
        let (is_over, longest) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, noted) = (is_over.clone(), longest.clone());
        let thread = thread::spawn(move || {
            raise();
            while !ends.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(EVERY);
                let late = began.elapsed().saturating_sub(EVERY);
                noted.fetch_max(late.as_millis() as u64, Ordering::Relaxed);
            }
        });
        Self {
            is_over,
            longest,
            thread,
        }
    }

    /// How late it was at the most.
    fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }
}

/// The calling thread gets the priority that a gateway's threads have, where it may. Where it may not, they may not either.
fn raise() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    if let Err(error) = clients::output("chrt", &["--rr", "--pid", "1", &thread]) {
        println!("no real-time priority on this machine: {error:#}");
    }
}
