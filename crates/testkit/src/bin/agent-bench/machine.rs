//! The machine that was measured, without its name.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::sys::statfs::{self, FsType, statfs};

const FILE_SYSTEMS: [(FsType, &str); 5] = [
    (statfs::EXT4_SUPER_MAGIC, "ext4"),
    (statfs::XFS_SUPER_MAGIC, "xfs"),
    (statfs::BTRFS_SUPER_MAGIC, "btrfs"),
    (statfs::TMPFS_MAGIC, "tmpfs"),
    (statfs::OVERLAYFS_SUPER_MAGIC, "overlay"),
];

/// What matters of a machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    processor: String,
    kernel: String,
    file_system: String,
}

impl Machine {
    /// This one; `dir` is where data directories will be.
    pub(crate) fn here(dir: &Path) -> anyhow::Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let processor = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown processor", |(_, name)| name);
        // The kernel's own version; what a distribution appends may tell of the place.
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let kernel = release.trim().split('-').next().unwrap_or_default();
        let kind = statfs(dir)?.filesystem_type();
        let file_system = FILE_SYSTEMS
            .iter()
            .find_map(|(magic, name)| (*magic == kind).then_some(*name))
            .map_or_else(|| format!("{kind:?}"), str::to_owned);
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: processor.to_owned(),
            kernel: kernel.to_owned(),
            file_system,
        })
    }

    /// The file system of data directories.
    pub(crate) fn file_system(&self) -> &str {
        &self.file_system
    }

    /// The facts, a line each.
    pub(crate) fn facts(&self) -> Vec<String> {
        vec![
            format!("{} cores, {}", self.cores, self.processor),
            format!("Linux {}", self.kernel),
            format!("data directory on {}", self.file_system),
        ]
    }
}
