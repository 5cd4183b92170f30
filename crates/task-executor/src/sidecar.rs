//! Sidecar mode: which process the main container is, and what a command needs to take its place.
//!
//! ```text
//! find ──► held by a pidfd ──► traits at each start ──► what the task asks for itself ──► Door
//!   ▲            │
//!   └── ended ◄──┘
//! ```

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use sandbox_api::{ExecMode, ProcessSpec, TaskSpec, Work};
use sandbox_sys::PidFd;
use task_shim::launch::{Job, Mode, Remote};

use crate::cgroups::Cgroups;
use crate::config::SidecarMode;

mod find;
mod privileges;
mod traits;

use find::{Found, Scan};
pub(crate) use privileges::Own;
use traits::Traits;

/// How long a search that found nothing stands: many tasks may wait for the same container.
const SEARCH_AGAIN: Duration = Duration::from_millis(50);

/// Why a command can't be run in the main container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absent {
    /// There is none, so far.
    NotFound(String),
    /// Several could be it.
    Ambiguous(String),
    /// The agent can't do that at all.
    Refused(String),
}

/// What a shim needs to start commands in the main container.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) pidfd: Arc<PidFd>,
    pub(crate) remote: Remote,
    /// What the command has to do without.
    pub(crate) warnings: Vec<String>,
}

/// The main container's process.
#[derive(Debug)]
struct Held {
    found: Found,
    pidfd: Arc<PidFd>,
    /// Its control groups, or why they can't be joined.
    cgroups: Result<Vec<PathBuf>, String>,
}

/// Sidecar mode, when it is on.
#[derive(Debug)]
pub(crate) struct Sidecar {
    name: String,
    scan: Scan,
    own: Own,
    held: Option<Held>,
    failed: Option<(Instant, Absent)>,
}

/// Where a command runs when sidecar mode is on.
pub(crate) fn mode(asked: Option<ExecMode>) -> Mode {
    match asked {
        Some(ExecMode::Local) => Mode::Local,
        Some(ExecMode::Remote) | None => Mode::Remote,
    }
}

/// The process of a task, if anything that this job starts of it runs in the main container.
fn remote_process(spec: &TaskSpec, job: Job) -> Option<&ProcessSpec> {
    let Work::Process(process) = &spec.work else {
        return None;
    };
    let lifecycle = process.lifecycle.as_ref();
    let post_stop = lifecycle.and_then(|l| l.post_stop.as_ref());
    let pre_start = lifecycle.and_then(|l| l.pre_start.as_ref());
    let of_hooks = |hook: Option<&sandbox_api::ExecHook>| hook.map(|hook| mode(hook.exec_mode));
    let modes = match job {
        Job::Run => [
            Some(mode(process.exec_mode)),
            of_hooks(pre_start),
            of_hooks(post_stop),
        ],
        Job::PostStop => [of_hooks(post_stop), None, None],
    };
    modes.contains(&Some(Mode::Remote)).then_some(process)
}

impl Sidecar {
    /// Looks at what this agent may do, and says in one line what it lacks.
    pub(crate) fn new(mode: &SidecarMode, data_dir: &Path, init: Option<Pid>) -> io::Result<Self> {
        let own = Own::current()?;
        let name = mode.main_container_name.clone();
        match own.needed_and_missing() {
            missing if missing.is_empty() => tracing::info!(container = name, "sidecar.ready"),
            missing => tracing::warn!(
                container = name,
                missing = missing.join(","),
                "sidecar.lacks_capabilities"
            ),
        }
        Ok(Self {
            scan: Scan::new(&name, data_dir, init)?,
            name,
            own,
            held: None,
            failed: None,
        })
    }

