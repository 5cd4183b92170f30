//! Processes that a killed shim has left behind: finding them, and ending them.
//!
//! While a shim lives, everything that its task starts stays below it. When it is killed,
//! the kernel hands its children to the next subreaper above: the launcher, or with that
//! killed the server, or init, or whoever is above those. What belonged to which task is
//! then told by evidence, from certain to circumstantial; what has none is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::proc::{self, Scope, Stat};
use crate::record::Identity;
use crate::relay;
use nix::libc;
use nix::unistd::{Pid, getpid};
use sandbox_sys::PidFd;

/// How long one call waits for what it has killed: longer than a healthy kernel takes.
const WAIT: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(2);
/// How often a shim that has lost its command looks for it, with a wait each.
const ROUNDS: u32 = 20;

/// Whose orphans are searched for, and where.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    /// Boot and PID namespace of now.
    pub(crate) scope: &'a Scope,
    /// The task's directory.
    pub(crate) dir: &'a Path,
    /// The task's first process, if its run record could be read.
    pub(crate) leader: Option<&'a Identity>,
    /// Processes to which only descendants of killed shims are ever handed.
    pub(crate) reapers: &'a [Pid],
}

/// Kills the orphans of a task. Returns how many are left: those that are stuck in the
/// kernel, or were born meanwhile. Call again until it is none.
pub(crate) fn end(search: &Search<'_>) -> usize {
    let until = Instant::now() + WAIT;
    loop {
        let found = find(search);
        for (pid, stat) in &found {
            // A relay ends with the last process below it. Killed before, it would let them loose.
            let signal = if is_relay(*pid) {
                libc::SIGCONT
            } else {
                libc::SIGKILL
            };
            send(*pid, *stat, signal);
        }
        // What was re-parented to this process would stay a zombie, and be found, for ever.
        while let Ok(Some(_)) = sandbox_sys::reap_any() {}
        if found.is_empty() || Instant::now() >= until {
            return found.len();
        }
        std::thread::sleep(PAUSE);
    }
}

/// Tries to end what the command of a live shim has left where the shim can't reach it.
pub(crate) fn end_of(dir: &OwnedFd, scope: &Scope, leader: Option<&Identity>) -> io::Result<()> {
    let dir = path_of(dir)?;
    let search = Search {
        scope,
        dir: &dir,
        leader,
        reapers: &[],
    };
    for _ in 0..ROUNDS {
        if end(&search) == 0 {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Where a directory is now.
pub(crate) fn path_of(dir: &OwnedFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// Signals one process, unless its pid has become another one since it was looked at.
fn send(pid: Pid, seen: Stat, signal: i32) {
    let Ok(fd) = PidFd::open(pid) else { return };
    if proc::stat(pid).is_some_and(|now| now.start_ticks == seen.start_ticks) {
        // One that has just ended is as good; one that may not be killed is found again.
        let _ = fd.signal(signal);
    }
}

fn find(search: &Search<'_>) -> Vec<(Pid, Stat)> {
    let leader = search.leader;
    if leader.is_some_and(|leader| !search.scope.covers(leader)) {
        // Another boot or PID namespace: all of it ended with that.
        return Vec::new();
    }
    let all: Vec<_> = proc::processes()
        .into_iter()
        .filter(|(_, stat)| !stat.is_dead())
        // The one relay that may be older is the leader's parent.
        .filter(|(pid, stat)| {
            leader.is_none_or(|l| stat.start_ticks >= l.start_ticks) || is_relay(*pid)
        })
        .filter(|(pid, stat)| {
            // The leader is a copy of its shim until it becomes another program.
            let is_leader =
                leader.is_some_and(|l| l.pid == pid.as_raw() && l.start_ticks == stat.start_ticks);
            is_leader || (*pid != getpid() && !is_own(*pid))
        })
        .collect();
    let mut ours: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, stat)| is_evident(search, *pid, *stat))
        .map(|(pid, _)| pid.as_raw())
        .collect();
    // Whatever descends from those.
    loop {
        let before = ours.len();
        for (pid, stat) in &all {
            if ours.contains(&stat.parent) {
                ours.insert(pid.as_raw());
            }
        }
        if ours.len() == before {
            break;
        }
    }
    all.into_iter()
        .filter(|(pid, _)| ours.contains(&pid.as_raw()))
        .collect()
}

fn is_evident(search: &Search<'_>, pid: Pid, stat: Stat) -> bool {
    if let Some(leader) = search.leader {
        if pid.as_raw() == leader.pid {
            return stat.start_ticks == leader.start_ticks;
        }
        // A session's number is not given to anything else while the session has members.
        if stat.session == leader.pid {
            return true;
        }
    }
    match open_task_dirs(pid, search.dir) {
        OpenDirs::This => true,
        OpenDirs::Another => false,
        OpenDirs::None => {
            let parent = Pid::from_raw(stat.parent);
            search.leader.is_some() && search.reapers.contains(&parent)
        }
    }
}

/// Whether a process is one of the agent's own: it runs the agent's program, under one of
/// the names of its roles. A name alone can be given to anything.
fn is_own(pid: Pid) -> bool {
    let of_a_task = |name: &str| [crate::spawn::STARTING, relay::NAME].contains(&name);
    has_own_role(pid) && !name(pid).is_some_and(|name| of_a_task(&name))
}

/// Whether a process is a relay of the agent's.
fn is_relay(pid: Pid) -> bool {
    name(pid).is_some_and(|name| name == relay::NAME) && has_own_role(pid)
}

fn name(pid: Pid) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

fn has_own_role(pid: Pid) -> bool {
    let program = |of: &str| fs::read_link(format!("/proc/{of}/exe")).ok();
    let is_ours = |found: &Path| {
        // The launcher, and with it this process, may have been started from a copy.
        let of_server = std::env::args_os().nth(1);
        program("self").is_some_and(|own| own == found)
            || of_server.is_some_and(|own| own == *found)
    };
    let role = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let role = line.split(|b| *b == 0).next().unwrap_or_default();
        [crate::SHIM_ROLE, crate::SERVER_ROLE]
            .iter()
            .any(|name| name.as_bytes() == role)
    });
    role && program(&pid.to_string()).is_some_and(|found| is_ours(&found))
}

/// The data directory of a task's directory, which is a level deeper when it was set aside.
fn root(dir: &Path) -> Option<&Path> {
    let above = dir.parent()?;
    if above.ends_with(crate::ASIDE_DIR) {
        above.parent()
    } else {
        Some(above)
    }
}

enum OpenDirs {
    This,
    Another,
    None,
}

/// Whether a process has files of this task's directory open (its output, most likely), or
/// of another task's.
fn open_task_dirs(pid: Pid, dir: &Path) -> OpenDirs {
    let (Ok(open), Some(root)) = (fs::read_dir(format!("/proc/{pid}/fd")), root(dir)) else {
        return OpenDirs::None;
    };
    let mut found = OpenDirs::None;
    for target in open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()) {
        // It may be a log of the task that had this directory before: no evidence at all.
        if target.as_os_str().as_bytes().ends_with(b" (deleted)") {
            continue;
        }
        if target.starts_with(dir) {
            return OpenDirs::This;
        }
        let below = target.strip_prefix(root).ok();
        if below.is_some_and(|p| !p.as_os_str().as_bytes().starts_with(b".")) {
            found = OpenDirs::Another;
        }
    }
    found
}
