//! Processes that a killed shim has left behind: finding them, and ending them.
//!
//! While a shim lives, everything that its task starts stays below it. When it is killed,
//! the kernel hands its children to the next subreaper above: the server, or init, or with
//! both of them killed whoever is above those. What belonged to which task is then told by
//! evidence, from certain to circumstantial; what has none is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::{Pid, getpid};
use sandbox_sys::PidFd;
use task_shim::proc::{self, Stat};
use task_shim::record::{Identity, RunRecord};

use crate::runtime::Settings;

/// How long one call waits for what it has killed: longer than a healthy kernel takes.
const WAIT: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(2);

/// Kills the orphans of the task whose directory is `dir`. Returns how many are left: those
/// that are stuck in the kernel, or were born meanwhile. Call again until it is none.
pub(crate) fn end(settings: &Settings, dir: &Path, run: Option<&RunRecord>) -> usize {
    let until = Instant::now() + WAIT;
    loop {
        let found = find(settings, dir, run);
        for (pid, stat) in &found {
            kill(*pid, *stat);
        }
        // What was re-parented to this process would stay a zombie, and be found, for ever.
        while let Ok(Some(_)) = sandbox_sys::reap_any() {}
        if found.is_empty() || Instant::now() >= until {
            return found.len();
        }
        std::thread::sleep(PAUSE);
    }
}

/// Kills one process, unless its pid has become another one since it was looked at.
fn kill(pid: Pid, seen: Stat) {
    let Ok(fd) = PidFd::open(pid) else { return };
    if proc::stat(pid).is_some_and(|now| now.start_ticks == seen.start_ticks)
        && let Err(error) = fd.signal(libc::SIGKILL)
    {
        tracing::debug!(%pid, %error, "orphan.not_killed");
    }
}

fn find(settings: &Settings, dir: &Path, run: Option<&RunRecord>) -> Vec<(Pid, Stat)> {
    let leader = run.map(|run| &run.leader);
    if leader.is_some_and(|leader| !settings.scope.covers(leader)) {
        // Another boot or PID namespace: all of it ended with that.
        return Vec::new();
    }
    let all: Vec<_> = proc::processes()
        .into_iter()
        .filter(|(_, stat)| !stat.is_dead())
        .filter(|(_, stat)| leader.is_none_or(|l| stat.start_ticks >= l.start_ticks))
        .filter(|(pid, _)| *pid != getpid() && !is_shim(*pid))
        .collect();
    let mut ours: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, stat)| is_evident(settings, dir, leader, *pid, *stat))
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

fn is_evident(
    settings: &Settings,
    dir: &Path,
    leader: Option<&Identity>,
    pid: Pid,
    stat: Stat,
) -> bool {
    if let Some(leader) = leader {
        if pid.as_raw() == leader.pid {
            return stat.start_ticks == leader.start_ticks;
        }
        // A session's number is not given to anything else while the session has members.
        if stat.session == leader.pid {
            return true;
        }
    }
    match open_task_dirs(pid, dir) {
        OpenDirs::This => true,
        OpenDirs::Another => false,
        // Only descendants of a killed shim are ever handed to the server, and to init
        // unless it is PID 1, which is handed everybody's.
        OpenDirs::None if leader.is_none() => false,
        OpenDirs::None => {
            stat.parent == getpid().as_raw()
                || settings
                    .init
                    .is_some_and(|init| init.as_raw() > 1 && stat.parent == init.as_raw())
        }
    }
}

/// Whether a process is a shim: by its name, and by the program that it runs, since a name
/// can be given to anything.
fn is_shim(pid: Pid) -> bool {
    let program = |of: &str| fs::read_link(format!("/proc/{of}/exe")).ok();
    let named = fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|b| *b == 0).next() == Some(task_shim::SHIM_ROLE.as_bytes()));
    named && program(&pid.to_string()) == program("self")
}

enum OpenDirs {
    This,
    Another,
    None,
}

/// Whether a process has files of this task's directory open (its output, most likely), or
/// of another task's.
fn open_task_dirs(pid: Pid, dir: &Path) -> OpenDirs {
    let (Ok(open), Some(root)) = (fs::read_dir(format!("/proc/{pid}/fd")), dir.parent()) else {
        return OpenDirs::None;
    };
    let mut found = OpenDirs::None;
    for target in open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()) {
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
