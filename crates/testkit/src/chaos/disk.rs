//! A small disk of its own for a round, to be filled and emptied again.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Puts this process into a mount namespace of its own, so that whatever is mounted goes
/// with it. An error when this is not allowed: then there is no full disk.
pub(super) fn isolate_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// A mounted tmpfs of few pages.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Mounts it on a directory.
    pub(super) fn mount(root: &Path) -> nix::Result<Self> {
        let (kind, options) = (Some("tmpfs"), Some("size=2m"));
        mount(Some("chaos"), root, kind, MsFlags::empty(), options)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn ballast(&self) -> PathBuf {
        self.root.join("ballast")
    }

    /// Fills it to the last page.
    pub(super) fn fill(&self) -> io::Result<()> {
        let mut file = File::create(self.ballast())?;
        loop {
            match file.write_all(&[1; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room again.
    pub(super) fn free(&self) -> io::Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The namespace of this program takes it along at the latest.
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}
