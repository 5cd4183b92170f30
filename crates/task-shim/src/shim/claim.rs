//! How a shim begins: with the lock of its task, if the task is still to be run by it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use crate::lock::{Lock, TASK_FILE};
use crate::record;

/// How long a shim tries to get the lock of its task: an inspection never holds it, so
/// whoever has it for longer is another shim of the same task, and that one goes on.
const LOCK_TRIES: u32 = 20;

pub(super) fn is_started(dir: &OwnedFd) -> bool {
    record::exists(dir, record::RUN_FILE) || record::exists(dir, record::EXIT_FILE)
}

/// Whether the directory is still where tasks are, and still this task's. Asked with the
/// lock held, which whoever removes a task holds as well.
pub(super) fn is_wanted(lock: &Lock, dir: &OwnedFd, uid: &str) -> bool {
    // Read through the lock's own descriptor: closing another one would drop the lock.
    let mut start = [0; 256];
    let length = lock.file().read_at(&mut start, 0).unwrap_or_default();
    let ours = format!("\n{uid} ").into_bytes();
    record::exists(dir, "../.agent") && start[..length].windows(ours.len()).any(|p| p == ours)
}

pub(super) fn take_lock(dir: &OwnedFd) -> io::Result<Option<Lock>> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = Lock::take(dir, TASK_FILE)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(None)
}
