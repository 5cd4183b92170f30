//! Who descends from whom, read from `/proc`; only where a fault needs it.

use std::collections::HashMap;
use std::fs;

use nix::unistd::Pid;

/// The children of a process that call themselves so and have not ended.
pub(super) fn children_named(parent: u32, name: &str) -> Vec<Pid> {
    let is_named = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).next() == Some(name.as_bytes())
    };
    let children = living().remove(&i64::from(parent)).unwrap_or_default();
    children
        .into_iter()
        .filter(is_named)
        .map(Pid::from_raw)
        .collect()
}

/// All descendants of a process that have not ended.
pub(super) fn descendants(ancestor: u32) -> Vec<Pid> {
    let mut children = living();
    let mut found = Vec::new();
    let mut to_visit = vec![i64::from(ancestor)];
    while let Some(parent) = to_visit.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            to_visit.push(i64::from(child));
            found.push(Pid::from_raw(child));
        }
    }
    found
}

/// All processes that have not ended, by their parents.
fn living() -> HashMap<i64, Vec<i32>> {
    let mut children: HashMap<i64, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: the state and the parent.
        let mut fields = stat
            .rsplit_once(')')
            .unwrap_or_default()
            .1
            .split_ascii_whitespace();
        let (state, parent) = (
            fields.next(),
            fields.next().and_then(|parent| parent.parse().ok()),
        );
        if let (Some(pid), Some(parent), Some(state)) = (pid, parent, state)
            && !matches!(state, "Z" | "X")
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}
