//! Limits as the kernel's files take them.

use std::io;
use std::path::Path;

use super::{Controller, Unavailable, Version, put};

/// What a task may use at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU time per second, in thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Limits {
    /// The limit of one controller.
    pub fn of(&self, controller: Controller) -> Option<u64> {
        match controller {
            Controller::Cpu => self.cpu_millis,
            Controller::Memory => self.memory_bytes,
            Controller::Pids => self.pids,
        }
    }
}

/// Whether a kernel may lack a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Always,
    /// Swap can be left out of a kernel, or out of its accounting; then there is nothing to limit.
    IfThere,
}

/// The kernel's longest period is a second and its shortest quota a millisecond (sched-bwc).
const PERIOD_US: u64 = 100_000;
const PERIOD_US_LONG: u64 = 1_000_000;
/// More processes than 64-bit Linux can have (`PID_MAX_LIMIT`); its file takes no larger number.
const PIDS_MAX: u64 = 4 * 1024 * 1024;

/// Writes one limit into a group's files.
pub(super) fn set(
    version: Version,
    dir: &Path,
    controller: Controller,
    value: u64,
) -> Result<(), Unavailable> {
    for (name, text, need) in files(version, controller, value) {
        let path = dir.join(name);
        match put(&path, &text) {
            Err(error) if need == Need::IfThere && error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(|error| Unavailable::system(&path, &error))?,
        }
    }
    Ok(())
}

/// What to write, in this order.
fn files(
    version: Version,
    controller: Controller,
    value: u64,
) -> Vec<(&'static str, String, Need)> {
    let always = |name, text| (name, text, Need::Always);
    match (controller, version) {
        (Controller::Cpu, version) => {
            // Below a hundredth of a CPU the usual period would make the quota too short.
            let period = if value < 10 {
                PERIOD_US_LONG
            } else {
                PERIOD_US
            };
            let quota = value.saturating_mul(period / 1000);
            match version {
                Version::V1 => vec![
                    always("cpu.cfs_period_us", period.to_string()),
                    always("cpu.cfs_quota_us", quota.to_string()),
                ],
                Version::V2 => vec![always("cpu.max", format!("{quota} {period}"))],
            }
        }
        (Controller::Memory, Version::V1) => vec![
            always("memory.limit_in_bytes", value.to_string()),
            // Memory and swap together: no swap on top.
            (
                "memory.memsw.limit_in_bytes",
                value.to_string(),
                Need::IfThere,
            ),
        ],
        (Controller::Memory, Version::V2) => vec![
            always("memory.max", value.to_string()),
            ("memory.swap.max", "0".to_owned(), Need::IfThere),
        ],
        (Controller::Pids, _) => {
            let text = if value < PIDS_MAX {
                value.to_string()
            } else {
                "max".to_owned()
            };
            vec![always("pids.max", text)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: Version, controller: Controller, value: u64) -> String {
        let lines = files(version, controller, value)
            .into_iter()
            .map(|(name, text, _)| format!("{name}={text}"));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_limit_is_written_as_its_version_reads_it() {
        use Controller::{Cpu, Memory, Pids};
        use Version::{V1, V2};
        for (version, controller, value, expected) in [
            (
                V1,
                Cpu,
                500,
                "cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000",
            ),
            (
                V1,
                Cpu,
                1,
                "cpu.cfs_period_us=1000000 cpu.cfs_quota_us=1000",
            ),
            (V2, Cpu, 2500, "cpu.max=250000 100000"),
            (V2, Cpu, 9, "cpu.max=9000 1000000"),
            (
                V1,
                Memory,
                4096,
                "memory.limit_in_bytes=4096 memory.memsw.limit_in_bytes=4096",
            ),
            (V2, Memory, 4096, "memory.max=4096 memory.swap.max=0"),
            (V1, Pids, 7, "pids.max=7"),
            (V2, Pids, u64::MAX, "pids.max=max"),
        ] {
            assert_eq!(written(version, controller, value), expected);
        }
    }
}
