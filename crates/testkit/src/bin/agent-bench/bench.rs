//! What all figures share: the programs, the number of runs, and how an agent is started.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use testkit::agent::{Agent, Setup};

/// One invocation of the benchmark.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    /// The agent under test.
    pub(crate) agent: PathBuf,
    /// `bench-task`.
    pub(crate) helper: String,
    /// Runs per figure.
    pub(crate) runs: usize,
    /// Few samples, for trying things out.
    pub(crate) quick: bool,
    /// Cores of this machine.
    pub(crate) cores: usize,
    /// Where data directories are made.
    pub(crate) place: PathBuf,
}

impl Bench {
    /// The agent as it is measured: defaults, but for a quiet log.
    pub(crate) fn setup(&self) -> Setup {
        Setup::new(&self.agent)
            .flag("--log-level=warn")
            .place(&self.place)
    }

    /// A number of samples, a tenth of it for a quick look.
    pub(crate) fn samples(&self, full: usize) -> usize {
        if self.quick { (full / 10).max(2) } else { full }
    }

    /// A time to measure for, a fifth of it for a quick look.
    pub(crate) fn seconds(&self, full: u32) -> Duration {
        let seconds = Duration::from_secs(full.into());
        if self.quick { seconds / 5 } else { seconds }
    }

    /// One value per run.
    pub(crate) fn each_run<T>(
        &self,
        mut run: impl FnMut(usize) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        (0..self.runs).map(&mut run).collect()
    }
}

/// The processes of an agent without tasks.
pub(crate) fn processes(agent: &Agent) -> [Pid; 3] {
    [agent.init(), agent.server(), agent.launcher()]
}

/// The time that a task prints, on the same clock.
pub(crate) fn now() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

/// What `bench-task` has printed.
pub(crate) fn stamp(text: &str) -> anyhow::Result<Duration> {
    let nanoseconds = text
        .trim()
        .parse()
        .with_context(|| format!("the task printed {text:?}"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// From `from` to `to` in milliseconds, negative when it is the other way round.
pub(crate) fn milliseconds(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) * 1e3
}
