//! Control groups that tasks of a round were seen in, to check that none is left behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

/// The directories of the groups that a process is in and this program is not.
pub(super) fn own_groups(pid: Pid) -> BTreeSet<PathBuf> {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let mounts = read("/proc/self/mountinfo".to_owned());
    let ours = read("/proc/self/cgroup".to_owned());
    let theirs = read(format!("/proc/{pid}/cgroup"));
    groups(&mounts, &ours, &theirs)
}

fn groups(mounts: &str, ours: &str, theirs: &str) -> BTreeSet<PathBuf> {
    theirs
        .lines()
        .filter(|line| !ours.lines().any(|our| our == *line))
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, group) = (parts.next()?, parts.next()?);
            // A process that is about to end is shown in the root of a version 1 hierarchy.
            (group != "/").then(|| directory(mounts, controllers, group))?
        })
        .collect()
}

/// Where a group shows in the file system: `controllers` is empty for version 2.
fn directory(mounts: &str, controllers: &str, group: &str) -> Option<PathBuf> {
    let is_wanted = |line: &&str| {
        let Some((_, after)) = line.split_once(" - ") else {
            return false;
        };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        match kind {
            Some("cgroup2") => controllers.is_empty(),
            Some("cgroup") => {
                let has = |wanted: &str| options.split(',').any(|option| option == wanted);
                !controllers.is_empty() && controllers.split(',').all(has)
            }
            _ => false,
        }
    };
    let line = mounts.lines().find(is_wanted)?;
    let mut fields = line.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let below = group.strip_prefix(root.trim_end_matches('/'))?;
    Some(Path::new(point).join(below.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let mounts = "30 2 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      31 2 0:27 /pod /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let theirs = "5:pids:/agent/t\n4:pids:/same\n0::/pod/task-1\n";
        let expected = [
            "/sys/fs/cgroup/pids/agent/t",
            "/sys/fs/cgroup/unified/task-1",
        ];
        let found = groups(mounts, "4:pids:/same\n", theirs);
        assert_eq!(found, expected.map(PathBuf::from).into());
    }
}
