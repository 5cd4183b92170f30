//! What processes use, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::Pid;

use crate::stats::float;

/// Memory of one or several processes, in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss: f64,
    pub(crate) pss: f64,
    pub(crate) private_dirty: f64,
}

/// Memory of all of `pids` together, from `/proc/PID/smaps_rollup`.
pub(crate) fn memory(pids: &[Pid]) -> anyhow::Result<Memory> {
    let mut sum = Memory::default();
    for pid in pids {
        let text = read(*pid, "smaps_rollup")?;
        sum.rss += kib(&text, "Rss:")?;
        sum.pss += kib(&text, "Pss:")?;
        sum.private_dirty += kib(&text, "Private_Dirty:")?;
    }
    Ok(sum)
}

/// The largest resident size that a process ever had, in KiB.
pub(crate) fn peak(pid: Pid) -> anyhow::Result<f64> {
    kib(&read(pid, "status")?, "VmHWM:")
}

/// What the threads of some processes have done since they began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Activity {
    pub(crate) threads: u32,
    /// Processor time.
    pub(crate) cpu: Duration,
    /// Times that a thread was put on a processor after it had left one.
    pub(crate) switches: u64,
}

/// Activity of all of `pids` together.
pub(crate) fn activity(pids: &[Pid]) -> anyhow::Result<Activity> {
    let mut sum = Activity::default();
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            let status = fs::read_to_string(thread.join("status"))?;
            let schedule = fs::read_to_string(thread.join("schedstat"))?;
            let running = schedule.split(' ').next().context("empty schedstat")?;
            sum.threads += 1;
            sum.cpu += Duration::from_nanos(running.parse()?);
            for kind in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
                sum.switches += value(&status, kind)?.parse::<u64>()?;
            }
        }
    }
    Ok(sum)
}

impl Activity {
    /// What was done since `earlier`; the number of threads is the one of now.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            threads: self.threads,
            cpu: self.cpu.saturating_sub(earlier.cpu),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// Processor time that this program itself has used.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_secs(value.tv_sec().try_into().unwrap_or(0))
            + Duration::from_micros(value.tv_usec().try_into().unwrap_or(0))
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

fn read(pid: Pid, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

fn value<'a>(text: &'a str, key: &str) -> anyhow::Result<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::trim)
        .with_context(|| format!("no {key}"))
}

fn kib(text: &str, key: &str) -> anyhow::Result<f64> {
    let number = value(text, key)?.trim_end_matches(" kB").parse::<u32>()?;
    Ok(float(number))
}
