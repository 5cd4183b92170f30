//! The processes of one round, known by a variable in their environment that nobody else has.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Pid;
use sandbox_sys::PidFd;
use task_shim::proc;

use super::work::RUN;

/// The environment variable that every process of a round inherits.
pub(super) const ROUND: &str = "CHAOS_ROUND";

/// The variable of a main container, which no fault and no search is about. What runs in it
/// has the name of its run as well.
pub(super) const CONTAINER: &str = "CHAOS_CONTAINER";

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
    matching(&|found| found == tag)
}

/// Set when the campaign is being ended before its time: nothing may be started any more.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Whether agents may still be started.
pub(super) fn may_start() -> bool {
    !ENDING.load(Ordering::SeqCst)
}

/// Kills everything of all rounds of this campaign, for an end before its time.
pub(super) fn kill_campaign() {
    ENDING.store(true, Ordering::SeqCst);
    let prefix = tag("");
    // More than once, since an agent starts its server again and a task may fork.
    for _ in 0..20 {
        for process in matching(&|found| found.starts_with(&prefix)) {
            kill_if(process.pid, &|found| found.starts_with(&prefix));
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The tag of a round of this campaign.
pub(super) fn tag(round: impl std::fmt::Display) -> String {
    format!("{}-{round}", std::process::id())
}

fn matching(is_ours: &dyn Fn(&str) -> bool) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| tagged(Pid::from_raw(pid), is_ours))
        .collect()
}

/// The process, if it is alive and its tag is one of ours.
fn tagged(pid: Pid, is_ours: &dyn Fn(&str) -> bool) -> Option<Process> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut ours = false;
    let mut in_container = false;
    let mut run = None;
    for entry in environment.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(entry) else {
            continue;
        };
        match text.split_once('=') {
            Some((ROUND, value)) => ours = is_ours(value),
            Some((RUN, value)) => run = Some(value.to_owned()),
            Some((CONTAINER, _)) => in_container = true,
            _ => {}
        }
    }
    ours &= run.is_some() || !in_container;
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
    kill_if(pid, &|found| found == tag)
}

fn kill_if(pid: Pid, is_ours: &dyn Fn(&str) -> bool) -> bool {
    PidFd::open(pid)
        .is_ok_and(|fd| tagged(pid, is_ours).is_some() && fd.signal(nix::libc::SIGKILL).is_ok())
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