    /// The capabilities without which no task can be run in the main container.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.own.needed_and_missing()
    }

    /// Why a task can't be run here, whatever the main container may be.
    pub(crate) fn refusal(&self, spec: &TaskSpec) -> Option<String> {
        remote_process(spec, Job::Run)?;
        let missing = self.own.needed_and_missing();
        (!missing.is_empty()).then(|| privileges::lacking(&missing))
    }

    /// The way into the main container for what a job starts of a task; none if that all runs
    /// in the agent's own.
    pub(crate) fn door(
        &mut self,
        spec: &TaskSpec,
        job: Job,
        cgroups: &Cgroups,
    ) -> Result<Option<Door>, Absent> {
        let Some(process) = remote_process(spec, job) else {
            return Ok(None);
        };
        if let Some(refusal) = self.refusal(spec) {
            return Err(Absent::Refused(refusal));
        }
        self.hold(cgroups)?;
        let Some(held) = &self.held else {
            return Err(self.not_found());
        };
        let door = self.open(held, process);
        // What was read of a process that has ended may be another's.
        if held.pidfd.has_ended().unwrap_or(true) {
            return Err(self.not_found());
        }
        door.map(Some)
    }

    fn not_found(&self) -> Absent {
        Absent::NotFound(format!("main container {} has just ended", self.name))
    }

    /// Makes sure that a process is held, and that it lives.
    fn hold(&mut self, cgroups: &Cgroups) -> Result<(), Absent> {
        let lives = |held: &Held| held.pidfd.has_ended().is_ok_and(|ended| !ended);
        let held = self.held.take();
        let ended = held.as_ref().is_some_and(|held| !lives(held));
        let before = held.as_ref().map(|held| held.found);
        // One that was taken for want of another may have been joined by the right one since.
        if let Some(held) = held.filter(|held| !ended && held.found.marked) {
            self.held = Some(held);
            return Ok(());
        }
        if ended {
            tracing::info!("main_container.ended");
        }
        let recent = self.failed.take();
        if let Some((at, absent)) = recent.filter(|(at, _)| at.elapsed() < SEARCH_AGAIN) {
            self.failed = Some((at, absent.clone()));
            return Err(absent);
        }
        match self.search(cgroups) {
            Ok(held) => {
                if before != Some(held.found) {
                    tracing::info!(pid = held.found.pid.as_raw(), "main_container.found");
                }
                self.held = Some(held);
                Ok(())
            }
            Err(absent) => {
                self.failed = Some((Instant::now(), absent.clone()));
                Err(absent)
            }
        }
    }

    fn search(&self, cgroups: &Cgroups) -> Result<Held, Absent> {
        let found = self.scan.search()?;
        let pidfd = PidFd::open(found.pid).map_err(|_| self.not_found())?;
        let now = task_shim::proc::stat(found.pid).map(|stat| stat.start_ticks);
        if now != Some(found.start_ticks) {
            return Err(self.not_found());
        }
        Ok(Held {
            found,
            pidfd: Arc::new(pidfd),
            cgroups: cgroups.of_process(found.pid),
        })
    }

    fn open(&self, held: &Held, process: &ProcessSpec) -> Result<Door, Absent> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Absent::Refused(format!("the main container can't be looked at: {error}"))
            }
            _ => self.not_found(),
        };
        let namespaces = namespaces(held.found.pid).map_err(unreadable)?;
        if namespaces.user {
            return Err(Absent::Refused(
                "the main container has a user namespace of its own, which is not supported"
                    .to_owned(),
            ));
        }
        let mut traits = Traits::read(held.found.pid).map_err(unreadable)?;
        traits.take(process);
        let mut warnings = self.own.limit(&mut traits);
        let missing = self.own.missing_for(&traits);
        if !missing.is_empty() {
            return Err(Absent::Refused(privileges::lacking(&missing)));
        }
        let cgroups = match &held.cgroups {
            Ok(dirs) => dirs
                .iter()
                .map(|dir| dir.to_string_lossy().into_owned())
                .collect(),
            Err(why) => {
                warnings.push(format!(
                    "counts against the agent's control group, not the main container's: {why}"
                ));
                Vec::new()
            }
        };
        Ok(Door {
            pidfd: Arc::clone(&held.pidfd),
            remote: Remote {
                pid: held.found.pid.as_raw(),
                namespaces: namespaces.flags.bits(),
                pid_namespace: namespaces.pid,
                env: traits.env,
                user: traits.user,
                group: traits.group,
                groups: traits.groups,
                rlimits: traits.rlimits,
                umask: traits.umask,
                capabilities: traits.capabilities,
                no_new_privs: traits.no_new_privs,
                cgroups,
            },
            warnings,
        })
    }
}

/// The namespaces of a process that are not this one's.
struct Namespaces {
    flags: CloneFlags,
    pid: Option<u64>,
    user: bool,
}

fn namespaces(of: Pid) -> io::Result<Namespaces> {
    let inode = |of: &str, kind: &str| -> io::Result<u64> {
        Ok(std::fs::metadata(format!("/proc/{of}/ns/{kind}"))?.ino())
    };
    let pid = of.to_string();
    let other = |kind: &str| -> io::Result<Option<u64>> {
        let theirs = inode(&pid, kind)?;
        Ok((inode("self", kind)? != theirs).then_some(theirs))
    };
    let mut flags = CloneFlags::empty();
    for (kind, flag) in [
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("net", CloneFlags::CLONE_NEWNET),
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ] {
        if other(kind)?.is_some() {
            flags |= flag;
        }
    }
    Ok(Namespaces {
        flags,
        pid: other("pid")?,
        user: other("user")?.is_some(),
    })
}
