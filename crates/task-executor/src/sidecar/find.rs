//! Which process is the main container's: looks at all of them, then chooses by rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, getpid};
use task_shim::proc;

use super::Absent;

/// The variable whose value is the name of the container that a process belongs to.
const MARK: &str = "SANDBOX_MAIN_CONTAINER";
/// Inode of the host's PID namespace (`PROC_PID_INIT_INO` of the kernel): there, processes of
/// other Pods are seen too.
const HOST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Processes that a message names.
const NAMED_MAX: usize = 4;

/// What a process is to this agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The server, launcher, a shim or a relay of any agent: what is below belongs to tasks.
    Agent,
    /// The agent's init, or something that works in its data directory.
    Own,
    /// Of another Pod, or of the kernel.
    Foreign,
    /// Any other.
    Other,
}

/// One process.
#[derive(Debug, Clone, Copy)]
struct Seen {
    pid: i32,
    parent: i32,
    start_ticks: u64,
    kind: Kind,
    /// Whether its environment names the main container.
    marked: bool,
    /// Its mount namespace, if that could be told.
    mount: Option<u64>,
    /// Whether it counts when nothing is marked.
    near: bool,
}

/// The chosen process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pid: Pid,
    pub(super) start_ticks: u64,
    /// Whether it says itself that it is the main container's: then no other one can be.
    pub(super) marked: bool,
}

/// Which processes are of the same Pod, as far as nothing else tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    /// All that can be seen.
    All,
    /// Those in this network namespace.
    Network(u64),
    /// That can't be told.
    Unknown,
}

/// How to look for the main container.
#[derive(Debug)]
pub(super) struct Scan {
    name: String,
    data_dir: PathBuf,
    init: Option<Pid>,
    /// Mount namespace of this process.
    mount: u64,
    near: Near,
    pod: Option<String>,
}

fn inode(pid: &str, kind: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/{kind}"))?.ino())
}

impl Scan {
    pub(super) fn new(name: &str, data_dir: &Path, init: Option<Pid>) -> io::Result<Self> {
        let network = inode("self", "net")?;
        let near = if inode("self", "pid")? != HOST_PID_NAMESPACE {
            Near::All
        } else if inode("1", "net").is_ok_and(|host| host != network) {
            Near::Network(network)
        } else {
            Near::Unknown
        };
        Ok(Self {
            name: name.to_owned(),
            data_dir: data_dir.to_owned(),
            init,
            mount: inode("self", "mnt")?,
            near,
            pod: pod(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()),
        })
    }

    pub(super) fn search(&self) -> Result<Found, Absent> {
        let live = proc::processes()
            .into_iter()
            .filter(|(_, stat)| !stat.is_dead());
        let all: Vec<_> = live.map(|(pid, stat)| self.look(pid, stat)).collect();
        choose(&all, self.mount, &self.name)
    }

    fn look(&self, pid: Pid, stat: proc::Stat) -> Seen {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mark = format!("{MARK}={}", self.name).into_bytes();
        let marked = environ.split(|byte| *byte == 0).any(|entry| entry == mark);
        let network = |network| inode(&pid.to_string(), "net").is_ok_and(|net| net == network);
        Seen {
            pid: pid.as_raw(),
            parent: stat.parent,
            start_ticks: stat.start_ticks,
            kind: self.kind(pid, marked),
            marked,
            mount: inode(&pid.to_string(), "mnt").ok(),
            near: match self.near {
                Near::All => true,
                Near::Network(own) => network(own),
                Near::Unknown => false,
            },
        }
    }

