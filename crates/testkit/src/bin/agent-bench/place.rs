//! A second place for data directories: in memory, so that the disk's part in a rate shows.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tempfile::TempDir;

/// Memory that every machine offers, where nothing can be mounted.
const SHARED_MEMORY: &str = "/dev/shm";

/// A directory on a tmpfs, gone with this value.
#[derive(Debug)]
pub(crate) struct Memory {
    dir: TempDir,
    mounted: bool,
}

impl Memory {
    /// Mounts one where that is allowed, else uses what is there; an error says why there is none.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        if mounted(dir.path()).is_ok() {
            return Ok(Self { dir, mounted: true });
        }
        let there = statfs(SHARED_MEMORY)?.filesystem_type() == TMPFS_MAGIC;
        anyhow::ensure!(there, "{SHARED_MEMORY} is no tmpfs");
        Ok(Self {
            dir: tempfile::tempdir_in(SHARED_MEMORY)?,
            mounted: false,
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

/// In a mount namespace of this program and its children, which takes it along at the latest.
fn mounted(dir: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("bench"), dir, Some("tmpfs"), MsFlags::empty(), none)
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mounted {
            // What is still in use is let go of with this program.
            let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
        }
    }
}
