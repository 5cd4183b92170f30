//! Control groups (cgroups(7)), both versions: which are this process's own, groups for
//! tasks below them, their limits, their members and their end.
//!
//! ```text
//! OWN                            the group that the agent was started in, per controller on v1
//! OWN/task-executor-ID           all that one agent makes; ID is kept in its data directory
//! OWN/task-executor-ID/agent     v2: the agent itself, once limits were wanted
//! OWN/task-executor-ID/UID       one task
//! ```
//! What can't be had is said with its reason; nothing here fails a task.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

mod delegate;
pub mod find;
pub mod group;
pub mod limit;

pub use find::{Home, Homes};
pub use limit::Limits;

/// The controllers whose limits a task can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// CPU time per second.
    Cpu,
    /// Memory, swap included.
    Memory,
    /// Processes and threads.
    Pids,
}

impl Controller {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Pids];

    /// The kernel's name, which is also that of the limit.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }
}

/// The two kernel interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Why a limit can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Neither version has it.
    #[error("the kernel has no such controller")]
    NoController,
    /// The hierarchy is not to be seen here.
    #[error("its cgroup hierarchy is not mounted")]
    NotMounted,
    /// What is mounted does not contain the agent's own group.
    #[error("the agent's own cgroup is not below what is mounted at {0}")]
    Outside(PathBuf),
    /// The hierarchy can be read only.
    #[error("{0} is mounted read-only")]
    ReadOnly(PathBuf),
    /// v2: the parent does not pass the controller on.
    #[error("the controller is not delegated: it is not in {0}/cgroup.controllers")]
    NotDelegated(PathBuf),
    /// v2: a group with processes can't have children with limits, and these are not ours to move.
    #[error("{dir} has other processes in it, such as {pid}")]
    Occupied {
        /// The agent's own group.
        dir: PathBuf,
        /// One of them.
        pid: i32,
    },
    /// The kernel said no.
    #[error("{path}: {text}", text = .errno.desc())]
    System {
        /// The file or directory in question.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
}

impl Unavailable {
    fn system(path: &Path, error: &io::Error) -> Self {
        match error.raw_os_error().map_or(Errno::EIO, Errno::from_raw) {
            Errno::EROFS => Self::ReadOnly(path.parent().unwrap_or(path).to_owned()),
            errno => Self::System {
                path: path.to_owned(),
                errno,
            },
        }
    }
}

/// A limit that a task runs without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which one.
    pub controller: Controller,
    /// Why.
    pub why: Unavailable,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.controller.as_str();
        write!(f, "resources.limits.{name} is not enforced: {}", self.why)
    }
}

/// The groups of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Directories that its processes join.
    pub dirs: Vec<PathBuf>,
    /// Files that count out-of-memory kills, and what they say now.
    pub oom_counters: Vec<(PathBuf, u64)>,
    /// Limits that could not be had.
    pub missing: Vec<Missing>,
}

/// Makes the groups of a task, named `top`/`uid` below the agent's own, and sets their limits.
/// Groups that are there already, from a start that came to nothing, are used again.
pub fn make(homes: &Homes, top: &str, uid: &str, limits: &Limits) -> Made {
    let mut made = Made::default();
    for controller in Controller::ALL {
        let Some(value) = limits.of(controller) else {
            continue;
        };
        let group = homes
            .of(controller)
            .and_then(|home| limited(home, top, uid, controller, value));
        match group {
            Ok(dir) => {
                made.note_oom_counter(controller, &dir);
                // On v2, and on v1 where controllers are mounted together, one group has several.
                if !made.dirs.contains(&dir) {
                    made.dirs.push(dir);
                }
            }
            Err(why) => made.missing.push(Missing { controller, why }),
        }
    }
    made
}

impl Made {
    fn note_oom_counter(&mut self, controller: Controller, dir: &Path) {
        if controller != Controller::Memory {
            return;
        }
        for name in ["memory.events", "memory.oom_control"] {
            let path = dir.join(name);
            if let Some(before) = group::oom_kills(&path) {
                self.oom_counters.push((path, before));
            }
        }
    }
}

fn limited(
    home: &Home,
    top: &str,
    uid: &str,
    controller: Controller,
    value: u64,
) -> Result<PathBuf, Unavailable> {
    let top = home.dir.join(top);
    make_dir(&top)?;
    if home.version == Version::V2 {
        delegate::enable(&home.dir, &top, controller.as_str())?;
    }
    let dir = top.join(uid);
    let fresh = make_dir(&dir)?;
    let set = limit::set(home.version, &dir, controller, value);
    if set.is_err() && fresh {
        // Empty, so it can't be refused; if it were, it is found when the task is removed.
        let _ = fs::remove_dir(&dir);
    }
    set.map(|()| dir)
}

/// Makes a directory if it is not there. Says whether it is new.
fn make_dir(dir: &Path) -> Result<bool, Unavailable> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Unavailable::system(dir, &error)),
    }
}

/// Writes to a file of the kernel's. Unlike [`fs::write`] it never makes one.
fn put(path: &Path, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

#[cfg(test)]
mod tests;
