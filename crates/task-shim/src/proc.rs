//! Reading `/proc`: who a process is, and who descends from whom (proc(5)).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;
use sandbox_sys::PidFd;

use crate::record::Identity;

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Process state letter; `Z` is a zombie, `X` is dead.
    pub state: u8,
    /// Parent.
    pub parent: i32,
    /// Session.
    pub session: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Whether the process has ended and only waits to be reaped.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Parses a line of `/proc/PID/stat`. The command name may hold anything, brackets and
/// blanks included, so fields are counted from the last `)`.
pub fn parse_stat(line: &[u8]) -> Option<Stat> {
    let close = line.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(line.get(close + 2..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        session,
        start_ticks,
    })
}

/// Reads `/proc/PID/stat`. `None` when there is no such process (any more).
pub fn stat(pid: Pid) -> Option<Stat> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// This boot and this PID namespace: the scope in which a pid and start time mean something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Inode of `/proc/self/ns/pid`.
    pub pid_namespace: u64,
}

impl Scope {
    /// The scope of this process.
    pub fn current() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        let pid_namespace = fs::metadata("/proc/self/ns/pid")?.ino();
        Ok(Self {
            boot,
            pid_namespace,
        })
    }

    /// The identity of a live process in this scope.
    pub fn identify(&self, pid: Pid) -> Option<Identity> {
        let start_ticks = stat(pid)?.start_ticks;
        Some(Identity {
            boot: self.boot.clone(),
            pid_namespace: self.pid_namespace,
            pid: pid.as_raw(),
            start_ticks,
        })
    }

    /// Whether pids of `identity` can be looked up here at all.
    pub fn covers(&self, identity: &Identity) -> bool {
        self.boot == identity.boot && self.pid_namespace == identity.pid_namespace
    }

    /// A pidfd on exactly that process, if it is still alive. The start time is compared
    /// after the pidfd was opened, so a pid that was reused in between is found out.
    pub fn open(&self, identity: &Identity) -> Option<PidFd> {
        if !self.covers(identity) {
            return None;
        }
        let pid = Pid::from_raw(identity.pid);
        let fd = PidFd::open(pid).ok()?;
        let stat = stat(pid)?;
        (stat.start_ticks == identity.start_ticks && !stat.is_dead()).then_some(fd)
    }
}

/// Direct children of a process, those of all its threads.
fn children(pid: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("children");
        let Ok(list) = fs::read_to_string(path) else {
            continue;
        };
        found.extend(
            list.split_ascii_whitespace()
                .filter_map(|p| p.parse().ok())
                .map(Pid::from_raw),
        );
    }
    Ok(found)
}

/// Whether the kernel lists children (`CONFIG_PROC_CHILDREN`; gVisor, for one, does not).
fn kernel_lists_children() -> bool {
    fs::exists("/proc/thread-self/children").unwrap_or(false)
}

/// Every process that descends from `root`, without `root`, and with the parent it was seen under.
pub fn descendants(root: Pid) -> Vec<(Pid, Pid)> {
    if kernel_lists_children() {
        by_children(root)
    } else {
        by_parents(root)
    }
}

fn by_children(root: Pid) -> Vec<(Pid, Pid)> {
    let mut seen = BTreeSet::from([root]);
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for child in children(parent).unwrap_or_default() {
            if seen.insert(child) {
                found.push((child, parent));
                open.push(child);
            }
        }
    }
    found
}

fn by_parents(root: Pid) -> Vec<(Pid, Pid)> {
    let all = processes();
    let mut inside = BTreeSet::from([root.as_raw()]);
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for (pid, stat) in &all {
            if inside.contains(&stat.parent) && inside.insert(pid.as_raw()) {
                found.push((*pid, Pid::from_raw(stat.parent)));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Whether nothing lives in a PID namespace, as far as can be seen.
pub(crate) fn is_pid_namespace_empty(inode: u64) -> bool {
    let inside = |pid: Pid| {
        fs::metadata(format!("/proc/{pid}/ns/pid")).is_ok_and(|namespace| namespace.ino() == inode)
    };
    let mut all = processes().into_iter();
    !all.any(|(pid, stat)| !stat.is_dead() && inside(pid))
}

/// Every process that can be seen.
pub fn processes() -> Vec<(Pid, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_name_with_brackets_and_blanks_is_no_obstacle() {
        let line = b"42 (a) (b c) S 7 42 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876543 0 0";
        let expected = Stat {
            state: b'S',
            parent: 7,
            session: 40,
            start_ticks: 9_876_543,
        };
        assert_eq!(parse_stat(line), Some(expected));
    }

    #[test]
    fn a_short_line_is_none() {
        assert_eq!(parse_stat(b"42 (sh) S 7"), None);
        assert_eq!(parse_stat(b""), None);
        assert_eq!(parse_stat(b"42 (sh)"), None);
    }

    #[test]
    fn this_process_is_found_and_its_identity_opens() {
        let scope = Scope::current().expect("proc is there");
        let me = scope
            .identify(nix::unistd::getpid())
            .expect("this process exists");
        assert!(scope.open(&me).is_some());
        let other_start = Identity {
            start_ticks: me.start_ticks + 1,
            ..me.clone()
        };
        assert!(
            scope.open(&other_start).is_none(),
            "a reused pid is not taken for the process"
        );
        let other_boot = Identity {
            boot: "another".to_owned(),
            ..me
        };
        assert!(scope.open(&other_boot).is_none());
    }

    #[test]
    fn both_ways_to_find_descendants_agree() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("fits"));
        let me = nix::unistd::getpid();
        assert!(by_children(me).contains(&(pid, me)));
        assert!(by_parents(me).contains(&(pid, me)));
        child.kill().expect("is killed");
        child.wait().expect("is reaped");
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_stat(&line);
        }
    }
}
