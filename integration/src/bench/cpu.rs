//! Processor time and memory, of the machine and of processes.

use std::fs;

use anyhow::{Context, Result};

/// Ticks a second in `/proc/stat` (time(7)).
const USER_HZ: f64 = 100.0;

/// Seconds that the machine's processors have worked, all of them together: for user programs, for
/// the kernel, and for interrupts (proc_stat(5)).
pub fn machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user, nice, system; then idle and iowait; irq and softirq.
    let worked = [0, 1, 2, 5, 6].map(|n| fields.get(n).copied().unwrap_or_default());
    Ok(worked.iter().sum::<f64>() / USER_HZ)
}

/// The process and its children.
fn family(process: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    let mut all = vec![process];
    for child in children.split_whitespace() {
        all.push(child.parse()?);
    }
    Ok(all)
}

/// Seconds that a process and its children have worked, in user programs and in the kernel on
/// their behalf.
pub fn of(process: u32) -> Result<f64> {
    let mut sum = 0.0;
    for process in family(process)? {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // Behind the name: state is field 3, utime 14, stime 15 (proc_pid_stat(5)).
        let fields = stat.rsplit_once(") ").context("no name")?.1;
        for field in [14, 15] {
            let text = fields.split(' ').nth(field - 3).context("too short")?;
            sum += text.parse::<f64>()?;
        }
    }
    Ok(sum / USER_HZ)
}

/// Kilobytes (1,024 bytes) of private memory of a process and its children.
pub fn memory(process: u32) -> Result<u64> {
    let mut sum = 0;
    for process in family(process)? {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        for name in ["Private_Clean:", "Private_Dirty:"] {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let text = line.context("no such line")?.trim().trim_end_matches(" kB");
            sum += text.parse::<u64>()?;
        }
    }
    Ok(sum)
}
