//! Ending a whole process tree: every descendant of a process, wherever it hid.
//!
//! A shim is a subreaper (prctl(2) `PR_SET_CHILD_SUBREAPER`): whatever a task starts,
//! double forks and new sessions included, stays its descendant until it is gone.

use std::path::Path;

use nix::libc;
use nix::unistd::{Pid, getpid};
use sandbox_sys::PidFd;

use crate::cgroup::group;
use crate::proc;

/// Passes over the tree in one sweep. Each pass finds what was born since the last one;
/// a tree that still grows after so many is swept again by the caller's loop.
const PASSES: u32 = 16;

/// Sends a signal to every descendant of `root` once, but not to the `relays` between them:
/// these end with what is below them. Returns how many got it.
pub(crate) fn signal_descendants(root: Pid, signal: i32, relays: &[Pid]) -> usize {
    let mut reapers = vec![root, getpid()];
    reapers.extend(relays);
    proc::descendants(root)
        .into_iter()
        .filter(|(pid, _)| !relays.contains(pid))
        .filter(|(pid, parent)| signal_one(*pid, *parent, &reapers, signal))
        .count()
}

/// Signals a process through a pidfd, if it still is who it was: with the parent under
/// which it was seen, or handed to a reaper since.
fn signal_one(pid: Pid, parent: Pid, reapers: &[Pid], signal: i32) -> bool {
    let Ok(fd) = PidFd::open(pid) else {
        return false;
    };
    let Some(stat) = proc::stat(pid) else {
        return false;
    };
    let holder = Pid::from_raw(stat.parent);
    let expected = holder == parent || reapers.contains(&holder);
    !stat.is_dead() && expected && fd.signal(signal).is_ok()
}

/// Kills every descendant of `root` but the relays, and every member of the groups. What can't die at once (a process in the kernel) or
/// was born meanwhile is left for the next call: the caller repeats until nothing is left.
pub(crate) fn kill_descendants(root: Pid, relays: &[Pid], cgroups: &[String]) {
    for dir in cgroups {
        group::kill(Path::new(dir));
    }
    for relay in relays {
        // One that was stopped would not notice that nothing is left.
        let _ = nix::sys::signal::kill(*relay, nix::sys::signal::Signal::SIGCONT);
    }
    for _ in 0..PASSES {
        if signal_descendants(root, libc::SIGKILL, relays) == 0 {
            return;
        }
    }
}
