//! One group, found by its directory: who is in it, ending them all, removing it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{AccessFlags, Pid, access, getpid};
use sandbox_sys::PidFd;

use super::put;

/// The file that lists members, and takes new ones.
pub(super) const PROCS: &str = "cgroup.procs";

/// Passes over the members in one sweep, as in [`crate::tree`].
const PASSES: u32 = 16;
/// Processes that are signalled at once: as many descriptors are open meanwhile.
const BATCH: usize = 128;
/// A group can still count a process that was just reaped, so removing it is tried more than once.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// Processes in a group itself. One of another PID namespace has no number here, and is left out.
pub(super) fn direct_members(dir: &Path) -> Vec<Pid> {
    let list = fs::read_to_string(dir.join(PROCS)).unwrap_or_default();
    list.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .map(Pid::from_raw)
        .collect()
}

/// Processes in a group and in all groups below it.
pub fn members(dir: &Path) -> Vec<Pid> {
    let mut found = direct_members(dir);
    for child in children(dir) {
        found.extend(members(&child));
    }
    found
}

/// Whether processes can be put into a group, as far as can be told without trying.
pub fn check_joinable(dir: &Path) -> io::Result<()> {
    access(&dir.join(PROCS), AccessFlags::W_OK)?;
    // v2: only the root may do both. There is no such file on v1.
    let passed_on = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    if !passed_on.trim().is_empty() && dir.join("cgroup.type").exists() {
        return Err(io::Error::other(
            "it passes limits on to groups below, so it can't hold processes",
        ));
    }
    Ok(())
}

/// Directories in a directory, which are the groups in a group.
pub fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills everything in a group and below it. What can't die at once or was born meanwhile
/// is left for the next call: the caller repeats until the group can be removed.
pub fn kill(dir: &Path) {
    // v2 since Linux 5.14: the kernel sees to it that nothing is born meanwhile.
    if put(&dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for _ in 0..PASSES {
        let found = members(dir);
        if found.iter().filter(|pid| **pid != getpid()).count() == 0 {
            return;
        }
        found.chunks(BATCH).for_each(|batch| kill_batch(dir, batch));
    }
}

/// Kills those of `batch` that are members still after their pidfd was opened: one that got
/// a member's pid since can't be meant by the pidfd.
fn kill_batch(dir: &Path, batch: &[Pid]) {
    let open = |pid: &Pid| Some((*pid, PidFd::open(*pid).ok()?));
    let opened: Vec<_> = batch.iter().filter_map(open).collect();
    let still = members(dir);
    for (pid, fd) in opened {
        if pid != getpid() && still.contains(&pid) {
            // It may have ended by itself.
            let _ = fd.signal(libc::SIGKILL);
        }
    }
}

/// Removes a group and those below it. False when something is in there still; a group that
/// does not exist is gone already.
pub fn remove(dir: &Path) -> io::Result<bool> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => return Ok(true),
            Some(Errno::EBUSY) => {}
            _ => return Err(error),
        },
    }
    let children = children(dir);
    if children.is_empty() {
        return Ok(false);
    }
    for child in children {
        if !remove(&child)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes groups whose processes have all ended. False when one of them could not be removed.
pub fn remove_all(dirs: &[String]) -> bool {
    dirs.iter().all(|dir| {
        (0..REMOVE_TRIES).any(|_| {
            let gone = remove(Path::new(dir)).unwrap_or(false);
            if !gone {
                std::thread::sleep(REMOVE_PAUSE);
            }
            gone
        })
    })
}

/// How many processes the kernel has killed for want of memory, from `memory.events` (v2)
/// or `memory.oom_control` (v1): both have a line `oom_kill N`.
pub fn oom_kills(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}
