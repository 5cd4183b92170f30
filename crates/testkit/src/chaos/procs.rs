//! The processes of one round, known by a variable in their environment that nobody else has.

use nix::unistd::Pid;
use sandbox_sys::PidFd;
use task_shim::proc;

use super::work::RUN;

/// The environment variable that every process of a round inherits.
pub(super) const ROUND: &str = "CHAOS_ROUND";

/// A live process of a round.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) pid: Pid,
    /// The run that it belongs to; none for init, server and shims.
    pub(super) run: Option<String>,
    /// Its command line, for people.
    pub(super) line: String,
}

/// All live processes that carry the tag of a round.
pub(super) fn of_round(tag: &str) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| tagged(Pid::from_raw(pid), tag))
        .collect()
}

/// The process, if it is alive and carries the tag.
pub(super) fn tagged(pid: Pid, tag: &str) -> Option<Process> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut ours = false;
    let mut run = None;
    for entry in environment.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(entry) else {
            continue;
        };
        match text.split_once('=') {
            Some((ROUND, value)) => ours = value == tag,
            Some((RUN, value)) => run = Some(value.to_owned()),
            _ => {}
        }
    }
    if !ours || proc::stat(pid).is_none_or(|stat| stat.is_dead()) {
        return None;
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    Some(Process { pid, run, line })
}

/// Kills a process of this round. The tag is read after the pidfd was opened, so that a
/// pid that now means another process is never hit.
pub(super) fn kill(pid: Pid, tag: &str) -> bool {
    PidFd::open(pid)
        .is_ok_and(|fd| tagged(pid, tag).is_some() && fd.signal(nix::libc::SIGKILL).is_ok())
}

/// Children that have ended and were not reaped.
pub(super) fn zombies_of(parent: Pid) -> Vec<Pid> {
    proc::processes()
        .into_iter()
        .filter(|(_, stat)| stat.parent == parent.as_raw() && stat.is_dead())
        .map(|(pid, _)| pid)
        .collect()
}

/// Number of open descriptors; `None` when the process is gone.
pub(super) fn descriptors(pid: Pid) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Where open descriptors lead, for people.
pub(super) fn describe_descriptors(pid: Pid) -> String {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return String::new();
    };
    let mut targets: Vec<_> = entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    targets.sort();
    targets.join(" ")
}