    fn kind(&self, pid: Pid, marked: bool) -> Kind {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let role = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let roles = [task_shim::SHIM_ROLE, task_shim::SERVER_ROLE];
        if pid == getpid() || roles.iter().any(|name| name.as_bytes() == role) {
            return Kind::Agent;
        }
        // A thread of the kernel. One of them has a mount namespace of its own.
        if line.is_empty() {
            return Kind::Foreign;
        }
        // A process of a task may have been let loose, with the environment that it was given.
        if Some(pid) == self.init || (marked && self.works_here(pid)) {
            return Kind::Own;
        }
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if is_foreign(self.pod.as_deref(), &group) {
            return Kind::Foreign;
        }
        Kind::Other
    }

    fn works_here(&self, pid: Pid) -> bool {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        let mut targets = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        targets.any(|target| target.starts_with(&self.data_dir))
    }
}

/// The Pod's uid in the path of a control group, as the kubelet makes these: `pod` and a UUID,
/// with underscores under systemd.
fn pod(cgroup: &str) -> Option<String> {
    cgroup.lines().find_map(|line| {
        line.match_indices("pod").find_map(|(at, _)| {
            let uid = line.get(at + 3..at + 39)?.replace('_', "-");
            let has_form = uid.char_indices().all(|(at, c)| match at {
                8 | 13 | 18 | 23 => c == '-',
                _ => c.is_ascii_hexdigit(),
            });
            has_form.then_some(uid)
        })
    })
}

/// Whether a process with this `/proc/PID/cgroup` is of another Pod than `own`. In a cgroup
/// namespace the own Pod is not named, nor is it in the paths of its other containers.
fn is_foreign(own: Option<&str>, cgroup: &str) -> bool {
    let theirs = pod(cgroup);
    let outside = cgroup.lines().any(|line| line.contains(":/.."));
    match (own, theirs) {
        (Some(own), Some(theirs)) => own != theirs,
        (None, Some(_)) => outside,
        (_, None) => false,
    }
}

fn oldest<'a>(of: impl Iterator<Item = &'a Seen>) -> Option<&'a Seen> {
    of.min_by_key(|seen| (seen.start_ticks, seen.pid))
}

fn choose(all: &[Seen], own_mount: u64, name: &str) -> Result<Found, Absent> {
    let by_pid: BTreeMap<_, _> = all.iter().map(|seen| (seen.pid, seen)).collect();
    // A chain of parents can't be longer than there are processes, even if it was read torn.
    let is_of_a_task = |seen: &Seen| {
        std::iter::successors(Some(seen), |seen| by_pid.get(&seen.parent).copied())
            .take(all.len())
            .any(|seen| seen.kind == Kind::Agent)
    };
    let others = || {
        all.iter()
            .filter(|seen| seen.kind == Kind::Other)
            .filter(|seen| !is_of_a_task(seen))
    };
    let found = |seen: &Seen| Found {
        pid: Pid::from_raw(seen.pid),
        start_ticks: seen.start_ticks,
        marked: seen.marked,
    };
    if let Some(marked) = oldest(others().filter(|seen| seen.marked)) {
        return Ok(found(marked));
    }
    // PID 1 is the pause container, or whatever runs the machine.
    let first = by_pid.get(&1).and_then(|seen| seen.mount);
    let containers: BTreeSet<_> = others()
        .filter(|seen| seen.near)
        .filter_map(|seen| seen.mount)
        .filter(|mount| *mount != own_mount && Some(*mount) != first)
        .collect();
    let first_of = |mount: &u64| oldest(others().filter(|seen| seen.mount == Some(*mount)));
    let firsts: Vec<_> = containers.iter().filter_map(first_of).collect();
    match firsts[..] {
        [] => Err(Absent::NotFound(format!(
            "no process has {MARK}={name} in its environment, and there is no other container"
        ))),
        [only] => Ok(found(only)),
        [..] => {
            let named = firsts.iter().take(NAMED_MAX);
            let pids: Vec<_> = named.map(|seen| seen.pid.to_string()).collect();
            Err(Absent::Ambiguous(format!(
                "no process has {MARK}={name} in its environment, and there are {} other \
                 containers, with processes such as {}",
                firsts.len(),
                pids.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests;
