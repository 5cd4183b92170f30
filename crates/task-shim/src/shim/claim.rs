//! How a shim begins: with the lock of its task, if the task is still to be run by it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::lock::Lock;
use crate::record;

/// How long a shim tries to get the lock of its task: an inspection never holds it, so
/// whoever has it for longer is another shim of the same task, and that one goes on.
const LOCK_TRIES: u32 = 20;

pub(super) fn is_started(dir: &OwnedFd) -> bool {
    record::exists(dir, record::RUN_FILE) || record::exists(dir, record::EXIT_FILE)
}

/// Whether the directory is still where tasks are, and still this task's. Asked with the
/// lock held, which whoever removes a task holds as well.
pub(super) fn is_wanted(dir: &OwnedFd, uid: &str) -> bool {
    let start = openat(
        dir,
        "task.json",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    )
    .map_err(io::Error::from)
    .and_then(|file| {
        let mut start = [0; 256];
        let length = File::from(file).read(&mut start)?;
        Ok(start[..length].to_vec())
    });
    let ours = format!("\n{uid} ").into_bytes();
    record::exists(dir, "../.agent")
        && start.is_ok_and(|start| start.windows(ours.len()).any(|part| part == ours))
}

pub(super) fn take_lock(dir: &OwnedFd) -> io::Result<Option<Lock>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = Lock::take(dir)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(None)
}
