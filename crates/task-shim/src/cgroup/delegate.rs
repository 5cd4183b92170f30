//! v2: passing controllers on to the groups of tasks.
//!
//! A group that passes controllers on must not have processes of its own (the kernel's
//! "no internal processes" rule), the root of the whole hierarchy excepted. So the agent
//! moves itself, and what it has started, into a leaf before it does so; only once, and
//! only when a limit is wanted. What is not ours is not moved.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Pid, getpid, getppid};

use super::{Unavailable, group, make_dir, put};
use crate::proc;

/// The leaf that the agent moves to, in its own directory.
pub(super) const LEAF: &str = "agent";
/// The file that says which controllers are passed on.
pub(super) const SUBTREE: &str = "cgroup.subtree_control";

/// Passes over the processes to move: one that forks meanwhile is caught by the next.
const PASSES: u32 = 8;

/// Whether the parent passed a controller on to this group.
pub(super) fn offered(dir: &Path, name: &str) -> Result<(), Unavailable> {
    if lists(&dir.join("cgroup.controllers"), name)? {
        Ok(())
    } else {
        Err(Unavailable::NotDelegated(dir.to_owned()))
    }
}

/// Passes a controller on from `home` by way of `top` to the groups below it.
pub(super) fn enable(home: &Path, top: &Path, name: &str) -> Result<(), Unavailable> {
    offered(home, name)?;
    match pass_on(home, name) {
        Err(Unavailable::System {
            errno: Errno::EBUSY,
            ..
        }) => {
            make_room(home, &top.join(LEAF))?;
            pass_on(home, name)?;
        }
        other => other?,
    }
    pass_on(top, name)
}

fn pass_on(dir: &Path, name: &str) -> Result<(), Unavailable> {
    let file = dir.join(SUBTREE);
    if lists(&file, name)? {
        return Ok(());
    }
    put(&file, &format!("+{name}")).map_err(|error| Unavailable::system(&file, &error))
}

fn lists(file: &Path, name: &str) -> Result<bool, Unavailable> {
    let text = fs::read_to_string(file).map_err(|error| Unavailable::system(file, &error))?;
    Ok(text.split_ascii_whitespace().any(|word| word == name))
}

/// Moves the agent out of its own group, with all that descends from it.
fn make_room(home: &Path, leaf: &Path) -> Result<(), Unavailable> {
    make_dir(leaf)?;
    let target = leaf.join(group::PROCS);
    for _ in 0..PASSES {
        let inside = group::direct_members(home);
        let family = family();
        let (ours, others): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|pid| family.contains(pid));
        if let Some(pid) = others.first() {
            return Err(Unavailable::Occupied {
                dir: home.to_owned(),
                pid: pid.as_raw(),
            });
        }
        if ours.is_empty() {
            return Ok(());
        }
        for pid in ours {
            match put(&target, &pid.to_string()) {
                Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
                    return Err(Unavailable::system(&target, &error));
                }
                // Moved, or it has ended since.
                _ => {}
            }
        }
    }
    Ok(())
}

/// This process, its init if that is its parent, and all that descends from them.
fn family() -> Vec<Pid> {
    let root = if same_program(getppid()).unwrap_or(false) {
        getppid()
    } else {
        getpid()
    };
    let descendants = proc::descendants(root).into_iter().map(|(pid, _)| pid);
    descendants.chain([root]).collect()
}

fn same_program(pid: Pid) -> io::Result<bool> {
    let file = |exe: String| fs::metadata(exe).map(|data| (data.dev(), data.ino()));
    Ok(file(format!("/proc/{pid}/exe"))? == file("/proc/self/exe".to_owned())?)
}
